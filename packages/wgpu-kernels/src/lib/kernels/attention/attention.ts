// Axes: B batch, N queries, M keys, H heads, D head channels.
import type { AttentionOptions, AttentionResult, Tensor } from '@kinora/kernel-api'

import { wgpuErrors } from '../../errors.ts'
import { computable, produce } from '../../program/compute-dtype.ts'
import {
  expectF32,
  expectFloat,
  expectRank,
  expectSameShape,
  expectShape,
} from '../../program/expect.ts'
import type { Runner } from '../../program/runner.ts'
import type { WgpuTensor } from '../../tensor/wgpu-tensor.ts'
import { chooseAttentionUnit, type AttentionUnitName } from '../../tuning/attention-schedule.ts'
import { concat, slice } from '../strided-copy/strided-copy.ts'
import type { AttentionCall, AttentionUnit } from './attention-call.ts'
import { flash } from './flash/flash.ts'
import { materialised } from './materialised/materialised.ts'
import { matrix } from './matrix/matrix.ts'

const units: Record<AttentionUnitName, (run: Runner) => AttentionUnit> = {
  materialised,
  flash,
  matrix,
}

function prepare(
  run: Runner,
  op: string,
  q: Tensor,
  k: Tensor,
  v: Tensor,
  { scale, bias, keyBias }: AttentionOptions,
): AttentionCall {
  for (const [name, tensor] of Object.entries({ q, k, v })) {
    expectFloat(op, name, tensor)
    expectRank(op, name, tensor, 4)
  }
  const [B, N, H, D] = q.shape as [number, number, number, number]
  const M = k.shape[1]!
  expectShape(op, 'k', k, [B, M, H, D])
  expectShape(op, 'v', v, [B, M, H, D])
  if (bias) {
    expectF32(op, 'bias', bias)
    expectShape(op, 'bias', bias, [H, N, M])
  }
  if (keyBias) {
    expectF32(op, 'keyBias', keyBias)
    expectShape(op, 'keyBias', keyBias, [B, M])
  }
  return {
    B,
    N,
    M,
    H,
    D,
    q: computable(run, op, q),
    k: computable(run, op, k),
    v: computable(run, op, v),
    scale: scale ?? 1 / Math.sqrt(D),
    bias: bias && run.own(op, bias),
    keyBias: keyBias && run.own(op, keyBias),
  }
}

/** Which axis to cut so that every tensor fits one binding, if any must be cut. */
function axisToCut(
  run: Runner,
  op: string,
  tensors: readonly Tensor[],
): 'heads' | 'batch' | undefined {
  const { maxBindingBytes } = run.profile.limits
  const tooLarge = tensors.find((tensor) => run.own(op, tensor).sizeBytes > maxBindingBytes)
  if (!tooLarge) return undefined
  const [B, , H] = tensors[0]!.shape as [number, number, number, number]
  if (H > 1) return 'heads'
  if (B > 1) return 'batch'
  throw wgpuErrors.BINDING_TOO_LARGE(
    op,
    `[${tooLarge.shape.join(', ')}]`,
    run.own(op, tooLarge).sizeBytes,
    maxBindingBytes,
  )
}

/** Both halves of a tensor along an axis. */
function cut(run: Runner, tensor: Tensor, axis: number): [WgpuTensor, WgpuTensor] {
  const own = run.own('attention', tensor)
  const extent = own.shape[axis]!
  const middle = Math.ceil(extent / 2)
  return [slice(run, own, axis, 0, middle), slice(run, own, axis, middle, extent)]
}

/** The options of both halves: a bias belongs to heads, a key bias to batch items. */
function cutOptions(
  run: Runner,
  options: AttentionOptions,
  along: 'heads' | 'batch',
): [AttentionOptions, AttentionOptions] {
  const bias = options.bias && along === 'heads' ? cut(run, options.bias, 0) : undefined
  const keyBias = options.keyBias && along === 'batch' ? cut(run, options.keyBias, 0) : undefined
  const half = (i: 0 | 1): AttentionOptions => ({
    ...options,
    ...(bias ? { bias: bias[i] } : {}),
    ...(keyBias ? { keyBias: keyBias[i] } : {}),
  })
  return [half(0), half(1)]
}

/** `Ops.attention`. */
export function attention(
  run: Runner,
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options: AttentionOptions = {},
): AttentionResult {
  const call = prepare(run, 'attention', q, k, v, options)
  const { scale } = call
  const along = axisToCut(run, 'attention', [q, k, v])
  if (along) {
    const axis = along === 'heads' ? 2 : 0
    const [qs, ks, vs] = [cut(run, q, axis), cut(run, k, axis), cut(run, v, axis)]
    const halves = cutOptions(run, { ...options, scale }, along).map((half, i) =>
      attention(run, qs[i]!, ks[i]!, vs[i]!, half),
    )
    return {
      out: concat(
        run,
        halves.map(({ out }) => out as WgpuTensor),
        axis,
      ),
      lse: concat(
        run,
        halves.map(({ lse }) => lse as WgpuTensor),
        along === 'heads' ? 1 : 0,
      ),
    }
  }
  const lse = run.alloc([call.B, call.H, call.N], 'f32')
  const unit = units[chooseAttentionUnit(run.profile, call, 'attention')](run)
  const out = produce(run, q.shape, q.dtype, (y) => unit.forward(call, y, lse))
  return { out, lse }
}

/** `Ops.attentionGrad`. */
export function attentionGrad(
  run: Runner,
  dout: Tensor,
  saved: { q: Tensor; k: Tensor; v: Tensor } & AttentionResult,
  options: AttentionOptions = {},
): { dq: Tensor; dk: Tensor; dv: Tensor } {
  const op = 'attentionGrad'
  const { q, k, v, out, lse } = saved
  const call = prepare(run, op, q, k, v, options)
  expectFloat(op, 'dout', dout)
  expectSameShape(op, 'dout', dout, q)
  expectSameShape(op, 'out', out, q)
  expectF32(op, 'lse', lse)
  expectShape(op, 'lse', lse, [call.B, call.H, call.N])
  const along = axisToCut(run, op, [q, k, v, dout])
  if (along) {
    const axis = along === 'heads' ? 2 : 0
    const cuts = [dout, q, k, v, out].map((tensor) => cut(run, tensor, axis))
    const lses = cut(run, lse, along === 'heads' ? 1 : 0)
    const halves = cutOptions(run, { ...options, scale: call.scale }, along).map((half, i) => {
      const [d, qi, ki, vi, oi] = cuts.map((pair) => pair[i as 0 | 1]) as [
        WgpuTensor,
        WgpuTensor,
        WgpuTensor,
        WgpuTensor,
        WgpuTensor,
      ]
      return attentionGrad(run, d, { q: qi, k: ki, v: vi, out: oi, lse: lses[i as 0 | 1] }, half)
    })
    const join = (name: 'dq' | 'dk' | 'dv'): WgpuTensor =>
      concat(
        run,
        halves.map((half) => half[name] as WgpuTensor),
        axis,
      )
    return { dq: join('dq'), dk: join('dk'), dv: join('dv') }
  }
  const grad = {
    ...call,
    dout: computable(run, op, dout),
    out: computable(run, op, out),
    lse: run.own(op, lse),
  }
  const unit = units[chooseAttentionUnit(run.profile, grad, 'attention-gradient')](run)
  let dk: WgpuTensor | undefined
  let dv: WgpuTensor | undefined
  const dq = produce(run, q.shape, q.dtype, (yq) => {
    dk = produce(run, k.shape, k.dtype, (yk) => {
      dv = produce(run, v.shape, v.dtype, (yv) => unit.backward(grad, yq, yk, yv))
    })
  })
  return { dq, dk: dk!, dv: dv! }
}
