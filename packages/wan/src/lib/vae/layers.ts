import type { Ops, Tensor } from '@kinora/kernel-api'
import type { Conv, Linear, WeightLoader } from '../checkpoint/weight-loader.ts'
import type { TemporalMemory } from './temporal-memory.ts'

// The layers of the Wan VAE. Axes: B batch, T frames, Y rows, X columns, C channels, P positions = Y · X. Channels last, f32.

export interface ResidualWeights {
  readonly norm1: Tensor
  readonly conv1: Conv
  readonly norm2: Tensor
  readonly conv2: Conv
  /** 1 × 1 × 1, where the channel count changes. */
  readonly shortcut: Linear | undefined
}

export interface AttentionWeights {
  readonly norm: Tensor
  readonly qkv: Linear
  readonly proj: Linear
}

export interface MiddleWeights {
  readonly first: ResidualWeights
  readonly attention: AttentionWeights
  readonly second: ResidualWeights
}

export interface ResampleWeights {
  readonly conv: Conv
  /** Three frames long, where the frame rate changes too. */
  readonly timeConv: Conv | undefined
}

/**
 * Convolution that sees no later frame: two frames lie before each chunk, remembered ones or, before the clip, zeros. Rows and
 * columns are padded with zeros on both sides to keep their size.
 */
export function causalConv(ops: Ops, x_BTYXC: Tensor, conv: Conv, memory: TemporalMemory): Tensor {
  const [, , ky, kx] = conv.weight.shape as [number, number, number, number]
  const past = memory.recall(conv)
  const input = past ? ops.concat([past, x_BTYXC], 1) : x_BTYXC
  memory.remember(ops, conv, input, 2)
  const missing = 2 - (past?.shape[1] ?? 0)
  return ops.conv3d(input, conv.weight, {
    bias: conv.bias,
    padding: [
      [missing, 0],
      [(ky - 1) / 2, (ky - 1) / 2],
      [(kx - 1) / 2, (kx - 1) / 2],
    ],
  })
}

/**
 * y = x / max(‖x‖, 1e-12) · √C · gamma over the channels. As x / √(mean(x²) + 1e-24 / C) · gamma it differs only where the
 * norm is near 1e-12.
 */
function channelNorm(ops: Ops, x_BTYXC: Tensor, gamma_C: Tensor): Tensor {
  return ops.rmsNorm(x_BTYXC, gamma_C, { eps: 1e-24 / gamma_C.shape[0]! })
}

/** SiLU(norm(x)). */
export function activated(ops: Ops, x_BTYXC: Tensor, gamma_C: Tensor): Tensor {
  return ops.scope(() => ops.silu(channelNorm(ops, x_BTYXC, gamma_C)))
}

/** conv₂(SiLU(norm₂(conv₁(SiLU(norm₁(x)))))) + shortcut(x). */
export function residual(
  ops: Ops,
  x_BTYXC: Tensor,
  w: ResidualWeights,
  memory: TemporalMemory,
): Tensor {
  return ops.scope(() => {
    const h = ops.scope(() => causalConv(ops, activated(ops, x_BTYXC, w.norm1), w.conv1, memory))
    const y = ops.scope(() => causalConv(ops, activated(ops, h, w.norm2), w.conv2, memory))
    return ops.add(y, w.shortcut ? pointwise(ops, x_BTYXC, w.shortcut) : x_BTYXC)
  })
}

/** Single-head attention over the positions of each frame. */
function frameAttention(ops: Ops, x_BTYXC: Tensor, w: AttentionWeights): Tensor {
  return ops.scope(() => {
    const [b, t, y, x, c] = x_BTYXC.shape as [number, number, number, number, number]
    const qkv = pointwise(ops, channelNorm(ops, x_BTYXC, w.norm), w.qkv)
    const [q, k, v] = [0, 1, 2].map((part) =>
      ops.reshape(ops.slice(qkv, 4, part * c, (part + 1) * c), [b * t, y * x, 1, c]),
    ) as [Tensor, Tensor, Tensor]
    const { out } = ops.attention(q, k, v)
    return ops.add(pointwise(ops, ops.reshape(out, x_BTYXC.shape), w.proj), x_BTYXC)
  })
}

export function middle(
  ops: Ops,
  x_BTYXC: Tensor,
  w: MiddleWeights,
  memory: TemporalMemory,
): Tensor {
  return ops.scope(() => {
    const first = residual(ops, x_BTYXC, w.first, memory)
    return residual(ops, frameAttention(ops, first, w.attention), w.second, memory)
  })
}

/**
 * Halves rows and columns; then, where `timeConv` is, frames: the first frame of the clip passes as it is, and each pair after
 * it becomes one frame that also sees the frame before the pair.
 */
export function downsample(
  ops: Ops,
  x_BTYXC: Tensor,
  { conv, timeConv }: ResampleWeights,
  memory: TemporalMemory,
): Tensor {
  return ops.scope(() => {
    const small = ops.conv3d(x_BTYXC, conv.weight, {
      bias: conv.bias,
      stride: [1, 2, 2],
      padding: [
        [0, 0],
        [0, 1],
        [0, 1],
      ],
    })
    if (!timeConv) return small
    const first = memory.isFirst(timeConv)
    const input = first ? small : ops.concat([memory.recall(timeConv)!, small], 1)
    memory.remember(ops, timeConv, small, 1)
    const halved = () =>
      ops.conv3d(input, timeConv.weight, { bias: timeConv.bias, stride: [2, 1, 1] })
    if (!first) return halved()
    const still = ops.slice(small, 1, 0, 1)
    return small.shape[1] === 1 ? still : ops.concat([still, halved()], 1)
  })
}

/**
 * Where `timeConv` is, doubles the frames: the first of the clip passes as it is and is not seen by the others; each of the
 * others gives two, from the two halves of the channels. Then doubles rows and columns by repeating, and halves the channels.
 */
export function upsample(
  ops: Ops,
  x_BTYXC: Tensor,
  { conv, timeConv }: ResampleWeights,
  memory: TemporalMemory,
): Tensor {
  return ops.scope(() => {
    const frames = timeConv ? doubleFrames(ops, x_BTYXC, timeConv, memory) : x_BTYXC
    return ops.conv3d(frames, conv.weight, {
      bias: conv.bias,
      upsample: 2,
      padding: [
        [0, 0],
        [1, 1],
        [1, 1],
      ],
    })
  })
}

function doubleFrames(ops: Ops, x_BTYXC: Tensor, timeConv: Conv, memory: TemporalMemory): Tensor {
  const t = x_BTYXC.shape[1]!
  if (!memory.isFirst(timeConv)) return doubled(ops, x_BTYXC, timeConv, memory)
  if (t === 1) return x_BTYXC
  return ops.concat(
    [ops.slice(x_BTYXC, 1, 0, 1), doubled(ops, ops.slice(x_BTYXC, 1, 1, t), timeConv, memory)],
    1,
  )
}

function doubled(ops: Ops, x_BTYXC: Tensor, timeConv: Conv, memory: TemporalMemory): Tensor {
  const [b, t, y, x, c] = x_BTYXC.shape as [number, number, number, number, number]
  const pairs = ops.reshape(causalConv(ops, x_BTYXC, timeConv, memory), [b, t, y, x, 2, c])
  return ops.reshape(ops.permute(pairs, [0, 1, 4, 2, 3, 5]), [b, 2 * t, y, x, c])
}

/** A 1 × 1 × 1 convolution. */
export function pointwise(ops: Ops, x_BTYXC: Tensor, w: Linear): Tensor {
  return ops.linear(x_BTYXC, w.weight, { bias: w.bias })
}

export async function loadResidual(
  loader: WeightLoader,
  prefix: string,
  inner: number,
  out: number,
): Promise<ResidualWeights> {
  return {
    norm1: await loader.vector(`${prefix}.norm1.gamma`),
    conv1: await loader.conv(`${prefix}.conv1`),
    norm2: await loader.vector(`${prefix}.norm2.gamma`),
    conv2: await loader.conv(`${prefix}.conv2`),
    shortcut: inner === out ? undefined : await loader.linear(`${prefix}.conv_shortcut`, 'f32'),
  }
}

export async function loadMiddle(
  loader: WeightLoader,
  prefix: string,
  channels: number,
): Promise<MiddleWeights> {
  return {
    first: await loadResidual(loader, `${prefix}.resnets.0`, channels, channels),
    attention: {
      norm: await loader.vector(`${prefix}.attentions.0.norm.gamma`),
      qkv: await loader.linear(`${prefix}.attentions.0.to_qkv`, 'f32'),
      proj: await loader.linear(`${prefix}.attentions.0.proj`, 'f32'),
    },
    second: await loadResidual(loader, `${prefix}.resnets.1`, channels, channels),
  }
}

export async function loadResample(
  loader: WeightLoader,
  prefix: string,
  temporal: boolean,
): Promise<ResampleWeights> {
  return {
    conv: await loader.conv(`${prefix}.resample.1`),
    timeConv: temporal ? await loader.conv(`${prefix}.time_conv`) : undefined,
  }
}
