import type { Adapter, DropoutOptions, Ops, Tensor } from '@kinora/kernel-api'
import type { Linear } from '../checkpoint/weight-loader.ts'

// Axes: R rows (all leading axes of x), K in features, O out features, r rank; of a Kronecker product [O1, I1] ⊗ [O2, I2].

/** A low-rank branch, y += scale · dropout(x aᵀ) bᵀ, or with a magnitude a DoRA. */
export interface LowRankAdapter extends Adapter {
  /** Which elements of x aᵀ are left out while training; of no effect on a DoRA. */
  dropout?: DropoutOptions | undefined
  /**
   * DoRA (Liu et al. 2024): V = W + scale · b a, with column k brought to the length magnitude[k], takes the place of W. [K] f32. The
   * lengths of V are constants to gradients (section 4.3).
   */
  magnitude?: Tensor | undefined
  /** DoRA: how far from W to that, 1 being all the way; 1 unless given. */
  strength?: number | undefined
}

/** A LoKr branch, y += scale · x (w1 ⊗ w2)ᵀ. */
export interface KroneckerAdapter {
  /** [O1, I1] f32. */
  w1: Tensor
  /** [O2, I2] f32, or as the product of a [O2, r] and b [r, I2]. */
  w2: Tensor | { a: Tensor; b: Tensor }
  scale: number
}

/** What may join a linear. */
export type ModuleAdapter = LowRankAdapter | KroneckerAdapter

export const isKronecker = (adapter: ModuleAdapter): adapter is KroneckerAdapter => 'w1' in adapter

type Dora = LowRankAdapter & { magnitude: Tensor }
export const isDora = (adapter: ModuleAdapter): adapter is Dora =>
  !isKronecker(adapter) && adapter.magnitude !== undefined

/** In and out features that an adapter is for; undefined where its own tensors do not fit each other. */
export function adapterFeatures(
  adapter: ModuleAdapter,
): { inFeatures: number; outFeatures: number } | undefined {
  if (isKronecker(adapter)) {
    const { w1, w2 } = adapter
    const [o1, i1] = w1.shape as [number, number]
    if ('shape' in w2) return { inFeatures: i1 * w2.shape[1]!, outFeatures: o1 * w2.shape[0]! }
    if (w2.a.shape[1] !== w2.b.shape[0]) return undefined
    return { inFeatures: i1 * w2.b.shape[1]!, outFeatures: o1 * w2.a.shape[0]! }
  }
  const { a, b, magnitude } = adapter
  if (a.shape[0] !== b.shape[1]) return undefined
  if (magnitude && magnitude.shape[0] !== a.shape[1]) return undefined
  return { inFeatures: a.shape[1]!, outFeatures: b.shape[0]! }
}

/** Shapes of an adapter's tensors, for messages. */
export function describeAdapter(adapter: ModuleAdapter): string {
  const tensors = isKronecker(adapter)
    ? [adapter.w1, ...('shape' in adapter.w2 ? [adapter.w2] : [adapter.w2.a, adapter.w2.b])]
    : [adapter.a, adapter.b, ...(adapter.magnitude ? [adapter.magnitude] : [])]
  return tensors.map(({ shape }) => `[${shape.join(', ')}]`).join(' and ')
}

/**
 * A linear with the adapters that join it, summed in order. A DoRA replaces the weight rather than adding to it; where several do,
 * their differences from the plain weight add up.
 *
 * @param inverseLengths of a DoRA: 1 / ‖column of V‖, [K], which no gradient goes through
 * @param name in a `keep` list
 */
export function adaptedLinear(
  ops: Ops,
  x: Tensor,
  linear: Linear,
  adapters: readonly ModuleAdapter[],
  inverseLengths: (adapter: LowRankAdapter) => Tensor,
  name: string,
): Tensor {
  const doras = adapters.filter(isDora)
  if (doras.length === 0) return plainLinear(ops, x, linear, adapters, name)
  const others = adapters.filter((adapter) => !isDora(adapter))
  const terms = doras.map((dora, i) => {
    const { a, b, scale, strength = 1 } = dora
    const y = ops.scope(() =>
      plainLinear(
        ops,
        ops.mul(x, ops.mul(dora.magnitude, inverseLengths(dora))),
        linear,
        [...others, { a, b, scale }],
        i === 0 ? name : undefined,
      ),
    )
    return { y, strength }
  })
  const rest = 1 - terms.reduce((sum, { strength }) => sum + strength, 0)
  if (rest !== 0) {
    terms.push({ y: plainLinear(ops, x, linear, others, undefined), strength: rest })
  }
  return terms
    .map(({ y, strength }) => (strength === 1 ? y : ops.affine(y, { scale: strength })))
    .reduce((sum, y) => ops.add(sum, y))
}

/** Plain pairs ride in the linear itself; what is more than that is added to its result. */
function plainLinear(
  ops: Ops,
  x: Tensor,
  linear: Linear,
  adapters: readonly ModuleAdapter[],
  name: string | undefined,
): Tensor {
  const isPair = (adapter: ModuleAdapter): adapter is LowRankAdapter =>
    !isKronecker(adapter) && adapter.dropout === undefined
  const plain = (): Tensor =>
    ops.linear(x, linear.weight, {
      bias: linear.bias,
      adapters: adapters.filter(isPair),
      name,
    })
  const others = adapters.filter((adapter) => !isPair(adapter))
  if (others.length === 0) return plain()
  return ops.scope(() =>
    others.reduce(
      (sum, adapter) =>
        ops.add(
          sum,
          ops.scope(() => branch(ops, x, adapter)),
        ),
      plain(),
    ),
  )
}

/** What an adapter adds. */
function branch(ops: Ops, x: Tensor, adapter: ModuleAdapter): Tensor {
  if (isKronecker(adapter)) return kroneckerBranch(ops, x, adapter)
  const { a, b, scale, dropout } = adapter
  const u = ops.linear(x, a, { dtype: 'f32' })
  const y = ops.linear(dropout ? ops.dropout(u, dropout) : u, b, { dtype: x.dtype })
  return scale === 1 ? y : ops.affine(y, { scale })
}

/**
 * x as R matrices [I1, I2]: the product with w2 along the one side, then with w1 along the other. What is in between is as large as
 * the network's own values and has their dtype; each goes as soon as the next is there.
 */
function kroneckerBranch(ops: Ops, x: Tensor, { w1, w2, scale }: KroneckerAdapter): Tensor {
  const whole = 'shape' in w2 ? w2 : ops.linear(w2.a, ops.permute(w2.b, [1, 0]))
  const [o1, i1] = w1.shape as readonly [number, number]
  const [o2, i2] = whole.shape as readonly [number, number]
  const rows = x.shape.slice(0, -1).reduce((product, extent) => product * extent, 1)
  const turned = (product: () => Tensor): Tensor =>
    ops.scope(() => ops.permute(product(), [0, 2, 1]))
  const inner = turned(() => ops.linear(ops.reshape(x, [rows, i1, i2]), whole))
  const outer = turned(() => ops.linear(inner, scale === 1 ? w1 : ops.affine(w1, { scale })))
  return ops.reshape(outer, [...x.shape.slice(0, -1), o1 * o2])
}
