import { readFile, readdir, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import type { Expert } from '@kinora/lora-files'
import { openSafetensors, type SafetensorsDType } from '@kinora/safetensors'
import { codeSystemError } from '@kinora/stage'
import { exporterErrors } from './errors.ts'
import { describeBaseKeys, expertFolders, type BaseKeys } from './key-maps/base-keys.ts'

/** A tensor of a base model, as its header tells it. */
export interface BaseTensor {
  file: string
  key: string
  shape: readonly number[]
  dtype: SafetensorsDType
}

/** One expert's weights on disk. */
export interface BaseExpert extends Pick<BaseKeys, 'naming' | 'hasImageBranch' | 'isScaled'> {
  /** Where it was found: a folder or a file. */
  path: string
  /** Shards, sorted. */
  files: readonly string[]
  /** The index that maps tensors to shards, where there is one. */
  indexFile: string | null
  /** By key, all of them. */
  tensors: ReadonlyMap<string, BaseTensor>
  /** Weights of linears by their diffusers module name. */
  linears: ReadonlyMap<string, BaseTensor>
  /** 36 for image to video, 16 for text to video; undefined where there is no patch embedding. */
  inChannels: number | undefined
}

/** Which experts a path holds: a checkpoint folder names them, a transformer folder or file is one of them. */
export async function expertsAt(path: string): Promise<readonly Expert[] | 'one'> {
  const entries = await listFolder(path)
  if (entries === undefined) return 'one'
  const found = (['high', 'low'] as const).filter((expert) =>
    entries.includes(expertFolders[expert]),
  )
  return found.length === 0 ? 'one' : found
}

/**
 * Reads the headers of one expert of a base model.
 *
 * @param path a checkpoint in the diffusers layout, a folder of shards, or a single file
 * @param expert which one of a checkpoint that holds both
 */
export async function readBaseExpert(
  path: string,
  expert: Expert | undefined,
): Promise<BaseExpert> {
  const entries = await listFolder(path)
  if (entries === undefined) return readShards(path, [path], null)
  const experts = (['high', 'low'] as const).filter((name) => entries.includes(expertFolders[name]))
  if (experts.length > 0) {
    const wanted = expert ?? (experts.length === 1 ? experts[0] : undefined)
    if (wanted === undefined) throw exporterErrors.BASE_EXPERT_NEEDED(path)
    if (!experts.includes(wanted)) {
      throw exporterErrors.BASE_NO_EXPERT(path, expertFolders[wanted])
    }
    return readBaseExpert(join(path, expertFolders[wanted]), undefined)
  }
  const index = entries.find((name) => name.endsWith('.safetensors.index.json'))
  const shards = entries.filter((name) => name.endsWith('.safetensors') && !name.startsWith('.'))
  if (shards.length === 0) throw exporterErrors.NO_BASE(path)
  return readShards(
    path,
    shards.toSorted().map((name) => join(path, name)),
    index === undefined ? null : join(path, index),
  )
}

async function listFolder(path: string): Promise<string[] | undefined> {
  try {
    return (await stat(path)).isDirectory() ? await readdir(path) : undefined
  } catch (error) {
    throw codeSystemError(error, path)
  }
}

async function readShards(
  path: string,
  shards: readonly string[],
  indexFile: string | null,
): Promise<BaseExpert> {
  const wanted = indexFile === null ? undefined : await readIndex(indexFile)
  const files =
    wanted === undefined
      ? shards
      : [...new Set(wanted.values())].toSorted().map((name) => join(dirname(indexFile!), name))
  const tensors = new Map<string, BaseTensor>()
  for (const file of files) {
    await using open = await openSafetensors(file)
    for (const [key, { shape, dtype }] of open.tensors) {
      if (tensors.has(key))
        throw exporterErrors.BASE_BAD_INDEX(file, `repeats ${key} of another shard`)
      tensors.set(key, { file, key, shape, dtype })
    }
  }
  for (const key of wanted?.keys() ?? []) {
    if (!tensors.has(key))
      throw exporterErrors.BASE_BAD_INDEX(indexFile!, `names ${key}, which is in no shard`)
  }
  const keys = describeBaseKeys([...tensors.keys()])
  if (keys === undefined) throw exporterErrors.NO_BASE(path)
  const linears = new Map<string, BaseTensor>()
  for (const [key, tensor] of tensors) {
    const module = tensor.shape.length === 2 ? keys.linearOf(key) : undefined
    if (module !== undefined) linears.set(module, tensor)
  }
  const { naming, hasImageBranch, isScaled, patchEmbedding } = keys
  return {
    path,
    naming,
    files,
    indexFile,
    tensors,
    linears,
    inChannels: tensors.get(patchEmbedding)?.shape[1],
    hasImageBranch,
    isScaled,
  }
}

async function readIndex(file: string): Promise<Map<string, string>> {
  let index: unknown
  try {
    index = JSON.parse(await readFile(file, 'utf8'))
  } catch (error) {
    if (error instanceof SyntaxError)
      throw exporterErrors.BASE_BAD_INDEX(file, 'is not JSON', { cause: error })
    throw codeSystemError(error, file)
  }
  const map = (index as { weight_map?: unknown } | null)?.weight_map
  if (typeof map !== 'object' || map === null)
    throw exporterErrors.BASE_BAD_INDEX(file, 'has no weight_map')
  const entries = Object.entries(map)
  for (const [key, shard] of entries) {
    // A shard is a file beside its index, never a path.
    if (typeof shard !== 'string' || !/^[^/\\]+\.safetensors$/.test(shard)) {
      throw exporterErrors.BASE_BAD_INDEX(file, `maps ${key} to ${JSON.stringify(shard)}`)
    }
  }
  return new Map(entries as [string, string][])
}
