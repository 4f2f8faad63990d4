import {
  isPackedWeight,
  type Adapter,
  type Device,
  type Tensor,
  type Weight,
} from '@kinora/kernel-api'

// Lengths of the columns of a weight [O, K] and of a weight with a low-rank branch: what DoRA divides by.

/** Rows of a packed weight that are unpacked at a time. */
const rowsAtOnce = 512

/** Sums of the columns of x [R, C]: [1, C] in f32. */
function sumOfRows(device: Device, x: Tensor): Tensor {
  const ones = device.upload(new Float32Array(x.shape[0]!).fill(1), [1, x.shape[0]!], 'f32')
  return device.ops.linear(ones, device.ops.permute(x, [1, 0]))
}

/** Σ_o W[o, k]², [K] f32. */
export function columnSquares(device: Device, weight: Weight): Tensor {
  const { ops } = device
  const [outFeatures, inFeatures] = weight.shape as readonly [number, number]
  const squaresOf = (rows: Tensor): Tensor => sumOfRows(device, ops.mul(rows, rows))
  if (!isPackedWeight(weight)) {
    return ops.scope(() =>
      ops.reshape(squaresOf(weight.dtype === 'f32' ? weight : ops.cast(weight, 'f32')), [
        inFeatures,
      ]),
    )
  }
  return ops.scope(() => {
    let sum: Tensor | undefined
    for (let start = 0; start < outFeatures; start += rowsAtOnce) {
      const count = Math.min(rowsAtOnce, outFeatures - start)
      const part = ops.scope(() => squaresOf(rowsOf(device, weight, start, count)))
      if (sum) ops.addInto(sum, part)
      else sum = part
    }
    return ops.reshape(sum!, [inFeatures])
  })
}

/** Rows of a weight of any format, f32: the gradient that rows of the identity have through it. */
function rowsOf(device: Device, weight: Weight, start: number, count: number): Tensor {
  const [outFeatures, inFeatures] = weight.shape as readonly [number, number]
  const identity = new Float32Array(count * outFeatures)
  for (let row = 0; row < count; row++) identity[row * outFeatures + start + row] = 1
  const x = device.zeros([count, inFeatures], 'f32')
  const dy = device.upload(identity, [count, outFeatures], 'f32')
  return device.ops.linearGrad(dy, x, weight, { needsX: true, dtype: 'f32' }).dx!
}

/**
 * 1 / ‖column of W + scale · b a‖, [K] f32, from the squares of W alone:
 * Σ_o (W + s b a)² = Σ_o W² + 2s Σ_r a ∘ (bᵀ W) + s² Σ_r a ∘ (bᵀ b a).
 */
export function inverseColumnLengths(
  device: Device,
  weight: Weight,
  squares_K: Tensor,
  { a, b, scale }: Adapter,
): Tensor {
  const { ops } = device
  return ops.scope(() => {
    const bt = ops.permute(b, [1, 0])
    const btW = ops.linearGrad(bt, a, weight, { needsX: true, dtype: 'f32' }).dx!
    const btb = ops.linear(bt, bt)
    const btba = ops.linearGrad(btb, a, a, { needsX: true }).dx!
    const mixed = ops.add(
      ops.affine(btW, { scale: 2 * scale }),
      ops.affine(btba, { scale: scale ** 2 }),
    )
    const change = ops.reshape(sumOfRows(device, ops.mul(a, mixed)), squares_K.shape)
    // A column of zeros keeps its direction, whatever length it is given.
    return ops.rsqrt(ops.affine(ops.add(squares_K, change), { offset: 1e-12 }))
  })
}
