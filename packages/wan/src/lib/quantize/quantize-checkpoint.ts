import { copyFile, mkdir, readdir, readFile, rename, rm, stat } from 'node:fs/promises'
import { basename, dirname, join, relative, resolve } from 'node:path'
import type { Device, PackedWeight, Tensor } from '@kinora/kernel-api'
import { readLora, writeLora, type LoraWeights } from '@kinora/lora-files'
import {
  bytesPerElement,
  openSafetensors,
  writeSafetensors,
  type SafetensorsFile,
  type TensorToWrite,
} from '@kinora/safetensors'
import {
  drain,
  lockFolder,
  parseOptions,
  requireFreeSpace,
  removeOnExit,
  temporaryName,
  writeFileAtomic,
  type RunContext,
  type StageEvent,
} from '@kinora/stage'
import { fingerprintFiles } from '../checkpoint/fingerprint.ts'
import { openCheckpoint, type WanCheckpoint } from '../checkpoint/open-checkpoint.ts'
import { SafetensorsWeights } from '../checkpoint/safetensors-weights.ts'
import { tensorsOf } from '../checkpoint/weight-loader.ts'
import { exists, packingOf, type WeightFiles } from '../checkpoint/weight-files.ts'
import { checkpointErrors } from '../errors.ts'
import { umt5Linears } from '../text-encoder/umt5.ts'
import { transformerLoraTargets } from '../transformer/transformer.ts'
import { readActivationSizes, type ActivationSizes } from './activation-sizes.ts'
import { correctError } from './low-rank-error.ts'
import { quantizeOptions, type QuantizeOptions } from './options.ts'
import { packedTensors, packingKey, packingMetadata, recoveryFile } from './packing.ts'
import {
  canPack,
  packedBytes,
  packedFormats,
  packingDType,
  type PackedLayout,
  type QuantizeScheme,
} from './schemes.ts'

export interface QuantizeContext extends RunContext {
  device: Device
  /** Largest shard, in bytes: what a run that was stopped does again, and what the host holds. 1 GiB unless given. */
  maxShardBytes?: number | undefined
}

/** What packing made. */
export interface QuantizeResult {
  out: string
  scheme: QuantizeOptions['scheme']
  /** Bytes of the packed networks' files, before and after. */
  bytes: { before: number; after: number }
  /** `uint4+ara`: share of the error's energy that the adapter takes away, 0 to 1, averaged over an expert's linears. */
  recovered: Partial<Record<'transformer' | 'transformer_2', number>>
}

const defaultShardBytes = 2 ** 30
/** Bytes of a tensor that is copied as it is, read at a time. */
const copyBytes = 16 * 2 ** 20
/** Random streams an expert's linears take, one each. */
const streamsPerPart = 2 ** 20

type Part = 'transformer' | 'transformer_2' | 'text_encoder'

/**
 * Packs a checkpoint into a folder of the same layout, which loads without the original and is not packed again at every start.
 * Whole shards only appear in it, so a run that was stopped goes on where it was; asked again, it finds everything there.
 */
export async function* quantizeCheckpointIter(
  options: QuantizeOptions,
  context: QuantizeContext,
): AsyncGenerator<StageEvent, QuantizeResult> {
  const { signal } = context
  const asked = parseOptions('CHECKPOINT', quantizeOptions, options)
  const checkpoint = await openCheckpoint(asked.checkpoint, { signal })
  if (resolve(asked.out) === resolve(checkpoint.dir)) throw checkpointErrors.SAME_FOLDER(asked.out)
  const [scheme, adapter] = asked.scheme.split('+') as [QuantizeScheme, 'ara'?]
  const parts: { part: Part; scheme: QuantizeScheme }[] = [
    { part: 'transformer', scheme },
    { part: 'transformer_2', scheme },
    ...(asked.textEncoder === 'keep'
      ? []
      : [{ part: 'text_encoder' as const, scheme: asked.textEncoder }]),
  ]
  for (const { part } of parts) {
    await using files = await checkpoint.openWeights(part)
    const packing = packingOf(files)
    if (packing) throw checkpointErrors.ALREADY_PACKED(files.folder, packing.scheme)
  }
  await using _lock = await lockFolder(asked.out)
  const recovered: QuantizeResult['recovered'] = {}
  const bytes = { before: 0, after: 0 }
  for (const { part, scheme: own } of parts) {
    const correction =
      adapter && part !== 'text_encoder'
        ? {
            rank: asked.rank,
            seed: asked.seed,
            statistics: asked.statistics,
            sizes:
              asked.statistics &&
              (await readActivationSizes(
                asked.statistics,
                part === 'transformer' ? 'high' : 'low',
              )),
          }
        : undefined
    const result = yield* packPart(checkpoint, part, own, asked.out, correction, context)
    bytes.before += result.before
    bytes.after += result.after
    if (part !== 'text_encoder' && result.recovered !== undefined)
      recovered[part] = result.recovered
  }
  yield* copyRest(checkpoint.dir, asked.out, new Set(parts.map(({ part }) => part)))
  await openCheckpoint(asked.out, { signal })
  return { out: asked.out, scheme: asked.scheme, bytes, recovered }
}

/** `quantizeCheckpointIter` without its events. */
export function quantizeCheckpoint(
  options: QuantizeOptions,
  context: QuantizeContext,
): Promise<QuantizeResult> {
  return drain(quantizeCheckpointIter(options, context))
}

interface Correction {
  rank: number
  seed: number
  statistics: string | undefined
  sizes: ActivationSizes | '' | undefined
}

/** A linear's weight, or a tensor that is copied as it is. */
interface Item {
  name: string
  packed: boolean
  bytes: number
}

async function* packPart(
  checkpoint: WanCheckpoint,
  part: Part,
  scheme: QuantizeScheme,
  out: string,
  correction: Correction | undefined,
  { device, signal, maxShardBytes = defaultShardBytes }: QuantizeContext,
): AsyncGenerator<StageEvent, { before: number; after: number; recovered: number | undefined }> {
  await using files = await checkpoint.openWeights(part)
  const folder = join(out, part)
  await mkdir(folder, { recursive: true })
  const linears =
    part === 'text_encoder' ? umt5Linears(checkpoint.textEncoder) : expertLinears(checkpoint)
  const items = planItems(files, linears, scheme)
  const shards = cutShards(items, maxShardBytes)
  const source = await checkpoint.fingerprint(part)
  const stem = part === 'text_encoder' ? 'model' : 'diffusion_pytorch_model'
  const shardName = (i: number): string =>
    shards.length === 1
      ? `${stem}.safetensors`
      : `${stem}-${number(i + 1)}-of-${number(shards.length)}.safetensors`
  const metadata = packingMetadata({ scheme, source })
  const recoveryTag = correction && JSON.stringify({ ...correction, sizes: undefined, source })
  await requireFreeSpace(folder, items.reduce((sum, { bytes }) => sum + bytes, 0) / 8)

  const total = items.filter(({ packed }) => packed).length
  yield { type: 'started', phase: part, total }
  let done = 0
  let after = 0
  const shares: number[] = []
  const partials: string[] = []
  const weightMap: Record<string, string> = {}
  const isRecovered =
    recoveryTag !== undefined && (await hasTag(join(folder, recoveryFile), recoveryTag))
  for (const [i, shard] of shards.entries()) {
    signal?.throwIfAborted()
    const file = join(folder, shardName(i))
    const partial = join(folder, `.recovery-${number(i + 1)}.safetensors`)
    partials.push(partial)
    const expected = shard.flatMap((item) => tensorNames(item, files, scheme))
    const inShard = shard.filter(({ packed }) => packed).length
    const hasRecovery =
      recoveryTag === undefined ||
      inShard === 0 ||
      isRecovered ||
      (await hasTag(partial, recoveryTag))
    const isThere = hasRecovery && (await isPacked(file, metadata[packingKey]!, expected))
    if (isThere) {
      done += inShard
      yield { type: 'progress', phase: part, done, total, item: `${shardName(i)}, there already` }
    } else {
      const weights = new SafetensorsWeights(files.byTensor)
      const tensors: TensorToWrite[] = []
      const modules: LoraWeights['modules'] = new Map()
      for (const { name, packed } of shard) {
        signal?.throwIfAborted()
        if (!packed) {
          tensors.push(copied(files.byTensor.get(name)!, name))
          continue
        }
        const linear = name.slice(0, -'.weight'.length)
        const stream = (part === 'transformer' ? 1 : 2) * streamsPerPart + linears.indexOf(linear)
        const made = await packLinear(weights, name, scheme, device, correction, linear, stream)
        tensors.push(...made.tensors)
        if (made.module) {
          modules.set(linear, made.module)
          shares.push(made.module.recovered)
        }
        done++
        yield { type: 'progress', phase: part, done, total, item: linear }
      }
      await weights.settle()
      if (recoveryTag !== undefined && modules.size > 0) {
        const share = shares.slice(-modules.size).reduce((a, b) => a + b, 0) / modules.size
        const about = { [recoveryKey]: recoveryTag, recovered: share.toFixed(6) }
        await writeLora(
          partial,
          { modules, metadata: about },
          { layout: 'comfyui', dtype: 'f16', hashes: false },
        )
      }
      await writeSafetensors(file, tensors, metadata)
    }
    for (const name of expected) weightMap[name] = shardName(i)
    after += (await stat(file)).size
  }
  if (shards.length > 1) {
    const index = JSON.stringify({ metadata: { total_size: after }, weight_map: weightMap })
    const file = join(folder, `${stem}.safetensors.index.json`)
    const known = await readFile(file, 'utf8').catch(() => undefined)
    if (known !== index) await writeFileAtomic(file, index)
  }
  await removeOthers(folder, stem, new Set(shards.map((_, i) => shardName(i))))
  await copyWhole(join(files.folder, 'config.json'), join(folder, 'config.json'))
  const recovered = await joinRecovery(folder, partials, recoveryTag, isRecovered)
  const before = (await Promise.all(files.files.map(({ file }) => stat(file)))).reduce(
    (sum, { size }) => sum + size,
    0,
  )
  return { before, after, recovered }
}

const number = (i: number): string => String(i).padStart(5, '0')

function expertLinears({ transformer }: WanCheckpoint): string[] {
  return transformerLoraTargets(transformer).map(({ name }) => name)
}

/** Every tensor of a network, in the order of its files, with the bytes it will take. */
function planItems(files: WeightFiles, linears: readonly string[], scheme: QuantizeScheme): Item[] {
  const packable = new Set(linears.map((linear) => `${linear}.weight`))
  return Array.from(files.byTensor, ([name, { tensors }]) => {
    const { shape, start, end } = tensors.get(name)!
    const [n, k] = shape as [number, number]
    const packed = packable.has(name) && canPack(scheme, k)
    return { name, packed, bytes: packed ? packedBytes(scheme, n, k) : end - start }
  }).sort(byNetworkOrder)
}

/** By block, so that a shard is a run of blocks; then by name. */
function byNetworkOrder(a: Item, b: Item): number {
  const block = ({ name }: Item): number => Number(/\bblocks?\.(\d+)\./.exec(name)?.[1] ?? -1)
  return block(a) - block(b) || (a.name < b.name ? -1 : 1)
}

function cutShards(items: readonly Item[], maxBytes: number): Item[][] {
  const shards: Item[][] = [[]]
  let bytes = 0
  for (const item of items) {
    if (bytes > 0 && bytes + item.bytes > maxBytes) {
      shards.push([])
      bytes = 0
    }
    shards.at(-1)!.push(item)
    bytes += item.bytes
  }
  return shards
}

function tensorNames(item: Item, files: WeightFiles, scheme: QuantizeScheme): string[] {
  if (!item.packed) return [item.name]
  const shape = files.byTensor.get(item.name)!.tensors.get(item.name)!.shape
  return [...packedTensors(item.name, scheme, shape as [number, number]).keys()]
}

/** Whether a shard is there whole: files are renamed into place, so one that opens is. */
async function isPacked(file: string, packing: string, names: readonly string[]): Promise<boolean> {
  const open = await tryOpen(file)
  if (!open) return false
  await using opened = open
  return (
    opened.metadata[packingKey] === packing &&
    opened.tensors.size === names.length &&
    names.every((name) => opened.tensors.has(name))
  )
}

const recoveryKey = 'kinora_recovery'

async function hasTag(file: string, tag: string): Promise<boolean> {
  const open = await tryOpen(file)
  if (!open) return false
  await using opened = open
  return opened.metadata[recoveryKey] === tag
}

async function tryOpen(file: string): Promise<SafetensorsFile | undefined> {
  return openSafetensors(file).catch(() => undefined)
}

interface PackedLinear {
  tensors: TensorToWrite[]
  module:
    | (NonNullable<ReturnType<LoraWeights['modules']['get']>> & { recovered: number })
    | undefined
}

async function packLinear(
  source: SafetensorsWeights,
  name: string,
  scheme: QuantizeScheme,
  device: Device,
  correction: Correction | undefined,
  linear: string,
  stream: number,
): Promise<PackedLinear> {
  const { format, groupSize } = packedFormats[scheme] as PackedLayout
  const owned: Tensor[] = []
  try {
    const dense = await source.load(name, device, packingDType(scheme), 'f32')
    owned.push(dense)
    const packed = device.ops.quantize(dense, format, { groupSize })
    owned.push(...tensorsOf(packed))
    let module: PackedLinear['module']
    if (correction) {
      const wide = dense.dtype === 'f32' ? dense : device.ops.cast(dense, 'f32')
      if (wide !== dense) owned.push(wide)
      const { rank, seed, sizes } = correction
      const channelSize = sizes ? sizes.get(linear) : undefined
      const found = await correctError(device, wide, packed, { rank, seed, stream, channelSize })
      const [outFeatures, inFeatures] = packed.shape
      module = { ...found, inFeatures, outFeatures }
    }
    return { tensors: await readPacked(device, name, scheme, packed), module }
  } finally {
    for (const tensor of owned) device.release(tensor)
  }
}

async function readPacked(
  device: Device,
  name: string,
  scheme: QuantizeScheme,
  { shape, codes, scales, zeros }: PackedWeight,
): Promise<TensorToWrite[]> {
  const parts = new Map([
    [`${name}.codes`, codes],
    [`${name}.scales`, scales],
    ...(zeros ? [[`${name}.zeros`, zeros] as const] : []),
  ])
  const tensors: TensorToWrite[] = []
  for (const [part, expected] of packedTensors(name, scheme, shape)) {
    tensors.push({ name: part, ...expected, data: await device.read(parts.get(part)!) })
  }
  return tensors
}

/** A tensor as it is in another file, read while it is written. */
function copied(file: SafetensorsFile, name: string): TensorToWrite {
  const { dtype, shape, start, end } = file.tensors.get(name)!
  const step = copyBytes - (copyBytes % bytesPerElement[dtype])
  return {
    name,
    dtype,
    shape,
    data: async function* parts() {
      for (let from = 0; from < end - start; from += step) {
        const part = new Uint8Array(Math.min(step, end - start - from))
        await file.readInto(name, part, from)
        yield part
      }
    },
  }
}

/** Joins the adapters of the shards into one file. Returns the mean share of the error it takes away. */
async function joinRecovery(
  folder: string,
  partials: readonly string[],
  tag: string | undefined,
  isThere: boolean,
): Promise<number | undefined> {
  const target = join(folder, recoveryFile)
  if (tag === undefined) {
    await rm(target, { force: true })
    return undefined
  }
  if (!isThere) {
    const modules: LoraWeights['modules'] = new Map()
    let sum = 0
    for (const partial of partials) {
      if (!(await exists(partial))) continue
      const part = await readLora(partial)
      for (const [name, module] of part.modules) modules.set(name, module)
      sum += Number(part.metadata['recovered']) * part.modules.size
    }
    const metadata = { [recoveryKey]: tag, recovered: (sum / modules.size).toFixed(6) }
    await writeLora(
      target,
      { modules, metadata },
      { layout: 'comfyui', dtype: 'f16', hashes: false },
    )
  }
  for (const partial of partials) await rm(partial, { force: true })
  await using open = await openSafetensors(target)
  return Number(open.metadata['recovered'])
}

/** Removes weights of an earlier packing that had other shards. */
async function removeOthers(
  folder: string,
  stem: string,
  wanted: ReadonlySet<string>,
): Promise<void> {
  const index = `${stem}.safetensors.index.json`
  for (const name of await readdir(folder)) {
    const isWeights = name.startsWith(stem) && name.endsWith('.safetensors')
    if (isWeights && !wanted.has(name)) await rm(join(folder, name))
    if (name === index && wanted.size === 1) await rm(join(folder, name))
  }
}

/** Copies all that a checkpoint has beside the packed networks: configuration, tokenizer, VAE, scheduler. */
async function* copyRest(
  dir: string,
  out: string,
  packedParts: ReadonlySet<string>,
): AsyncGenerator<StageEvent, void> {
  const entries = await readdir(dir, { recursive: true, withFileTypes: true })
  const files = entries
    .filter((entry) => !entry.isDirectory())
    .map((entry) => relative(dir, join(entry.parentPath, entry.name)))
    .filter((file) => {
      const [folder] = file.split(/[\\/]/)
      const isOfCheckpoint =
        /^(scheduler|tokenizer|vae|text_encoder)[\\/]|^model_index\.json$/.test(file)
      return isOfCheckpoint && !packedParts.has(folder!) && !basename(file).startsWith('.')
    })
    .sort()
  yield { type: 'started', phase: 'copy', total: files.length }
  for (const [i, file] of files.entries()) {
    await copyWhole(join(dir, file), join(out, file))
    yield { type: 'progress', phase: 'copy', done: i + 1, total: files.length, item: file }
  }
}

/** Copies a file under a temporary name and renames it; one that is the same is left. */
async function copyWhole(from: string, to: string): Promise<void> {
  if (await exists(to)) {
    const print = (file: string): Promise<string> => fingerprintFiles(dirname(file), [file])
    if ((await print(from)) === (await print(to))) return
  }
  await mkdir(dirname(to), { recursive: true })
  const temporary = temporaryName(to)
  const leftover = removeOnExit(temporary)
  try {
    await copyFile(from, temporary)
    await rename(temporary, to)
  } finally {
    await rm(temporary, { force: true })
    leftover.forget()
  }
}
