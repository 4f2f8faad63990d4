import {
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rm,
  symlink,
  truncate,
  writeFile,
} from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import {
  openSafetensors,
  writeSafetensors,
  type SafetensorsDType,
  type TensorArray,
} from '@kinora/safetensors'

/** tiny-wan's checkpoint: real, small, F16. */
export const tinyWan = fileURLToPath(new URL('../../tiny-wan/checkpoint', import.meta.url))

export interface StoredTensor {
  dtype: SafetensorsDType
  shape: readonly number[]
  data: TensorArray
}

/** tiny-wan in a temporary folder, to be damaged. Unchanged files are links. */
export class CopiedCheckpoint implements AsyncDisposable {
  readonly dir: string

  private constructor(dir: string) {
    this.dir = dir
  }

  static async make(): Promise<CopiedCheckpoint> {
    const dir = await mkdtemp(join(tmpdir(), 'kinora-checkpoint-'))
    for (const entry of await readdir(tinyWan, { recursive: true, withFileTypes: true })) {
      if (!entry.isFile()) continue
      const target = join(dir, entry.parentPath.slice(tinyWan.length), entry.name)
      await mkdir(dirname(target), { recursive: true })
      await symlink(join(entry.parentPath, entry.name), target)
    }
    return new CopiedCheckpoint(dir)
  }

  path(file: string): string {
    return join(this.dir, file)
  }

  async write(file: string, data: string | Uint8Array): Promise<void> {
    await this.remove(file)
    await mkdir(dirname(this.path(file)), { recursive: true })
    await writeFile(this.path(file), data)
  }

  /** Changes keys of a JSON file; `undefined` removes one. */
  async json(file: string, changes: Record<string, unknown>): Promise<void> {
    const value = JSON.parse(await readFile(this.path(file), 'utf8')) as object
    await this.write(file, JSON.stringify({ ...value, ...changes }))
  }

  async remove(file: string): Promise<void> {
    await rm(this.path(file), { force: true, recursive: true })
  }

  /** Cuts a file to so many bytes less. */
  async cut(file: string, bytes: number): Promise<void> {
    const data = await readFile(this.path(file))
    await this.write(file, data)
    await truncate(this.path(file), data.length - bytes)
  }

  async readTensors(file: string): Promise<Map<string, StoredTensor>> {
    await using opened = await openSafetensors(this.path(file))
    const tensors = new Map<string, StoredTensor>()
    for (const [name, { dtype, shape }] of opened.tensors) {
      tensors.set(name, { dtype, shape, data: await opened.read(name) })
    }
    return tensors
  }

  async writeTensors(file: string, tensors: ReadonlyMap<string, StoredTensor>): Promise<void> {
    await this.remove(file)
    await writeSafetensors(
      this.path(file),
      [...tensors].map(([name, tensor]) => ({ name, ...tensor })),
    )
  }

  /** Rewrites a safetensors file after a change of its tensors. */
  async tensors(file: string, change: (tensors: Map<string, StoredTensor>) => void): Promise<void> {
    const tensors = await this.readTensors(file)
    change(tensors)
    await this.writeTensors(file, tensors)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.dir, { recursive: true, force: true })
  }
}
