import type { DType, PackedFormat, PackedWeight, Tensor, Weight } from './tensor.ts'

// Axes: B batch, N tokens (queries), M keys, H heads, D head channels, C channels, K in, O out features, r rank;
// video T frames, Y rows, X columns. "…" is any number of leading axes, which an op treats as one axis of rows.
// Unless an op says otherwise: results have the dtype of their first tensor; sums, norms and softmax run in f32; the order
// of every sum is fixed, so the same inputs give the same bytes.

/** A low-rank side branch of a linear: y += scale · (x aᵀ) bᵀ. `a` [r, K] and `b` [O, r], both f32 masters. */
export interface Adapter {
  readonly a: Tensor
  readonly b: Tensor
  readonly scale: number
}

export interface LinearOptions {
  /** [O]. */
  bias?: Tensor | undefined
  /** Summed in order. */
  adapters?: readonly Adapter[] | undefined
  /** Dtype of the result; that of `x` unless given. */
  dtype?: DType | undefined
  /** A name under which a surrounding `checkpoint` may keep the result (its `keep` list). */
  name?: string | undefined
}

export interface LinearGradOptions {
  adapters?: readonly Adapter[] | undefined
  /** Dtype of `dx`; that of `dy` unless given. */
  dtype?: DType | undefined
  /** False skips `dx`. */
  needsX: boolean
}

/** Gradients of a linear: of its input (unless skipped) and of each adapter's factors, those in f32. */
export interface LinearGrads {
  dx?: Tensor
  adapters: { da: Tensor; db: Tensor }[]
}

export interface QuantizeOptions {
  /** `uint4`: elements along K that share a scale, a multiple of 8 that divides K; 64 unless given. */
  groupSize?: number | undefined
}

export interface AttentionOptions {
  /** Factor of q·k; 1/√D unless given. */
  scale?: number | undefined
  /** [H, N, M] f32, added to the scaled scores of every batch item (relative position bias). Not differentiable. */
  bias?: Tensor | undefined
  /** [B, M] f32, added to the scores of each key; −Infinity masks a key. Not differentiable. */
  keyBias?: Tensor | undefined
  /** A name under which a surrounding `checkpoint` may keep the result (its `keep` list). */
  name?: string | undefined
}

/** `out` [B, N, H, D] in the dtype of q; `lse` [B, H, N] f32, natural log of the sum of exponentials of the scores. */
export interface AttentionResult {
  out: Tensor
  lse: Tensor
}

export interface DropoutOptions {
  /** From 0 to below 1. */
  probability: number
  /** Integer, 0 to 2^53 − 1: the run. */
  seed: number
  /** Integer, 0 to 2^53 − 1: what is dropped out, and when. */
  stream: number
}

export interface NormOptions {
  eps: number
  /** Dtype of the result; that of `x` unless given. */
  dtype?: DType | undefined
}

export interface LayerNormOptions extends NormOptions {
  /** Multiplies the normalised value: [C], or [B, C] for x [B, …, C] (modulation: pass 1 + scale). */
  weight?: Tensor | undefined
  /** Added after it: shape as `weight` may have. */
  bias?: Tensor | undefined
}

export interface Conv3dOptions {
  /** [O]. */
  bias?: Tensor | undefined
  /** Steps along T, Y, X; 1 each unless given. */
  stride?: readonly [number, number, number] | undefined
  /** Zeros [before, after] along T, Y, X; none unless given. */
  padding?:
    | readonly [readonly [number, number], readonly [number, number], readonly [number, number]]
    | undefined
  /** Repeats each pixel of the input this often along Y and X before the convolution (nearest upsampling); 1 unless given. */
  upsample?: 1 | 2 | undefined
}

/**
 * Element-wise losses, each averaged over all axes but the first:
 * `mse` d², `mae` |d|, `pseudo-huber` √(d² + 0.01²) − 0.01, with d = prediction − target.
 */
export type LossKind = 'mse' | 'mae' | 'pseudo-huber'

export interface LossOptions {
  kind: LossKind
  /** Same shape as the prediction, f32: multiplies the loss of each element. */
  mask?: Tensor | undefined
}

/** One optimised parameter and its state, all f32 and of one shape. */
export interface AdamWSlot {
  param: Tensor
  grad: Tensor
  m: Tensor
  v: Tensor
}

/**
 * An optimiser's state of n elements in 8 bits: blocks of 256 consecutive elements share a scale, their largest magnitude, and an
 * element is (number of its code) · scale. The numbers are `blockStateNumbers`. Zeros in both tensors are a state of zeros.
 */
export interface BlockState {
  /** [⌈n/4⌉] u32, four codes a word, lowest byte first. */
  readonly codes: Tensor
  /** [⌈n/256⌉] f32. */
  readonly scales: Tensor
}

/** One optimised parameter, f32, and its state in 8 bits. */
export interface AdamW8bitSlot {
  param: Tensor
  grad: Tensor
  /** In signed numbers. */
  m: BlockState
  /** In unsigned numbers. */
  v: BlockState
}

export interface AdamWOptions {
  learningRate: number
  beta1: number
  beta2: number
  eps: number
  weightDecay: number
  /** 1 for the first update: corrects the bias of m and v. */
  step: number
  /** Multiplies every gradient first: clipping and loss scale, as one number. */
  gradScale: number
}

export interface CheckpointOptions {
  /**
   * Names of results (`AttentionOptions.name`, `LinearOptions.name`) to keep for the way back instead of computing them again.
   */
  keep?: readonly string[] | undefined
  /**
   * Keeps the first input, f32, rounded to this dtype until the way back: half the memory, for a relative error of 5e-4 in what
   * the block is run again on. As it is unless given.
   */
  firstInputAs?: 'f16' | undefined
  /** Keeps the first input and the results named by `keep` in host memory until the way back. */
  inHostMemory?: boolean | undefined
}

/**
 * The operations the networks need, at the level of a paper's equations. A network is written once against this
 * interface; a device runs the ops, trainer-core's tape runs them and remembers how to go back.
 */
export interface Ops {
  /** y[…, o] = Σ_k x[…, k] w[o, k] + bias[o] + Σ adapters. x […, K]; returns […, O]. */
  linear(x: Tensor, weight: Weight, options?: LinearOptions): Tensor
  /** dx = dy w + Σ s·(dy b) a; da = s·(dy b)ᵀ x; db = s·dyᵀ(x aᵀ). dy […, O]. */
  linearGrad(dy: Tensor, x: Tensor, weight: Weight, options: LinearGradOptions): LinearGrads

  /**
   * Packs a frozen weight [N, K] as AI Toolkit and torchao do. R rounds to bf16 where the weight is bf16 and is the identity
   * otherwise; all else is f32; `rint` goes to the nearest integer, ties to even.
   *
   * `uint4`, for each group of K (AI Toolkit's uintN): lo = min(0, min w), hi = max(0, max w); s = R(R(hi − lo) / 15), at least
   * 2^-23, rounded to f16 as it is stored; z = clamp(−rint(R(lo / s)), 0, 15); code = clamp(rint(R(w · R(1 / s))) + z, 0, 15).
   * Scales and zeros are f16.
   *
   * `float8_e4m3`, for each row: s = R(max |w| / 448), 1 for a row of zeros; code = e4m3(R(w / s)), to nearest even, saturating.
   * Scales are f32.
   *
   * Numbers that are not finite must be found before: what their groups become is undefined. A backend whose division is
   * inexact may be off by one code where a number lies on a tie.
   */
  quantize(weight: Tensor, format: PackedFormat, options?: QuantizeOptions): PackedWeight

  /** out = softmax(scale · q kᵀ + bias) v for each head. q [B, N, H, D], k and v [B, M, H, D]. */
  attention(q: Tensor, k: Tensor, v: Tensor, options?: AttentionOptions): AttentionResult
  /** Gradients of `attention` from its saved result; no atomics. Each has the shape and dtype of its input. */
  attentionGrad(
    dout: Tensor,
    saved: { q: Tensor; k: Tensor; v: Tensor } & AttentionResult,
    options?: AttentionOptions,
  ): { dq: Tensor; dk: Tensor; dv: Tensor }

  /** y = (x − mean) / √(var + eps) · weight + bias over the last axis, biased variance. */
  layerNorm(x: Tensor, options: LayerNormOptions): Tensor
  /** dx only: the norms are frozen. In the dtype of x unless `dtype` is given. */
  layerNormGrad(dy: Tensor, x: Tensor, options: LayerNormOptions): Tensor
  /** y = x / √(mean(x²) + eps) · weight over the last axis; weight [C]. */
  rmsNorm(x: Tensor, weight: Tensor, options: NormOptions): Tensor
  rmsNormGrad(dy: Tensor, x: Tensor, weight: Tensor, options: NormOptions): Tensor

  /**
   * Rotates the pairs (2j, 2j+1) of each head: (a, b) → (a cos − b sin, a sin + b cos). x [B, N, H, D]; cos and sin
   * [N, D/2] f32. `inverse` turns the other way, which is its gradient.
   */
  rope(x: Tensor, cos: Tensor, sin: Tensor, options?: { inverse?: boolean }): Tensor

  /** ½x(1 + tanh(√(2/π)(x + 0.044715x³))). */
  gelu(x: Tensor): Tensor
  geluGrad(dy: Tensor, x: Tensor): Tensor
  /** x · sigmoid(x). */
  silu(x: Tensor): Tensor
  /** 1 / √x for x > 0. */
  rsqrt(x: Tensor): Tensor
  /**
   * Element i is 0 where its hash is below `probability` · 2^32, else x / (1 − probability). The hash is `dropoutHash`, of seed, stream
   * and i alone: the same elements go on every device and each time, and the gradient is the op itself on dy.
   */
  dropout(x: Tensor, options: DropoutOptions): Tensor

  /** a + b; b has the shape of a, or that of its trailing axes (a bias). In the dtype of a. */
  add(a: Tensor, b: Tensor): Tensor
  /** a · b, shapes as in `add`. */
  mul(a: Tensor, b: Tensor): Tensor
  /** x · scale + offset. */
  affine(x: Tensor, options: { scale?: number; offset?: number }): Tensor
  /** The residual stream: x + gate · y (or x + y). x [B, …, C] f32, y of its shape in any dtype, gate [B, C] f32. */
  gatedAdd(x: Tensor, y: Tensor, gate?: Tensor): Tensor
  /** dy = gate · dx, in `dtype`; the gradient of x is dx itself. */
  gatedAddGrad(dx: Tensor, gate: Tensor | undefined, dtype: DType): Tensor

  /** Channels-last convolution. x [B, T, Y, X, K], weight [O, kT, kY, kX, K]; returns [B, T', Y', X', O]. */
  conv3d(x: Tensor, weight: Tensor, options?: Conv3dOptions): Tensor

  /** Rows of a table: ids [...] i32 or u32, table [V, C]; returns [..., C] in `dtype` (the table's unless given). */
  embedding(table: Tensor, ids: Tensor, options?: { dtype?: DType }): Tensor

  cast(x: Tensor, dtype: DType): Tensor
  /** Same elements, other shape: shares the storage. */
  reshape(x: Tensor, shape: readonly number[]): Tensor
  /** Copies. axes[i] is the axis of x that becomes axis i. */
  permute(x: Tensor, axes: readonly number[]): Tensor
  /** Copies start (inclusive) to end (exclusive) of an axis. */
  slice(x: Tensor, axis: number, start: number, end: number): Tensor
  concat(parts: readonly Tensor[], axis: number): Tensor

  /** Loss of each batch item: prediction and target [B, …]; returns [B] f32. */
  loss(prediction: Tensor, target: Tensor, options: LossOptions): Tensor
  /** d(Σ_b itemScale[b] · loss_b) / d prediction, f32, of its shape. `itemScale` has B numbers (1/B, weights, loss scale). */
  lossGrad(
    prediction: Tensor,
    target: Tensor,
    options: LossOptions & { itemScale: readonly number[] },
  ): Tensor

  /** Sum of the squares of all elements of all tensors: [1] f32. Not finite if any element is not. */
  sumSquares(tensors: readonly Tensor[]): Tensor
  /** In place: target += scale · source, both f32. */
  addInto(target: Tensor, source: Tensor, scale?: number): void
  /**
   * In place, decoupled weight decay (Loshchilov and Hutter 2019): p −= lr·wd·p; m, v as in Adam;
   * p −= lr · (m/(1−β1^t)) / (√(v/(1−β2^t)) + eps).
   */
  adamw(slots: readonly AdamWSlot[], options: AdamWOptions): void
  /**
   * The same with m and v kept in 8 bits between updates (Dettmers et al. 2021, block-wise): read, moved on in f32, used for the
   * update as they are, and only then rounded to the nearest number of their block. Of two that are equally near, the smaller
   * magnitude; a v above 0 never becomes 0, for then nothing would bound the next update.
   */
  adamw8bit(slots: readonly AdamW8bitSlot[], options: AdamWOptions): void

  /** Frees, at its end, all that was allocated in `fn` and is not in its result. */
  scope<T>(fn: () => T): T
  /**
   * Runs a block that will be run again on the way back. `fn` must use only the ops it is given, and reach every tensor that
   * needs a gradient through `inputs` or through adapters. On a device this is `scope`.
   */
  checkpoint(
    fn: (ops: Ops, ...inputs: Tensor[]) => Tensor,
    inputs: readonly Tensor[],
    options?: CheckpointOptions,
  ): Tensor
}
