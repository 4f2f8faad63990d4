import { numElements, type Ops } from '@kinora/kernel-api'

import { wgpuErrors } from './errors.ts'
import { adamw } from './kernels/adamw/adamw.ts'
import { adamw8bit } from './kernels/adamw8bit/adamw8bit.ts'
import { addInto } from './kernels/add-into/add-into.ts'
import { attention, attentionGrad } from './kernels/attention/attention.ts'
import { applyBinary } from './kernels/binary/binary.ts'
import { castTo } from './kernels/cast/cast.ts'
import { conv3d } from './kernels/conv3d/conv3d.ts'
import { embedding } from './kernels/embedding/embedding.ts'
import { gatedAdd, gatedAddGrad } from './kernels/gated-add/gated-add.ts'
import { linear, linearGrad } from './kernels/linear/linear.ts'
import { loss, lossGrad } from './kernels/loss/loss.ts'
import { layerNorm, layerNormGrad, rmsNorm, rmsNormGrad } from './kernels/norm/norm.ts'
import { applyPointwise, dropout, geluGrad } from './kernels/pointwise/pointwise.ts'
import { quantize } from './kernels/quantize/quantize.ts'
import { rope } from './kernels/rope/rope.ts'
import { concat, permute, slice } from './kernels/strided-copy/strided-copy.ts'
import { sumSquares } from './kernels/sum-squares/sum-squares.ts'
import type { Runner } from './program/runner.ts'

/** kernel-api's ops on a runner. Each runs in a scope of its own, so its scratch is free for the next. */
export function createOps(run: Runner): Ops {
  const ops: Ops = {
    linear: (x, weight, options) => run.scope(() => linear(run, x, weight, options)),
    linearGrad: (dy, x, weight, options) =>
      run.scope(() => linearGrad(run, dy, x, weight, options)),
    quantize: (weight, format, options) => run.scope(() => quantize(run, weight, format, options)),
    attention: (q, k, v, options) => run.scope(() => attention(run, q, k, v, options)),
    attentionGrad: (dout, saved, options) =>
      run.scope(() => attentionGrad(run, dout, saved, options)),
    layerNorm: (x, options) => run.scope(() => layerNorm(run, x, options)),
    layerNormGrad: (dy, x, options) => run.scope(() => layerNormGrad(run, dy, x, options)),
    rmsNorm: (x, weight, options) => run.scope(() => rmsNorm(run, x, weight, options)),
    rmsNormGrad: (dy, x, weight, options) =>
      run.scope(() => rmsNormGrad(run, dy, x, weight, options)),
    rope: (x, cos, sin, options) => run.scope(() => rope(run, x, cos, sin, options)),
    gelu: (x) => run.scope(() => applyPointwise(run, 'gelu', x)),
    geluGrad: (dy, x) => run.scope(() => geluGrad(run, dy, x)),
    silu: (x) => run.scope(() => applyPointwise(run, 'silu', x)),
    rsqrt: (x) => run.scope(() => applyPointwise(run, 'rsqrt', x)),
    dropout: (x, options) => run.scope(() => dropout(run, x, options)),
    add: (a, b) => run.scope(() => applyBinary(run, 'add', a, b)),
    mul: (a, b) => run.scope(() => applyBinary(run, 'mul', a, b)),
    affine: (x, options) => run.scope(() => applyPointwise(run, 'affine', x, options)),
    gatedAdd: (x, y, gate) => run.scope(() => gatedAdd(run, x, y, gate)),
    gatedAddGrad: (dx, gate, dtype) => run.scope(() => gatedAddGrad(run, dx, gate, dtype)),
    conv3d: (x, weight, options) => run.scope(() => conv3d(run, x, weight, options)),
    embedding: (table, ids, options) => run.scope(() => embedding(run, table, ids, options)),
    cast: (x, dtype) => run.scope(() => castTo(run, run.own('cast', x), dtype)),
    reshape: (x, shape) => {
      const own = run.own('reshape', x)
      if (numElements(shape) !== own.numElements) {
        throw wgpuErrors.BAD_SHAPE(
          'reshape',
          `[${x.shape.join(', ')}] and [${shape.join(', ')}] differ in their number of elements.`,
        )
      }
      return run.view(own, shape)
    },
    permute: (x, axes) => run.scope(() => permute(run, run.own('permute', x), axes)),
    slice: (x, axis, start, end) =>
      run.scope(() => slice(run, run.own('slice', x), axis, start, end)),
    concat: (parts, axis) =>
      run.scope(() =>
        concat(
          run,
          parts.map((part) => run.own('concat', part)),
          axis,
        ),
      ),
    loss: (prediction, target, options) => run.scope(() => loss(run, prediction, target, options)),
    lossGrad: (prediction, target, options) =>
      run.scope(() => lossGrad(run, prediction, target, options)),
    sumSquares: (tensors) => run.scope(() => sumSquares(run, tensors)),
    addInto: (target, source, scale) => addInto(run, target, source, scale),
    adamw: (slots, options) => adamw(run, slots, options),
    adamw8bit: (slots, options) => adamw8bit(run, slots, options),
    scope: (fn) => run.scope(fn),
    checkpoint: (fn, inputs) => run.scope(() => fn(ops, ...inputs)),
  }
  return ops
}
