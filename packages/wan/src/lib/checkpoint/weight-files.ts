import { access, readFile, readdir } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { openSafetensors, SafetensorsError, type SafetensorsFile } from '@kinora/safetensors'
import { checkpointErrors } from '../errors.ts'
import { canPack } from '../quantize/schemes.ts'
import { packedTensors, readPacking, type Packing } from '../quantize/packing.ts'
import type { TensorTable } from './tensor-table.ts'

/** The open safetensors files of one network: one file, or shards. */
export interface WeightFiles extends AsyncDisposable {
  readonly folder: string
  readonly files: readonly SafetensorsFile[]
  /** Which file holds a tensor. */
  readonly byTensor: ReadonlyMap<string, SafetensorsFile>
  close(): Promise<void>
}

interface ShardIndex {
  weight_map: Record<string, string>
}

/**
 * Opens the weights in a folder: `<stem>.safetensors`, or the shards that `<stem>.safetensors.index.json` names.
 * Reads headers only.
 *
 * @param stem `diffusion_pytorch_model` for what diffusers saves, `model` for what transformers saves
 */
export async function openWeightFiles(folder: string, stem: string): Promise<WeightFiles> {
  const index = join(folder, `${stem}.safetensors.index.json`)
  const single = join(folder, `${stem}.safetensors`)
  if (await exists(index)) return openShards(folder, index, await readIndex(index))
  if (await exists(single)) return gather(folder, [await openFile(single)])
  const pickles = (await readdir(folder).catch(() => [])).filter((name) =>
    /\.(bin|pt|pth|ckpt|gguf)$/.test(name),
  )
  throw checkpointErrors.MISSING_FILE(
    single,
    pickles.length > 0
      ? `the weights (${pickles[0]} beside it is of a format that is not read)`
      : 'the weights, or an index of their shards',
  )
}

/** Opens one safetensors file; what is wrong with it is a checkpoint error that names it. */
export async function openFile(file: string): Promise<SafetensorsFile> {
  try {
    return await openSafetensors(file)
  } catch (cause) {
    if (cause instanceof SafetensorsError) {
      throw checkpointErrors.BAD_FILE(file, cause.message, cause.fix, { cause })
    }
    throw cause
  }
}

async function openShards(
  folder: string,
  index: string,
  { weight_map }: ShardIndex,
): Promise<WeightFiles> {
  const files: SafetensorsFile[] = []
  try {
    for (const shard of new Set(Object.values(weight_map))) {
      if (basename(shard) !== shard) {
        throw checkpointErrors.BAD_INDEX(index, `it names a shard outside its folder, ${shard}`)
      }
      const path = join(folder, shard)
      if (!(await exists(path))) {
        throw checkpointErrors.MISSING_FILE(path, `a shard that ${index} names`)
      }
      files.push(await openFile(path))
    }
    const weights = gather(folder, files)
    for (const [name, shard] of Object.entries(weight_map)) {
      const found = weights.byTensor.get(name)
      if (!found || basename(found.file) !== shard) {
        throw checkpointErrors.BAD_INDEX(
          index,
          `it says that ${shard} holds ${name}, ${found ? `which is in ${basename(found.file)}` : 'which no shard has'}`,
        )
      }
    }
    return weights
  } catch (error) {
    await Promise.all(files.map((file) => file.close()))
    throw error
  }
}

async function readIndex(index: string): Promise<ShardIndex> {
  let parsed: unknown
  try {
    parsed = JSON.parse(await readFile(index, 'utf8'))
  } catch (cause) {
    throw checkpointErrors.BAD_INDEX(index, `it is not valid JSON: ${(cause as Error).message}`, {
      cause,
    })
  }
  const map = (parsed as Partial<ShardIndex> | null)?.weight_map
  if (
    typeof map !== 'object' ||
    map === null ||
    !Object.values(map).every((shard) => typeof shard === 'string')
  ) {
    throw checkpointErrors.BAD_INDEX(index, 'it has no weight_map of tensor names to file names')
  }
  return { weight_map: map }
}

function gather(folder: string, files: readonly SafetensorsFile[]): WeightFiles {
  const byTensor = new Map<string, SafetensorsFile>()
  for (const file of files) {
    for (const name of file.tensors.keys()) {
      const other = byTensor.get(name)
      if (other) {
        throw checkpointErrors.BAD_INDEX(
          file.file,
          `tensor ${name} is in ${basename(other.file)} too`,
        )
      }
      byTensor.set(name, file)
    }
  }
  const close = async () => {
    await Promise.all(files.map((file) => file.close()))
  }
  return { folder, files, byTensor, close, [Symbol.asyncDispose]: close }
}

const readableDTypes = new Set(['F32', 'F16', 'BF16'])

/** How the weights of a network are packed; undefined where none is. */
export function packingOf({ files }: Pick<WeightFiles, 'files'>): Packing | undefined {
  for (const { file, metadata } of files) {
    const packing = readPacking(metadata, file)
    if (packing) return packing
  }
  return undefined
}

/**
 * Compares the headers of a network's files with the tensors its architecture has. Nothing is read but headers.
 *
 * @param optional tensors that may be there with the given shape, at least one of each group
 */
export function checkTensors(
  weights: WeightFiles,
  expected: TensorTable,
  optional: readonly { names: readonly string[]; shape: readonly number[] }[] = [],
): void {
  recogniseForeign(weights)
  const shapes = new Map(expected)
  const dtypes = replacePacked(weights, expected, shapes)
  for (const { names, shape } of optional) {
    const present = names.filter((name) => weights.byTensor.has(name))
    for (const name of present.length > 0 ? present : names.slice(0, 1)) shapes.set(name, shape)
  }
  const where =
    weights.files.length === 1
      ? weights.files[0]!.file
      : `the ${weights.files.length} shards of ${weights.folder}`
  const missing = [...shapes.keys()].filter((name) => !weights.byTensor.has(name))
  if (missing.length > 0) {
    const name = missing[0]!
    throw checkpointErrors.MISSING_TENSOR(
      name,
      brackets(shapes.get(name)!),
      where,
      missing.length - 1,
    )
  }
  const extra = [...weights.byTensor.keys()].filter((name) => !shapes.has(name))
  if (extra.length > 0) {
    const name = extra[0]!
    throw checkpointErrors.EXTRA_TENSOR(name, weights.byTensor.get(name)!.file, extra.length - 1)
  }
  for (const [name, shape] of shapes) {
    const { file, tensors } = weights.byTensor.get(name)!
    const found = tensors.get(name)!
    if (brackets(found.shape) !== brackets(shape)) {
      throw checkpointErrors.WRONG_SHAPE(name, file, brackets(found.shape), brackets(shape))
    }
    const dtype = dtypes.get(name)
    if (dtype ? found.dtype !== dtype : !readableDTypes.has(found.dtype)) {
      throw checkpointErrors.WRONG_DTYPE(name, file, found.dtype)
    }
  }
}

/** Puts the tensors of packed weights in place of the dense ones they stand for, and says which dtype each must have. */
function replacePacked(
  weights: WeightFiles,
  expected: TensorTable,
  shapes: Map<string, readonly number[]>,
): Map<string, string> {
  const dtypes = new Map<string, string>()
  const packing = packingOf(weights)
  for (const [name, shape] of expected) {
    const holder = weights.byTensor.get(`${name}.codes`)
    if (!holder) continue
    if (!packing) throw checkpointErrors.NOT_PACKED(`${name}.codes`, holder.file)
    const [n, k, ...more] = shape as [number, number, ...number[]]
    if (more.length > 0 || !canPack(packing.scheme, k)) continue
    shapes.delete(name)
    for (const [part, { shape: own, dtype }] of packedTensors(name, packing.scheme, [n, k])) {
      shapes.set(part, own)
      dtypes.set(part, dtype)
    }
  }
  return dtypes
}

/** Layouts that are known and not read, told apart by names and dtypes before a tensor is called missing. */
export function recogniseForeign({ byTensor }: Pick<WeightFiles, 'byTensor'>): void {
  for (const [name, { file, tensors }] of byTensor) {
    const { dtype } = tensors.get(name)!
    if (dtype.startsWith('F8_')) throw checkpointErrors.FP8(file, `${name} is ${dtype}`)
    if (name === 'scaled_fp8' || /\.scale_(weight|input)$/.test(name)) {
      throw checkpointErrors.FP8(file, `it has ${name}`)
    }
    if (/^(model\.)?diffusion_model\./.test(name)) {
      throw checkpointErrors.COMFYUI_LAYOUT(file, `it has ${name}`)
    }
    if (/^blocks\.\d+\.(self_attn|cross_attn|pos_embedding|attn\.q)\b/.test(name)) {
      throw checkpointErrors.ORIGINAL_LAYOUT(file, `it has ${name}`)
    }
    if (/^(encoder|decoder)\.(downsamples|upsamples|middle)\./.test(name)) {
      throw checkpointErrors.ORIGINAL_LAYOUT(file, `it has ${name}`)
    }
  }
}

function brackets(shape: readonly number[]): string {
  return `[${shape.join(', ')}]`
}

export async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  )
}
