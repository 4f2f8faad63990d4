import { constants } from 'node:fs'
import { copyFile, mkdir, readFile, readdir, rename, rm, stat } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import {
  adapterKinds,
  loraScale,
  readLora,
  type Expert,
  type LokrModule,
  type LoraModule,
  type LoraWeights,
} from '@kinora/lora-files'
import {
  bf16ToF32,
  bytesPerElement,
  f16ToF32,
  openSafetensors,
  writeSafetensors,
  type SafetensorsDType,
  type SafetensorsFile,
  type TensorToWrite,
} from '@kinora/safetensors'
import {
  codeSystemError,
  drain,
  parseOptions,
  requireFreeSpace,
  removeOnExit,
  temporaryName,
  writeFileAtomic,
  type RunContext,
  type StageEvent,
} from '@kinora/stage'
import { expertsAt, readBaseExpert, type BaseExpert, type BaseTensor } from './base-checkpoint.ts'
import { exporterErrors } from './errors.ts'
import { expertFolders } from './key-maps/base-keys.ts'
import { mergeCheckpointOptions, type MergeCheckpointOptions } from './options.ts'
import { fitProblems } from './verify-lora.ts'

/** Elements held at a time of a tensor that passes through: 16 MiB of f32. */
const blockElements = 4 * 2 ** 20

/** What was written. */
export interface MergedCheckpoint {
  out: string
  /** Linears that were changed, by expert. */
  numMerged: Partial<Record<Expert | 'one', number>>
  sizeBytes: number
}

/**
 * Adds LoRAs to the weights of a base model and writes the result in the base's own layout, shard by shard: no tensor is held
 * as a whole. W' = W + weight · Δ, with Δ = (alpha/rank) · B A for a LoRA, (alpha/rank) · w1 ⊗ w2 for a LoKr, and what leads from W
 * to the weight with columns of other lengths for a DoRA, whose linears are read twice. Summed in f32 and rounded once.
 *
 * Written under a temporary name and renamed at the end.
 */
export async function* mergeCheckpointIter(
  options: MergeCheckpointOptions,
  { signal }: RunContext = {},
): AsyncGenerator<StageEvent, MergedCheckpoint> {
  const resolved = parseOptions('EXPORTER', mergeCheckpointOptions, options)
  const { base: path, out, deltas, weight } = resolved
  const strength = { high: weight, low: resolved.weightLow ?? weight }
  const given = (['high', 'low'] as const).filter((expert) => resolved[expert] !== undefined)
  if (given.length === 0) throw exporterErrors.NO_LORA()
  await refuseExisting(out)

  const held = await expertsAt(path)
  if (held === 'one' && given.length > 1) throw exporterErrors.ONE_EXPERT_BASE(path)
  const work: { expert: Expert; base: BaseExpert; lora: LoraWeights }[] = []
  const all: { expert: Expert; base: BaseExpert }[] = []
  for (const expert of held === 'one' ? given : held) {
    all.push({ expert, base: await readBaseExpert(path, held === 'one' ? undefined : expert) })
  }
  for (const expert of given) {
    const base = all.find((one) => one.expert === expert)?.base
    if (base === undefined) throw exporterErrors.BASE_NO_EXPERT(path, expertFolders[expert])
    const file = resolved[expert]!
    const lora = await readLora(file, { expert, deltas, kinds: adapterKinds })
    const problems = fitProblems(allModules(lora), base)
    if (problems.length > 0) throw exporterErrors.DOES_NOT_FIT(file, base.path, problems)
    for (const { key, dtype } of base.tensors.values()) {
      if (base.isScaled || !isDense(dtype)) throw exporterErrors.BASE_PACKED(base.path, key, dtype)
    }
    work.push({ expert, base, lora })
  }

  const target = resolved.dtype === 'same' ? undefined : denseDtypes[resolved.dtype]
  const sizes = all.map(({ base }) => sumBytes(base, target))
  await requireFreeSpace(
    dirname(out),
    sizes.reduce((sum, size) => sum + size, 0),
  )
  const isFile = (await stat(path)).isFile()
  const temporary = temporaryName(out)
  const leftover = removeOnExit(temporary)
  try {
    if (!isFile) await mkdir(temporary, { recursive: true })
    if (held !== 'one') {
      yield* copyRest(path, temporary, new Set(held.map((expert) => expertFolders[expert])), signal)
    }
    for (const [index, { expert, base }] of all.entries()) {
      const folder = held === 'one' ? temporary : join(temporary, expertFolders[expert])
      const job = work.find((one) => one.expert === expert)
      yield* writeExpert({
        base,
        lora: job?.lora,
        weight: strength[expert],
        target,
        phase: held === 'one' ? 'merge' : `merge ${expert}`,
        place: (shard) => (isFile ? temporary : join(folder, basename(shard))),
        folder: isFile ? null : folder,
        totalBytes: sizes[index]!,
        signal,
      })
    }
    await rename(temporary, out)
  } catch (error) {
    await rm(temporary, { recursive: true, force: true })
    throw codeSystemError(error, out)
  } finally {
    leftover.forget()
  }
  yield { type: 'note', message: `The merged model is in ${out}.` }
  return {
    out,
    numMerged: Object.fromEntries(
      work.map(({ expert, lora }) => [held === 'one' ? 'one' : expert, allModules(lora).size]),
    ),
    sizeBytes: sizes.reduce((sum, size) => sum + size, 0),
  }
}

/** `mergeCheckpointIter` run to its end. */
export function mergeCheckpoint(
  options: MergeCheckpointOptions,
  context?: RunContext,
): Promise<MergedCheckpoint> {
  return drain(mergeCheckpointIter(options, context))
}

const denseDtypes = { f32: 'F32', f16: 'F16', bf16: 'BF16' } as const
type DenseDtype = (typeof denseDtypes)[keyof typeof denseDtypes]

function isDense(dtype: SafetensorsDType): dtype is DenseDtype {
  return Object.values<string>(denseDtypes).includes(dtype)
}

async function refuseExisting(out: string): Promise<void> {
  const exists = await stat(out).then(
    () => true,
    () => false,
  )
  if (exists) throw exporterErrors.OUT_EXISTS(out)
}

function sumBytes(base: BaseExpert, target: DenseDtype | undefined): number {
  let sum = 0
  for (const { shape, dtype } of base.tensors.values()) {
    const elements = shape.reduce((product, extent) => product * extent, 1)
    sum += elements * bytesPerElement[target !== undefined && isDense(dtype) ? target : dtype]
  }
  return sum
}

/** Copies what is beside the experts: configs, text encoder, tokenizer, VAE. Links are followed; hidden files are not copied. */
async function* copyRest(
  from: string,
  to: string,
  except: ReadonlySet<string>,
  signal: AbortSignal | undefined,
): AsyncGenerator<StageEvent, void> {
  const files = (await listFiles(from)).filter((file) => !except.has(file[0]!))
  yield { type: 'started', phase: 'copy', total: files.length }
  for (const [index, parts] of files.entries()) {
    signal?.throwIfAborted()
    const target = join(to, ...parts)
    await mkdir(dirname(target), { recursive: true })
    await copyFile(join(from, ...parts), target, constants.COPYFILE_FICLONE)
    const item = parts.join('/')
    yield { type: 'progress', phase: 'copy', done: index + 1, total: files.length, item }
  }
}

async function listFiles(folder: string): Promise<string[][]> {
  const found: string[][] = []
  for (const name of (await readdir(folder)).toSorted()) {
    if (name.startsWith('.')) continue
    const path = join(folder, name)
    if ((await stat(path)).isDirectory()) {
      found.push(...(await listFiles(path)).map((parts) => [name, ...parts]))
    } else found.push([name])
  }
  return found
}

interface ExpertToWrite {
  base: BaseExpert
  lora: LoraWeights | undefined
  weight: number
  target: DenseDtype | undefined
  phase: string
  place: (shard: string) => string
  /** Where index and config go; null for a base that is a single file. */
  folder: string | null
  totalBytes: number
  signal: AbortSignal | undefined
}

async function* writeExpert(expert: ExpertToWrite): AsyncGenerator<StageEvent, void> {
  const { base, folder, phase, signal, target } = expert
  const moduleOf = new Map([...base.linears].map(([name, { key }]) => [key, name]))
  const modules = expert.lora && allModules(expert.lora)
  const numTensors = base.tensors.size
  let done = 0
  yield { type: 'started', phase, total: numTensors }
  if (folder !== null) await mkdir(folder, { recursive: true })
  for (const shard of base.files) {
    await using open = await openSafetensors(shard)
    // The writer pulls tensor after tensor; what it has begun is told between its turns.
    const begun: string[] = []
    const tensors = [...open.tensors].map(([key, info]): TensorToWrite => {
      const tensor = base.tensors.get(key) ?? { file: shard, key, ...info }
      const module = modules?.get(moduleOf.get(key) ?? '')
      const dtype = target !== undefined && isDense(info.dtype) ? target : info.dtype
      return {
        name: key,
        dtype,
        shape: info.shape,
        data: () => {
          signal?.throwIfAborted()
          begun.push(key)
          return passThrough(open, tensor, dtype, module, expert.weight)
        },
      }
    })
    let finished = false
    const writing = writeSafetensors(expert.place(shard), tensors, { ...open.metadata }).finally(
      () => {
        finished = true
      },
    )
    // A rejection is thrown by the await below; without this it would count as unhandled while progress is told.
    writing.catch(() => {})
    while (!finished) {
      await Promise.race([
        writing.catch(() => {}),
        new Promise((resolve) => setTimeout(resolve, 100)),
      ])
      const item = begun.at(-1)
      if (item !== undefined && !finished) {
        yield { type: 'progress', phase, done: done + begun.length - 1, total: numTensors, item }
      }
    }
    await writing
    done += tensors.length
    yield { type: 'progress', phase, done, total: numTensors, item: basename(shard) }
  }
  if (folder === null) return
  for (const name of await readdir(base.path)) {
    if (name.endsWith('.safetensors') || name.startsWith('.')) continue
    const from = join(base.path, name)
    if (from === base.indexFile) {
      const index = JSON.parse(await readFile(from, 'utf8')) as { metadata?: object }
      const metadata = { ...index.metadata, total_size: expert.totalBytes }
      await writeFileAtomic(
        join(folder, name),
        `${JSON.stringify({ ...index, metadata }, null, 2)}\n`,
      )
    } else if ((await stat(from)).isFile()) await copyFile(from, join(folder, name))
  }
}

/** The bytes of a tensor on their way to the new file, a block of rows at a time. */
async function* passThrough(
  open: SafetensorsFile,
  { key, shape, dtype }: Pick<BaseTensor, 'key' | 'shape' | 'dtype'>,
  target: SafetensorsDType,
  module: LoraModule | LokrModule | undefined,
  weight: number,
): AsyncGenerator<Uint8Array | Float32Array> {
  const elements = shape.reduce((product, extent) => product * extent, 1)
  const rowLength = module?.inFeatures ?? 1
  const lengths = module && (await newLengths(open, { key, shape, dtype }, module))
  for await (const { bytes, firstRow } of blocksOf(open, key, elements, rowLength, dtype)) {
    if (module === undefined && target === dtype) {
      yield bytes
      continue
    }
    const values = toF32(bytes, dtype as DenseDtype)
    if (lengths) changeColumns(values, module as LoraModule, firstRow, lengths, weight)
    else if (module) addChange(values, module, firstRow, weight)
    checkRange(key, values, target)
    yield values
  }
}

/** A tensor's bytes, some whole rows at a time. */
async function* blocksOf(
  open: SafetensorsFile,
  key: string,
  elements: number,
  rowLength: number,
  dtype: SafetensorsDType,
): AsyncGenerator<{ bytes: Uint8Array; firstRow: number }> {
  const size = bytesPerElement[dtype]
  const step = Math.max(1, Math.floor(blockElements / rowLength)) * rowLength
  for (let from = 0; from < elements; from += step) {
    const bytes = new Uint8Array(Math.min(step, elements - from) * size)
    await open.readInto(key, bytes, from * size)
    yield { bytes, firstRow: from / rowLength }
  }
}

/** Of a DoRA: what each column of W + scale · B A is multiplied by, [inFeatures]. */
async function newLengths(
  open: SafetensorsFile,
  { key, shape, dtype }: Pick<BaseTensor, 'key' | 'shape' | 'dtype'>,
  module: LoraModule | LokrModule,
): Promise<Float64Array | undefined> {
  if ('w1' in module || !module.magnitude) return undefined
  const { inFeatures, magnitude } = module
  const elements = shape.reduce((product, extent) => product * extent, 1)
  const squares = new Float64Array(inFeatures)
  for await (const { bytes, firstRow } of blocksOf(open, key, elements, inFeatures, dtype)) {
    const values = Float32Array.from(toF32(bytes, dtype as DenseDtype))
    addLowRank(values, module, firstRow, loraScale(module))
    for (let start = 0; start < values.length; start += inFeatures) {
      for (let i = 0; i < inFeatures; i++) squares[i]! += values[start + i]! ** 2
    }
  }
  return squares.map((square, i) => magnitude[i]! / Math.sqrt(square + 1e-12))
}

/** rows += weight · (factor ∘ (rows + scale · B A) − rows). */
function changeColumns(
  rows: Float32Array,
  module: LoraModule,
  firstRow: number,
  factors: Float64Array,
  weight: number,
): void {
  const { inFeatures } = module
  const changed = Float32Array.from(rows)
  addLowRank(changed, module, firstRow, loraScale(module))
  for (let start = 0; start < rows.length; start += inFeatures) {
    for (let i = 0; i < inFeatures; i++) {
      const row = rows[start + i]!
      rows[start + i] = row + weight * (factors[i]! * changed[start + i]! - row)
    }
  }
}

function addChange(
  rows: Float32Array,
  module: LoraModule | LokrModule,
  firstRow: number,
  weight: number,
): void {
  const factor = weight * loraScale(module)
  if ('w1' in module) addKronecker(rows, module, firstRow, factor)
  else addLowRank(rows, module, firstRow, factor)
}

/** rows += factor · (w1 ⊗ w2)[firstRow …]. */
function addKronecker(
  rows: Float32Array,
  { w1, w2, shape1, shape2, rank = 0, inFeatures }: LokrModule,
  firstRow: number,
  factor: number,
): void {
  const [, i1] = shape1
  const [o2, i2] = shape2
  const rowOf2 = new Float64Array(i2)
  for (let start = 0, o = firstRow; start < rows.length; start += inFeatures, o++) {
    const [p, q] = [Math.floor(o / o2), o % o2]
    for (let j = 0; j < i2; j++) {
      if (w2 instanceof Float32Array) rowOf2[j] = w2[q * i2 + j]!
      else {
        let sum = 0
        for (let r = 0; r < rank; r++) sum += w2.a[q * rank + r]! * w2.b[r * i2 + j]!
        rowOf2[j] = sum
      }
    }
    for (let i = 0; i < i1; i++) {
      const outer = factor * w1[p * i1 + i]!
      for (let j = 0; j < i2; j++) rows[start + i * i2 + j]! += outer * rowOf2[j]!
    }
  }
}

/** All modules of a LoRA, of whatever kind. */
function allModules({ modules, kronecker }: LoraWeights): Map<string, LoraModule | LokrModule> {
  return new Map<string, LoraModule | LokrModule>([...modules, ...(kronecker ?? [])])
}

function toF32(bytes: Uint8Array, dtype: DenseDtype): Float32Array {
  switch (dtype) {
    case 'F32':
      return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)
    case 'F16':
      return f16ToF32(new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2))
    case 'BF16':
      return bf16ToF32(new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2))
    default:
      return dtype satisfies never
  }
}

/** rows += factor · (B A)[firstRow …]; four ranks at a time, which halves the passes over a row. */
function addLowRank(
  rows: Float32Array,
  module: LoraModule,
  firstRow: number,
  factor: number,
): void {
  const { a, b, rank, inFeatures } = module
  const sum = new Float64Array(inFeatures)
  for (let start = 0, o = firstRow; start < rows.length; start += inFeatures, o++) {
    sum.fill(0)
    let r = 0
    for (; r + 3 < rank; r += 4) {
      const b0 = b[o * rank + r]!
      const b1 = b[o * rank + r + 1]!
      const b2 = b[o * rank + r + 2]!
      const b3 = b[o * rank + r + 3]!
      const a0 = r * inFeatures
      const a1 = a0 + inFeatures
      const a2 = a1 + inFeatures
      const a3 = a2 + inFeatures
      for (let i = 0; i < inFeatures; i++) {
        sum[i]! += b0 * a[a0 + i]! + b1 * a[a1 + i]! + b2 * a[a2 + i]! + b3 * a[a3 + i]!
      }
    }
    for (; r < rank; r++) {
      const br = b[o * rank + r]!
      for (let i = 0; i < inFeatures; i++) sum[i]! += br * a[r * inFeatures + i]!
    }
    for (let i = 0; i < inFeatures; i++) rows[start + i]! += factor * sum[i]!
  }
}

/** Magnitude from which rounding to the format gives infinity. */
const limits: Partial<Record<SafetensorsDType, number>> = {
  F16: 65_520,
  BF16: 3.396e38,
  F32: Infinity,
}

function checkRange(key: string, values: Float32Array, dtype: SafetensorsDType): void {
  const limit = limits[dtype] ?? Infinity
  // By index: iterating a typed array takes five times as long.
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!
    if (!(Math.abs(value) < limit)) throw exporterErrors.OUT_OF_RANGE(key, value, dtype)
  }
}
