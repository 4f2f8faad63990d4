import {
  defaultGroupSize,
  isPackedWeight,
  numElements,
  stateBlockSize,
  type AdamW8bitSlot,
  type AdamWOptions,
  type AdamWSlot,
  type Adapter,
  type AttentionOptions,
  type AttentionResult,
  type BlockState,
  type Conv3dOptions,
  type DropoutOptions,
  type DType,
  type LayerNormOptions,
  type LinearGradOptions,
  type LinearGrads,
  type LinearOptions,
  type LossOptions,
  type NormOptions,
  type Ops,
  type PackedFormat,
  type PackedWeight,
  type QuantizeOptions,
  type Tensor,
  type Weight,
} from '@kinora/kernel-api'
import { cpuKernelsErrors } from './errors.ts'
import { adamw } from './kernels/adamw.ts'
import { adamw8bit, type StateArrays } from './kernels/adamw8bit.ts'
import { attention, attentionGrad, type AttentionSizes } from './kernels/attention.ts'
import { conv3d } from './kernels/conv3d.ts'
import { gemm, rowMajor, transposed } from './kernels/gemm.ts'
import { copyRows, permute } from './kernels/layout.ts'
import { loss, lossGrad } from './kernels/loss.ts'
import {
  layerNorm,
  layerNormGrad,
  rmsNorm,
  rmsNormGrad,
  type ChannelArray,
} from './kernels/norm.ts'
import {
  add,
  affine,
  dropout,
  gated,
  gelu,
  geluGrad,
  mul,
  rope,
  rsqrt,
  silu,
} from './kernels/pointwise.ts'
import { quantizeFloat8, quantizeUint4 } from './kernels/quantize.ts'
import { unpackWeight } from './kernels/unpack-weight.ts'
import { describe, type FloatArray, type Memory } from './memory.ts'

const isSameShape = (a: readonly number[], b: readonly number[]) =>
  a.length === b.length && a.every((extent, axis) => extent === b[axis])

const lastExtent = (tensor: Tensor) => tensor.shape.at(-1) ?? 1
const isFloat = (dtype: DType) => dtype === 'f32' || dtype === 'f16' || dtype === 'bf16'

function check(condition: boolean, op: string, what: () => string): asserts condition {
  if (!condition) throw cpuKernelsErrors.BAD_ARGUMENT(op, what())
}

function checkShape(op: string, name: string, tensor: Tensor, shape: readonly number[]): void {
  check(isSameShape(tensor.shape, shape), op, () => {
    return `${name} is ${describe(tensor)}, but its shape must be [${shape.join(', ')}]`
  })
}

function checkF32(op: string, name: string, tensor: Tensor): void {
  check(tensor.dtype === 'f32', op, () => `${name} is ${describe(tensor)}, but must be f32`)
}

function checkAxis(op: string, x: Tensor, axis: number): void {
  check(Number.isInteger(axis) && axis >= 0 && axis < x.shape.length, op, () => {
    return `axis ${axis} is outside ${describe(x)}`
  })
}

/** Each op: check, allocate, one kernel over plain arrays, round to the result's dtype. */
export class CpuOps implements Ops {
  readonly #memory: Memory

  constructor(memory: Memory) {
    this.#memory = memory
  }

  linear(x: Tensor, weight: Weight, options: LinearOptions = {}): Tensor {
    const op = 'linear'
    const { bias, adapters = [], dtype = x.dtype } = options
    const K = lastExtent(x)
    const O = weight.shape[0]!
    const rows = numElements(x.shape.slice(0, -1))
    checkShape(op, 'bias', bias ?? weightLike([O]), [O])
    const xData = this.#memory.floats(op, x)
    const w = this.#weight(op, weight, K)
    const y = this.#float(op, [...x.shape.slice(0, -1), O], dtype)
    // Side branches add to a result that is still in full precision: rounding comes last.
    gemm(rows, O, K, rowMajor(xData, K), rowMajor(w, K), rowMajor(y.data, O), {
      bias: bias && this.#memory.floats(op, bias),
    })
    for (const adapter of adapters) {
      const { a, b, r } = this.#adapter(op, adapter, K, O)
      const u = new Float64Array(rows * r)
      gemm(rows, r, K, rowMajor(xData, K), rowMajor(a, K), rowMajor(u, r))
      gemm(rows, O, r, rowMajor(u, r), rowMajor(b, r), rowMajor(y.data, O), {
        alpha: adapter.scale,
        accumulate: true,
      })
    }
    return this.#memory.finish(y.tensor)
  }

  linearGrad(dy: Tensor, x: Tensor, weight: Weight, options: LinearGradOptions): LinearGrads {
    const op = 'linearGrad'
    const { adapters = [], dtype = dy.dtype, needsX } = options
    const K = lastExtent(x)
    const O = weight.shape[0]!
    const rows = numElements(x.shape.slice(0, -1))
    checkShape(op, 'dy', dy, [...x.shape.slice(0, -1), O])
    const dyRows = rowMajor(this.#memory.floats(op, dy), O)
    const xRows = rowMajor(this.#memory.floats(op, x), K)
    const dx = needsX ? this.#float(op, x.shape, dtype) : undefined
    if (dx) {
      const w = rowMajor(this.#weight(op, weight, K), K)
      gemm(rows, K, O, dyRows, transposed(w), rowMajor(dx.data, K))
    }
    const grads = adapters.map((adapter) => {
      const { a, b, r } = this.#adapter(op, adapter, K, O)
      const alpha = adapter.scale
      const u = new Float64Array(rows * r)
      const du = new Float64Array(rows * r)
      gemm(rows, r, K, xRows, rowMajor(a, K), rowMajor(u, r))
      gemm(rows, r, O, dyRows, transposed(rowMajor(b, r)), rowMajor(du, r), { alpha })
      const da = this.#float(op, adapter.a.shape, 'f32')
      const db = this.#float(op, adapter.b.shape, 'f32')
      gemm(r, K, rows, transposed(rowMajor(du, r)), transposed(xRows), rowMajor(da.data, K))
      gemm(O, r, rows, transposed(dyRows), transposed(rowMajor(u, r)), rowMajor(db.data, r), {
        alpha,
      })
      if (dx) {
        gemm(rows, K, r, rowMajor(du, r), transposed(rowMajor(a, K)), rowMajor(dx.data, K), {
          accumulate: true,
        })
      }
      return { da: da.tensor, db: db.tensor }
    })
    return dx ? { dx: this.#memory.finish(dx.tensor), adapters: grads } : { adapters: grads }
  }

  quantize(weight: Tensor, format: PackedFormat, options: QuantizeOptions = {}): PackedWeight {
    const op = 'quantize'
    const { groupSize = defaultGroupSize } = options
    check(weight.shape.length === 2, op, () => `weight is ${describe(weight)}, but must be [N, K]`)
    const shape = weight.shape as readonly [number, number]
    const [N, K] = shape
    const w = this.#memory.floats(op, weight)
    const isBf16 = weight.dtype === 'bf16'
    const isUint4 = format === 'uint4'
    check(isUint4 ? K % groupSize === 0 && groupSize % 8 === 0 : K % 4 === 0, op, () => {
      return `${K} columns are not whole ${isUint4 ? `groups of ${groupSize}, or those not whole words` : 'words'}`
    })
    const codes = this.#memory.allocate(op, [N, K / (isUint4 ? 8 : 4)], 'u32')
    const words = this.#memory.array(op, codes) as Uint32Array
    if (!isUint4) {
      const scales = this.#float(op, [N], 'f32')
      quantizeFloat8(w, isBf16, K, { codes: words, scales: scales.data })
      return { format, shape, codes, scales: scales.tensor }
    }
    const scales = this.#float(op, [N, K / groupSize], 'f16')
    const zeros = this.#float(op, [N, K / groupSize], 'f16')
    quantizeUint4(w, isBf16, groupSize, { codes: words, scales: scales.data, zeros: zeros.data })
    return { format, shape, codes, scales: scales.tensor, zeros: zeros.tensor, groupSize }
  }

  attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions = {}): AttentionResult {
    const op = 'attention'
    const sizes = attentionSizes(op, q, k, v, options)
    const out = this.#float(op, q.shape, q.dtype)
    const lse = this.#float(op, [sizes.B, sizes.H, sizes.N], 'f32')
    attention(
      {
        ...this.#attentionInputs(op, q, k, v, options),
        out: out.data,
        lse: lse.data,
      },
      sizes,
    )
    return { out: this.#memory.finish(out.tensor), lse: lse.tensor }
  }

  attentionGrad(
    dout: Tensor,
    saved: { q: Tensor; k: Tensor; v: Tensor } & AttentionResult,
    options: AttentionOptions = {},
  ): { dq: Tensor; dk: Tensor; dv: Tensor } {
    const op = 'attentionGrad'
    const { q, k, v, out, lse } = saved
    const sizes = attentionSizes(op, q, k, v, options)
    checkShape(op, 'dout', dout, q.shape)
    checkShape(op, 'out', out, q.shape)
    checkShape(op, 'lse', lse, [sizes.B, sizes.H, sizes.N])
    const dq = this.#float(op, q.shape, q.dtype)
    const dk = this.#float(op, k.shape, k.dtype)
    const dv = this.#float(op, v.shape, v.dtype)
    attentionGrad(
      this.#memory.floats(op, dout),
      {
        ...this.#attentionInputs(op, q, k, v, options),
        out: this.#memory.floats(op, out),
        lse: this.#memory.floats(op, lse),
      },
      sizes,
      { dq: dq.data, dk: dk.data, dv: dv.data },
    )
    return {
      dq: this.#memory.finish(dq.tensor),
      dk: this.#memory.finish(dk.tensor),
      dv: this.#memory.finish(dv.tensor),
    }
  }

  layerNorm(x: Tensor, options: LayerNormOptions): Tensor {
    const op = 'layerNorm'
    const { eps, weight, bias, dtype = x.dtype } = options
    const C = lastExtent(x)
    const y = this.#float(op, x.shape, dtype)
    const w = this.#channels(op, 'weight', weight, x)
    const b = this.#channels(op, 'bias', bias, x)
    const data = this.#memory.floats(op, x)
    layerNorm(data, y.data, data.length / C, C, eps, w, b)
    return this.#memory.finish(y.tensor)
  }

  layerNormGrad(dy: Tensor, x: Tensor, options: LayerNormOptions): Tensor {
    const op = 'layerNormGrad'
    const { eps, weight, dtype = x.dtype } = options
    const C = lastExtent(x)
    checkShape(op, 'dy', dy, x.shape)
    const dx = this.#float(op, x.shape, dtype)
    const w = this.#channels(op, 'weight', weight, x)
    const data = this.#memory.floats(op, x)
    layerNormGrad(this.#memory.floats(op, dy), data, dx.data, data.length / C, C, eps, w)
    return this.#memory.finish(dx.tensor)
  }

  rmsNorm(x: Tensor, weight: Tensor, { eps, dtype = x.dtype }: NormOptions): Tensor {
    const op = 'rmsNorm'
    const C = lastExtent(x)
    checkShape(op, 'weight', weight, [C])
    const y = this.#float(op, x.shape, dtype)
    const data = this.#memory.floats(op, x)
    rmsNorm(data, this.#memory.floats(op, weight), y.data, data.length / C, C, eps)
    return this.#memory.finish(y.tensor)
  }

  rmsNormGrad(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    { eps, dtype = x.dtype }: NormOptions,
  ): Tensor {
    const op = 'rmsNormGrad'
    const C = lastExtent(x)
    checkShape(op, 'dy', dy, x.shape)
    checkShape(op, 'weight', weight, [C])
    const dx = this.#float(op, x.shape, dtype)
    const data = this.#memory.floats(op, x)
    const w = this.#memory.floats(op, weight)
    rmsNormGrad(this.#memory.floats(op, dy), data, w, dx.data, data.length / C, C, eps)
    return this.#memory.finish(dx.tensor)
  }

  rope(x: Tensor, cos: Tensor, sin: Tensor, { inverse = false } = {}): Tensor {
    const op = 'rope'
    const [, N, H, D] = x.shape as [number, number, number, number]
    check(x.shape.length === 4 && D % 2 === 0, op, () => {
      return `x is ${describe(x)}, but must be [B, N, H, D] with D even`
    })
    checkShape(op, 'cos', cos, [N, D / 2])
    checkShape(op, 'sin', sin, [N, D / 2])
    const y = this.#float(op, x.shape, x.dtype)
    const c = this.#memory.floats(op, cos)
    const s = this.#memory.floats(op, sin)
    rope(this.#memory.floats(op, x), c, s, y.data, N, H, D, inverse ? -1 : 1)
    return this.#memory.finish(y.tensor)
  }

  gelu(x: Tensor): Tensor {
    const y = this.#float('gelu', x.shape, x.dtype)
    gelu(this.#memory.floats('gelu', x), y.data)
    return this.#memory.finish(y.tensor)
  }

  geluGrad(dy: Tensor, x: Tensor): Tensor {
    const op = 'geluGrad'
    checkShape(op, 'dy', dy, x.shape)
    const dx = this.#float(op, x.shape, dy.dtype)
    geluGrad(this.#memory.floats(op, dy), this.#memory.floats(op, x), dx.data)
    return this.#memory.finish(dx.tensor)
  }

  silu(x: Tensor): Tensor {
    const y = this.#float('silu', x.shape, x.dtype)
    silu(this.#memory.floats('silu', x), y.data)
    return this.#memory.finish(y.tensor)
  }

  rsqrt(x: Tensor): Tensor {
    const y = this.#float('rsqrt', x.shape, x.dtype)
    rsqrt(this.#memory.floats('rsqrt', x), y.data)
    return this.#memory.finish(y.tensor)
  }

  dropout(x: Tensor, options: DropoutOptions): Tensor {
    const op = 'dropout'
    const { probability } = options
    check(probability >= 0 && probability < 1, op, () => `its probability is ${probability}`)
    const y = this.#float(op, x.shape, x.dtype)
    dropout(this.#memory.floats(op, x), y.data, options)
    return this.#memory.finish(y.tensor)
  }

  add(a: Tensor, b: Tensor): Tensor {
    return this.#binary('add', a, b, add)
  }

  mul(a: Tensor, b: Tensor): Tensor {
    return this.#binary('mul', a, b, mul)
  }

  affine(x: Tensor, { scale = 1, offset = 0 }: { scale?: number; offset?: number }): Tensor {
    const y = this.#float('affine', x.shape, x.dtype)
    affine(this.#memory.floats('affine', x), y.data, scale, offset)
    return this.#memory.finish(y.tensor)
  }

  gatedAdd(x: Tensor, y: Tensor, gate?: Tensor): Tensor {
    const op = 'gatedAdd'
    checkShape(op, 'y', y, x.shape)
    const out = this.#float(op, x.shape, x.dtype)
    const g = this.#gate(op, gate, x)
    const C = lastExtent(x)
    const xData = this.#memory.floats(op, x)
    gated(xData, this.#memory.floats(op, y), g?.data, out.data, g?.rowsPerItem ?? 1, C)
    return this.#memory.finish(out.tensor)
  }

  gatedAddGrad(dx: Tensor, gate: Tensor | undefined, dtype: DType): Tensor {
    const op = 'gatedAddGrad'
    const out = this.#float(op, dx.shape, dtype)
    const g = this.#gate(op, gate, dx)
    const C = lastExtent(dx)
    const dxData = this.#memory.floats(op, dx)
    gated(undefined, dxData, g?.data, out.data, g?.rowsPerItem ?? 1, C)
    return this.#memory.finish(out.tensor)
  }

  conv3d(x: Tensor, weight: Tensor, options: Conv3dOptions = {}): Tensor {
    const op = 'conv3d'
    const { bias, stride = [1, 1, 1], upsample = 1 } = options
    const padding = options.padding ?? [
      [0, 0],
      [0, 0],
      [0, 0],
    ]
    check(x.shape.length === 5 && weight.shape.length === 5, op, () => {
      return `x is ${describe(x)} and weight ${describe(weight)}, but both must have 5 axes`
    })
    const [B, T, Y, X, K] = x.shape as [number, number, number, number, number]
    const [O, kT, kY, kX, weightK] = weight.shape as [number, number, number, number, number]
    check(weightK === K, op, () => {
      return `x has ${K} channels, but weight ${describe(weight)} takes ${weightK}`
    })
    checkShape(op, 'bias', bias ?? weightLike([O]), [O])
    const kernel = [kT, kY, kX] as const
    const extents = [T, Y * upsample, X * upsample]
    const out = kernel.map((size, axis) => {
      const [before, after] = padding[axis]!
      return Math.floor((extents[axis]! + before + after - size) / stride[axis]!) + 1
    }) as [number, number, number]
    check(
      out.every((extent) => extent > 0),
      op,
      () => {
        return `x ${describe(x)} is smaller than the kernel [${kernel.join(', ')}]`
      },
    )
    const y = this.#float(op, [B, ...out, O], x.dtype)
    conv3d(
      this.#memory.floats(op, x),
      this.#memory.floats(op, weight),
      bias && this.#memory.floats(op, bias),
      y.data,
      {
        B,
        T,
        Y,
        X,
        K,
        O,
        kernel,
        stride,
        before: [padding[0][0], padding[1][0], padding[2][0]],
        upsample,
        out,
      },
    )
    return this.#memory.finish(y.tensor)
  }

  embedding(table: Tensor, ids: Tensor, { dtype = table.dtype }: { dtype?: DType } = {}): Tensor {
    const op = 'embedding'
    check(table.shape.length === 2, op, () => `table is ${describe(table)}, but must be [V, C]`)
    const [V, C] = table.shape as [number, number]
    const idArray = this.#memory.array(op, ids)
    check(!isFloat(ids.dtype), op, () => `ids are ${describe(ids)}, but must be i32 or u32`)
    const y = this.#float(op, [...ids.shape, C], dtype)
    const rows = this.#memory.floats(op, table)
    for (let i = 0; i < idArray.length; i++) {
      const id = idArray[i]!
      check(id >= 0 && id < V, op, () => `id ${id} is outside the table's ${V} rows`)
      copyRows(rows, id * C, C, y.data, i * C, C, 1, C)
    }
    return this.#memory.finish(y.tensor)
  }

  cast(x: Tensor, dtype: DType): Tensor {
    const from = this.#memory.array('cast', x)
    const y = this.#memory.allocate('cast', x.shape, dtype)
    this.#memory.array('cast', y).set(from)
    return this.#memory.finish(y)
  }

  reshape(x: Tensor, shape: readonly number[]): Tensor {
    check(numElements(shape) === numElements(x.shape), 'reshape', () => {
      return `${describe(x)} does not have the elements of [${shape.join(', ')}]`
    })
    return this.#memory.share('reshape', x, shape)
  }

  permute(x: Tensor, axes: readonly number[]): Tensor {
    const op = 'permute'
    check(
      axes.length === x.shape.length && x.shape.every((_, axis) => axes.includes(axis)),
      op,
      () => `axes [${axes.join(', ')}] are not an order of the axes of ${describe(x)}`,
    )
    const from = this.#memory.array(op, x)
    const shape = axes.map((axis) => x.shape[axis]!)
    const y = this.#memory.allocate(op, shape, x.dtype)
    permute(from, this.#memory.array(op, y), x.shape, axes)
    return y
  }

  slice(x: Tensor, axis: number, start: number, end: number): Tensor {
    const op = 'slice'
    checkAxis(op, x, axis)
    const extent = x.shape[axis]!
    check(
      Number.isInteger(start) &&
        Number.isInteger(end) &&
        0 <= start &&
        start <= end &&
        end <= extent,
      op,
      () => `${start} to ${end} is not a range of axis ${axis} of ${describe(x)}`,
    )
    const from = this.#memory.array(op, x)
    const y = this.#memory.allocate(op, x.shape.with(axis, end - start), x.dtype)
    const inner = numElements(x.shape.slice(axis + 1))
    const outer = numElements(x.shape.slice(0, axis))
    const length = (end - start) * inner
    const to = this.#memory.array(op, y)
    copyRows(from, start * inner, extent * inner, to, 0, length, outer, length)
    return y
  }

  concat(parts: readonly Tensor[], axis: number): Tensor {
    const op = 'concat'
    const first = parts[0]
    check(first !== undefined, op, () => 'there are no parts')
    checkAxis(op, first, axis)
    for (const part of parts) {
      check(
        part.dtype === first.dtype &&
          isSameShape(part.shape.toSpliced(axis, 1), first.shape.toSpliced(axis, 1)),
        op,
        () => `${describe(part)} does not fit ${describe(first)} along axis ${axis}`,
      )
    }
    const total = parts.reduce((sum, part) => sum + part.shape[axis]!, 0)
    const y = this.#memory.allocate(op, first.shape.with(axis, total), first.dtype)
    const to = this.#memory.array(op, y)
    const inner = numElements(first.shape.slice(axis + 1))
    const outer = numElements(first.shape.slice(0, axis))
    let at = 0
    for (const part of parts) {
      const length = part.shape[axis]! * inner
      copyRows(this.#memory.array(op, part), 0, length, to, at, total * inner, outer, length)
      at += length
    }
    return y
  }

  loss(prediction: Tensor, target: Tensor, { kind, mask }: LossOptions): Tensor {
    const op = 'loss'
    const inputs = this.#lossInputs(op, prediction, target, mask)
    const out = this.#float(op, [prediction.shape[0]!], 'f32')
    loss(inputs.prediction, inputs.target, inputs.mask, kind, out.data)
    return out.tensor
  }

  lossGrad(
    prediction: Tensor,
    target: Tensor,
    { kind, mask, itemScale }: LossOptions & { itemScale: readonly number[] },
  ): Tensor {
    const op = 'lossGrad'
    const inputs = this.#lossInputs(op, prediction, target, mask)
    check(itemScale.length === prediction.shape[0], op, () => {
      return `itemScale has ${itemScale.length} numbers for prediction ${describe(prediction)}`
    })
    const out = this.#float(op, prediction.shape, 'f32')
    lossGrad(inputs.prediction, inputs.target, inputs.mask, kind, itemScale, out.data)
    return out.tensor
  }

  sumSquares(tensors: readonly Tensor[]): Tensor {
    const op = 'sumSquares'
    let sum = 0
    for (const tensor of tensors) {
      const data = this.#memory.floats(op, tensor)
      for (let i = 0; i < data.length; i++) sum += data[i]! * data[i]!
    }
    const out = this.#float(op, [1], 'f32')
    out.data[0] = sum
    return out.tensor
  }

  addInto(target: Tensor, source: Tensor, scale = 1): void {
    const op = 'addInto'
    checkF32(op, 'target', target)
    checkF32(op, 'source', source)
    checkShape(op, 'source', source, target.shape)
    const to = this.#memory.floats(op, target)
    const from = this.#memory.floats(op, source)
    for (let i = 0; i < to.length; i++) to[i] = to[i]! + scale * from[i]!
  }

  adamw(slots: readonly AdamWSlot[], options: AdamWOptions): void {
    const op = 'adamw'
    check(options.step >= 1, op, () => `step is ${options.step}, but the first is 1`)
    for (const slot of slots) {
      for (const name of ['param', 'grad', 'm', 'v'] as const) {
        checkF32(op, name, slot[name])
        checkShape(op, name, slot[name], slot.param.shape)
      }
      const [param, grad, m, v] = [slot.param, slot.grad, slot.m, slot.v].map((tensor) =>
        this.#memory.floats(op, tensor),
      ) as [FloatArray, FloatArray, FloatArray, FloatArray]
      adamw(param, grad, m, v, options)
    }
  }

  adamw8bit(slots: readonly AdamW8bitSlot[], options: AdamWOptions): void {
    const op = 'adamw8bit'
    check(options.step >= 1, op, () => `step is ${options.step}, but the first is 1`)
    for (const { param, grad, m, v } of slots) {
      checkF32(op, 'param', param)
      checkF32(op, 'grad', grad)
      checkShape(op, 'grad', grad, param.shape)
      const n = numElements(param.shape)
      adamw8bit(
        this.#memory.floats(op, param),
        this.#memory.floats(op, grad),
        this.#state(op, 'm', m, n),
        this.#state(op, 'v', v, n),
        options,
      )
    }
  }

  scope<T>(fn: () => T): T {
    return this.#memory.scope(fn)
  }

  checkpoint(fn: (ops: Ops, ...inputs: Tensor[]) => Tensor, inputs: readonly Tensor[]): Tensor {
    return this.#memory.scope(() => fn(this, ...inputs))
  }

  #float(op: string, shape: readonly number[], dtype: DType): { tensor: Tensor; data: FloatArray } {
    check(isFloat(dtype), op, () => `a result cannot be ${dtype}`)
    const tensor = this.#memory.allocate(op, shape, dtype)
    return { tensor, data: this.#memory.floats(op, tensor) }
  }

  #state(op: string, name: string, { codes, scales }: BlockState, n: number): StateArrays {
    checkShape(op, `${name} codes`, codes, [Math.ceil(n / 4)])
    checkF32(op, `${name} scales`, scales)
    checkShape(op, `${name} scales`, scales, [Math.ceil(n / stateBlockSize)])
    const words = this.#memory.array(op, codes)
    check(words instanceof Uint32Array, op, () => `${name} codes are ${describe(codes)}, not u32`)
    return { codes: words, scales: this.#memory.floats(op, scales) }
  }

  #weight(op: string, weight: Weight, K: number): FloatArray {
    check(weight.shape.length === 2 && weight.shape[1] === K, op, () => {
      return `weight is [${weight.shape.join(', ')}], but x has ${K} channels`
    })
    if (!isPackedWeight(weight)) return this.#memory.floats(op, weight)
    const { format, codes, scales, zeros } = weight
    const N = weight.shape[0]
    const perWord = format === 'uint4' ? 8 : 4
    const groupSize = weight.groupSize ?? K
    check(K % perWord === 0 && K % groupSize === 0, op, () => {
      return `a packed weight of ${K} columns is not whole words and groups of ${groupSize}`
    })
    checkShape(op, 'codes', codes, [N, K / perWord])
    checkShape(op, 'scales', scales, format === 'uint4' ? [N, K / groupSize] : [N])
    if (zeros) checkShape(op, 'zeros', zeros, scales.shape)
    const words = this.#memory.array(op, codes)
    check(words instanceof Uint32Array, op, () => `codes are ${describe(codes)}, but must be u32`)
    return unpackWeight(
      format,
      N,
      K,
      words,
      this.#memory.floats(op, scales),
      zeros && this.#memory.floats(op, zeros),
      groupSize,
    )
  }

  #adapter(
    op: string,
    { a, b }: Adapter,
    K: number,
    O: number,
  ): { a: FloatArray; b: FloatArray; r: number } {
    const r = a.shape[0]!
    checkF32(op, 'adapter a', a)
    checkF32(op, 'adapter b', b)
    checkShape(op, 'adapter a', a, [r, K])
    checkShape(op, 'adapter b', b, [O, r])
    return { a: this.#memory.floats(op, a), b: this.#memory.floats(op, b), r }
  }

  #attentionInputs(op: string, q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions) {
    return {
      q: this.#memory.floats(op, q),
      k: this.#memory.floats(op, k),
      v: this.#memory.floats(op, v),
      bias: options.bias && this.#memory.floats(op, options.bias),
      keyBias: options.keyBias && this.#memory.floats(op, options.keyBias),
    }
  }

  /** A [C] or [B, C] tensor beside x [B, …, C]. */
  #channels(
    op: string,
    name: string,
    tensor: Tensor | undefined,
    x: Tensor,
  ): ChannelArray | undefined {
    if (!tensor) return undefined
    const C = lastExtent(x)
    const B = x.shape[0]!
    if (tensor.shape.length === 1) checkShape(op, name, tensor, [C])
    else checkShape(op, name, tensor, [B, C])
    return {
      data: this.#memory.floats(op, tensor),
      rowsPerItem: tensor.shape.length === 1 ? Infinity : numElements(x.shape) / (B * C),
    }
  }

  #gate(op: string, gate: Tensor | undefined, x: Tensor): ChannelArray | undefined {
    if (!gate) return undefined
    checkShape(op, 'gate', gate, [x.shape[0]!, lastExtent(x)])
    return this.#channels(op, 'gate', gate, x)
  }

  #binary(
    op: string,
    a: Tensor,
    b: Tensor,
    kernel: (a: FloatArray, b: FloatArray, y: FloatArray) => void,
  ): Tensor {
    check(isSameShape(a.shape.slice(a.shape.length - b.shape.length), b.shape), op, () => {
      return `${describe(b)} has neither the shape of ${describe(a)} nor of its trailing axes`
    })
    const y = this.#float(op, a.shape, a.dtype)
    kernel(this.#memory.floats(op, a), this.#memory.floats(op, b), y.data)
    return this.#memory.finish(y.tensor)
  }

  #lossInputs(op: string, prediction: Tensor, target: Tensor, mask: Tensor | undefined) {
    check(prediction.shape.length > 0, op, () => 'prediction has no batch axis')
    checkShape(op, 'target', target, prediction.shape)
    if (mask) checkShape(op, 'mask', mask, prediction.shape)
    return {
      prediction: this.#memory.floats(op, prediction),
      target: this.#memory.floats(op, target),
      mask: mask && this.#memory.floats(op, mask),
    }
  }
}

/** Stands for an absent optional tensor in a shape check that it always passes. */
function weightLike(shape: readonly number[]): Tensor {
  return { shape, dtype: 'f32', handle: undefined }
}

function attentionSizes(
  op: string,
  q: Tensor,
  k: Tensor,
  v: Tensor,
  { scale, bias, keyBias }: AttentionOptions,
): AttentionSizes {
  check(q.shape.length === 4 && k.shape.length === 4, op, () => {
    return `q is ${describe(q)} and k ${describe(k)}, but both must have 4 axes`
  })
  const [B, N, H, D] = q.shape as [number, number, number, number]
  const M = k.shape[1]!
  checkShape(op, 'k', k, [B, M, H, D])
  checkShape(op, 'v', v, [B, M, H, D])
  if (bias) checkShape(op, 'bias', bias, [H, N, M])
  if (keyBias) checkShape(op, 'keyBias', keyBias, [B, M])
  return { B, N, M, H, D, scale: scale ?? 1 / Math.sqrt(D) }
}
