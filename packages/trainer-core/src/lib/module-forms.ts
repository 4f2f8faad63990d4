import type { DropoutOptions, Tensor } from '@kinora/kernel-api'
import { loraScale, type LokrModule, type LoraModule } from '@kinora/lora-files'
import type { LoraTarget, ModuleAdapter } from '@kinora/wan'

// The forms a trained module may have: which tensors it is made of, how they begin, what the transformer takes, and what a file
// holds. All of a network's modules have one form.

/** Settings of a network. */
export interface LoraOptions {
  /** `lora` unless given. */
  type?: NetworkType | undefined
  rank: number
  /** Scale of the branch: alpha / rank where alpha is honoured, else 1. A LoKr with a whole w2 takes no account of it. */
  scale: number
  /** LoKr: w2 is whole whatever the rank. */
  fullRank?: boolean | undefined
  /** LoKr: length of the short side; −1 (unless given) takes the pair of factors closest to square. */
  factor?: number | undefined
}

export type NetworkType = 'lora' | 'dora' | 'lokr'

/** Which parts of a micro-batch's branch are left out. */
export interface ModuleDropout {
  /** Elements between the two factors. */
  elements?: DropoutOptions | undefined
}

export interface ModuleForm {
  /** Name and shape of each tensor. */
  parts(target: LoraTarget, options: LoraOptions): { name: string; shape: readonly number[] }[]
  /**
   * Values to begin with, in the order of `parts`: a branch that changes nothing.
   *
   * @param uniform numbers in (−1, 1), as many as asked for, of the module's own stream
   * @param lengths of the weight's columns; for a DoRA alone
   */
  begin(
    target: LoraTarget,
    options: LoraOptions,
    uniform: (count: number) => Float64Array,
    lengths: Float32Array | undefined,
  ): Float32Array[]
  /** @param weight multiplies what the branch does */
  adapter(
    tensors: readonly Tensor[],
    options: LoraOptions,
    weight: number,
    dropout?: ModuleDropout,
  ): ModuleAdapter
  toFile(
    target: LoraTarget,
    options: LoraOptions,
    values: readonly Float32Array[],
  ): LoraModule | LokrModule
  /** Values from a file's module; a text that says what it holds where that is something else. */
  fromFile(
    target: LoraTarget,
    options: LoraOptions,
    module: LoraModule | LokrModule,
  ): Float32Array[] | string
  /** What `fromFile` expects, in words. */
  describe(target: LoraTarget, options: LoraOptions): string
}

/** Kaiming's bound with a = √5, as PyTorch begins a linear. */
const uniformBound = (fanIn: number): number => 1 / Math.sqrt(fanIn)

const scaled = (values: Float32Array, factor: number): Float32Array =>
  factor === 1 ? values : values.map((value) => value * factor)

const within = (bound: number, values: Float64Array): Float32Array =>
  Float32Array.from(values, (value) => value * bound)

const describePair = (kind: string, rank: number, i: number, o: number): string =>
  `${kind}, rank ${rank}, ${i} → ${o}`

function describeModule(module: LoraModule | LokrModule): string {
  if ('w1' in module) return describeLokr(module.shape1, module.shape2, module.rank)
  const { magnitude, rank, inFeatures, outFeatures } = module
  return describePair(magnitude ? 'DoRA' : 'LoRA', rank, inFeatures, outFeatures)
}

const lora: ModuleForm = {
  parts: ({ inFeatures, outFeatures }, { rank }) => [
    { name: 'lora_A', shape: [rank, inFeatures] },
    { name: 'lora_B', shape: [outFeatures, rank] },
  ],
  begin: ({ inFeatures, outFeatures }, { rank }, uniform) => [
    within(uniformBound(inFeatures), uniform(rank * inFeatures)),
    new Float32Array(outFeatures * rank),
  ],
  adapter: ([a, b], { scale }, weight, dropout) => ({
    a: a!,
    b: b!,
    scale: scale * weight,
    ...(dropout?.elements ? { dropout: dropout.elements } : {}),
  }),
  toFile: ({ inFeatures, outFeatures }, { rank, scale }, [a, b]) => ({
    a: a!,
    b: b!,
    rank,
    inFeatures,
    outFeatures,
    ...(scale === 1 ? {} : { alpha: scale * rank }),
  }),
  fromFile(target, options, module) {
    const found = describeModule(module)
    if ('w1' in module || found !== lora.describe(target, options)) return found
    // The file's own scale is folded into B, so that the branch does what it did there.
    return [module.a, scaled(module.b, loraScale(module) / options.scale)]
  },
  describe: ({ inFeatures, outFeatures }, { rank }) =>
    describePair('LoRA', rank, inFeatures, outFeatures),
}

const dora: ModuleForm = {
  parts: (target, options) => [
    ...lora.parts(target, options),
    { name: 'dora_scale', shape: [target.inFeatures] },
  ],
  begin: (target, options, uniform, lengths) => [
    ...lora.begin(target, options, uniform, undefined),
    lengths!,
  ],
  adapter: ([a, b, magnitude], { scale }, weight) => ({
    a: a!,
    b: b!,
    scale,
    magnitude: magnitude!,
    strength: weight,
  }),
  toFile: (target, options, [a, b, magnitude]) => ({
    ...(lora.toFile(target, options, [a!, b!]) as LoraModule),
    magnitude: magnitude!,
  }),
  fromFile(target, options, module) {
    const found = describeModule(module)
    if ('w1' in module || found !== dora.describe(target, options)) return found
    return [module.a, scaled(module.b, loraScale(module) / options.scale), module.magnitude!]
  },
  describe: ({ inFeatures, outFeatures }, { rank }) =>
    describePair('DoRA', rank, inFeatures, outFeatures),
}

/**
 * n as a product of two, the smaller first: `factor` and the rest where it divides n, else the pair closest to square whose smaller is
 * no more than it (LyCORIS' `factorization`).
 */
export function factorPair(n: number, factor = -1): readonly [number, number] {
  if (factor > 0 && n % factor === 0) {
    return [Math.min(factor, n / factor), Math.max(factor, n / factor)]
  }
  const most = factor < 0 ? n : factor
  let small = 1
  for (let m = 2; m * m <= n && m <= most; m++) if (n % m === 0) small = m
  return [small, n / small]
}

interface LokrSizes {
  shape1: readonly [number, number]
  shape2: readonly [number, number]
  /** Of w2 in two factors; undefined where it is whole. */
  rank: number | undefined
}

/** LyCORIS leaves w2 whole where factors would save nothing. */
function lokrSizes(
  { inFeatures, outFeatures }: LoraTarget,
  { rank, fullRank = true, factor }: LoraOptions,
): LokrSizes {
  const [o1, o2] = factorPair(outFeatures, factor)
  const [i1, i2] = factorPair(inFeatures, factor)
  const isWhole = fullRank || rank >= Math.max(o2, i2) / 2
  return { shape1: [o1, i1], shape2: [o2, i2], rank: isWhole ? undefined : rank }
}

const describeLokr = (
  shape1: readonly number[],
  shape2: readonly number[],
  rank: number | undefined,
): string =>
  `LoKr, [${shape1.join(', ')}] ⊗ [${shape2.join(', ')}]${rank === undefined ? '' : ` of rank ${rank}`}`

const lokr: ModuleForm = {
  parts(target, options) {
    const { shape1, shape2, rank } = lokrSizes(target, options)
    return [
      { name: 'lokr_w1', shape: shape1 },
      ...(rank === undefined
        ? [{ name: 'lokr_w2', shape: shape2 }]
        : [
            { name: 'lokr_w2_a', shape: [shape2[0], rank] },
            { name: 'lokr_w2_b', shape: [rank, shape2[1]] },
          ]),
    ]
  },
  begin(target, options, uniform) {
    const { shape1, shape2, rank } = lokrSizes(target, options)
    const w1 = within(uniformBound(shape1[1]), uniform(shape1[0] * shape1[1]))
    return rank === undefined
      ? [w1, new Float32Array(shape2[0] * shape2[1])]
      : [
          w1,
          within(uniformBound(rank), uniform(shape2[0] * rank)),
          new Float32Array(rank * shape2[1]),
        ]
  },
  adapter: ([w1, a, b], { scale }, weight) =>
    b ? { w1: w1!, w2: { a: a!, b }, scale: scale * weight } : { w1: w1!, w2: a!, scale: weight },
  toFile(target, options, [w1, a, b]) {
    const { shape1, shape2, rank } = lokrSizes(target, options)
    return {
      w1: w1!,
      w2: b ? { a: a!, b } : a!,
      shape1,
      shape2,
      inFeatures: target.inFeatures,
      outFeatures: target.outFeatures,
      ...(rank === undefined ? {} : { rank }),
      ...(rank === undefined || options.scale === 1 ? {} : { alpha: options.scale * rank }),
    }
  },
  fromFile(target, options, module) {
    const found = describeModule(module)
    if (!('w1' in module) || found !== lokr.describe(target, options)) return found
    const { w1, w2 } = module
    if (w2 instanceof Float32Array) return [w1, w2]
    return [w1, scaled(w2.a, loraScale(module) / options.scale), w2.b]
  },
  describe(target, options) {
    const { shape1, shape2, rank } = lokrSizes(target, options)
    return describeLokr(shape1, shape2, rank)
  },
}

const forms: Readonly<Record<NetworkType, ModuleForm>> = { lora, dora, lokr }

/** The form of a network's modules. */
export const formOf = ({ type = 'lora' }: Pick<LoraOptions, 'type'>): ModuleForm => forms[type]
