import { bytesPerElement, f32ToBf16, f32ToF16, writeSafetensors } from '@kinora/safetensors'
import { loraErrors } from './errors.ts'
import { keyMaps, type LoraLayout } from './layouts.ts'
import type { ModulePart } from './key-maps/key-map.ts'
import {
  kindNames,
  loraScale,
  type AdapterKind,
  type Expert,
  type LokrModule,
  type LoraModule,
  type LoraWeights,
} from './lora-weights.ts'
import { modelHashes, type HashedTensor } from './model-hashes.ts'

/** Number formats a LoRA is written in, with their names in safetensors. */
export const loraDtypes = { f32: 'F32', f16: 'F16', bf16: 'BF16' } as const
export type LoraDtype = keyof typeof loraDtypes

export interface WriteLoraOptions {
  layout: LoraLayout
  dtype: LoraDtype
  /** Header metadata; default that of the weights. */
  metadata?: Readonly<Record<string, string>> | undefined
  /** Adds `sshs_model_hash` and `sshs_legacy_hash`, as AI Toolkit does. Default true. */
  hashes?: boolean | undefined
}

/**
 * Writes one expert's LoRA, atomically.
 *
 * Where the layout stores no alpha (comfyui, diffusers) the scale is folded into B, or the first factor of a LoKr's w2; kohya gets
 * alpha (= rank for a scale of 1). diffusers has no LoKr and no DoRA of this kind.
 *
 * @throws CodedError `LORA_…` for weights that do not fit their shapes or the number format
 */
export async function writeLora(
  file: string,
  weights: LoraWeights,
  options: WriteLoraOptions,
): Promise<void> {
  await write(file, tensorsOf(weights, options), options.metadata ?? weights.metadata, options)
}

/** Writes both experts into one file, as AI Toolkit does with `split_multistage_loras: false`. Other programs cannot read it. */
export async function writeCombinedLora(
  file: string,
  experts: Readonly<Record<Expert, LoraWeights>>,
  options: Omit<WriteLoraOptions, 'layout'> & { layout: 'comfyui' | 'diffusers' },
): Promise<void> {
  const tensors = (['high', 'low'] as const).flatMap((expert) =>
    tensorsOf(experts[expert], options, expert),
  )
  await write(file, tensors, options.metadata ?? experts.high.metadata, options)
}

async function write(
  file: string,
  tensors: readonly HashedTensor[],
  given: Readonly<Record<string, string>>,
  options: Pick<WriteLoraOptions, 'hashes'>,
): Promise<void> {
  const { sshs_model_hash: _, sshs_legacy_hash: __, ...stale } = given
  const hashed = options.hashes ?? true
  const metadata: Record<string, string> = hashed ? { ...stale } : { ...given }
  // The order of the file: all tensors have one element size but kohya's alphas, which share it.
  const sorted = tensors.toSorted((p, q) => (p.name < q.name ? -1 : 1))
  if (hashed) Object.assign(metadata, modelHashes(sorted, metadata))
  await writeSafetensors(
    file,
    sorted.map(({ name, dtype, shape, bytes }) => ({ name, dtype, shape, data: bytes })),
    metadata,
  )
}

function tensorsOf(
  weights: LoraWeights,
  { layout, dtype }: Pick<WriteLoraOptions, 'layout' | 'dtype'>,
  expert?: Expert,
): HashedTensor[] {
  const map = keyMaps[layout]
  const tensors: HashedTensor[] = []
  const adderOf =
    (name: string, kind: AdapterKind) =>
    (part: ModulePart, shape: readonly number[], values: () => Float32Array): void => {
      const key = map.format(name, part, expert)
      if (key === undefined) {
        if (map.format(name, 'down', expert) !== undefined) {
          throw loraErrors.NO_SUCH_FORM(layout, kindNames[kind], name)
        }
        throw loraErrors.BAD_WEIGHTS(name, `the ${layout} layout has no name for it`)
      }
      tensors.push({
        name: key,
        dtype: loraDtypes[dtype],
        shape,
        sizeBytes: shape.reduce(
          (product, extent) => product * extent,
          bytesPerElement[loraDtypes[dtype]],
        ),
        bytes: () => encode(key, values(), dtype),
      })
    }
  for (const [name, module] of weights.modules) {
    checkModule(name, module)
    const { a, b, rank, inFeatures, outFeatures, magnitude } = module
    const add = adderOf(name, magnitude ? 'dora' : 'lora')
    const scale = loraScale(module)
    const folded = map.storesAlpha || scale === 1 ? undefined : scale
    add('down', [rank, inFeatures], () => a)
    add('up', [outFeatures, rank], () =>
      folded === undefined ? b : b.map((value) => value * folded),
    )
    if (magnitude) add('magnitude', [1, inFeatures], () => magnitude)
    if (map.storesAlpha) add('alpha', [], () => Float32Array.of(module.alpha ?? rank))
  }
  for (const [name, module] of weights.kronecker ?? []) {
    checkLokr(name, module)
    const { w1, w2, shape1, shape2, rank } = module
    const add = adderOf(name, 'lokr')
    const scale = loraScale(module)
    add('w1', shape1, () => w1)
    if (w2 instanceof Float32Array || rank === undefined)
      add('w2', shape2, () => w2 as Float32Array)
    else {
      add('w2a', [shape2[0], rank], () =>
        map.storesAlpha || scale === 1 ? w2.a : w2.a.map((value) => value * scale),
      )
      add('w2b', [rank, shape2[1]], () => w2.b)
    }
    // Readers take no account of it where w2 is whole.
    if (map.storesAlpha) add('alpha', [], () => Float32Array.of(module.alpha ?? rank ?? 1))
  }
  return tensors
}

function checkModule(
  name: string,
  { a, b, rank, inFeatures, outFeatures, alpha, magnitude }: LoraModule,
): void {
  if (a.length !== rank * inFeatures) {
    throw loraErrors.BAD_WEIGHTS(name, `A has ${a.length} elements, not ${rank} × ${inFeatures}`)
  }
  if (b.length !== outFeatures * rank) {
    throw loraErrors.BAD_WEIGHTS(name, `B has ${b.length} elements, not ${outFeatures} × ${rank}`)
  }
  if (magnitude && magnitude.length !== inFeatures) {
    throw loraErrors.BAD_WEIGHTS(name, `${magnitude.length} magnitudes for ${inFeatures} columns`)
  }
  if (alpha !== undefined && !(alpha > 0 && Number.isFinite(alpha))) {
    throw loraErrors.BAD_WEIGHTS(name, `alpha is ${alpha}`)
  }
}

function checkLokr(
  name: string,
  { w1, w2, shape1, shape2, rank, inFeatures, outFeatures, alpha }: LokrModule,
): void {
  const [[o1, i1], [o2, i2]] = [shape1, shape2]
  const bad = (reason: string): never => {
    throw loraErrors.BAD_WEIGHTS(name, reason)
  }
  if (o1 * o2 !== outFeatures || i1 * i2 !== inFeatures) {
    bad(`[${o1}, ${i1}] ⊗ [${o2}, ${i2}] is no [${outFeatures}, ${inFeatures}]`)
  }
  if (w1.length !== o1 * i1) bad(`w1 has ${w1.length} elements, not ${o1} × ${i1}`)
  if (w2 instanceof Float32Array) {
    if (w2.length !== o2 * i2) bad(`w2 has ${w2.length} elements, not ${o2} × ${i2}`)
  } else if (rank === undefined || w2.a.length !== o2 * rank || w2.b.length !== rank * i2) {
    bad('the factors of w2 do not fit its shape and rank')
  }
  if (alpha !== undefined && !(alpha > 0 && Number.isFinite(alpha))) bad(`alpha is ${alpha}`)
}

/** Largest magnitude each format holds, in the middle between its greatest number and the next that would round to infinity. */
const limits = { f32: Infinity, f16: 65_520, bf16: 3.396e38 } as const

function encode(key: string, values: Float32Array, dtype: LoraDtype): Uint8Array {
  const limit = limits[dtype]
  // By index: iterating a typed array takes five times as long.
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!
    if (!(Math.abs(value) < limit)) throw loraErrors.OUT_OF_RANGE(key, value, dtype)
  }
  const encoded = dtype === 'f32' ? values : dtype === 'f16' ? f32ToF16(values) : f32ToBf16(values)
  return new Uint8Array(
    encoded.buffer,
    encoded.byteOffset,
    values.length * bytesPerElement[loraDtypes[dtype]],
  )
}
