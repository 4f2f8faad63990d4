import type { Device, Ops, Tensor, Weight } from '@kinora/kernel-api'
import { isPackedWeight, numElements } from '@kinora/kernel-api'
import { trainerErrors } from '../errors.ts'

// How each op is gone back: one entry an op, in the order of `Ops`. An entry says what it reads, what its gradient needs, and
// the gradient itself in terms of other ops; the tape decides what to run and what to keep.

/** Gradient of one output: a tensor of its shape, or for `loss` the factor of each batch item. */
export type OutputGrad = Tensor | readonly number[]

/** One use of an op. */
export interface Call {
  readonly name: string
  /** What a gradient can flow back to. */
  readonly inputs: readonly Tensor[]
  /** What is read beside that, for which there is no gradient. */
  readonly constants: readonly Tensor[]
  run(): readonly Tensor[]
  /** What `grad` will read of the inputs, constants and outputs: kept alive until then. */
  saves(outputs: readonly Tensor[]): readonly Tensor[]
  /**
   * The gradient of each input that needs one, in the dtype of that input. `douts` has an entry an output, undefined where no
   * gradient arrived.
   */
  grad(
    douts: readonly (OutputGrad | undefined)[],
    needs: readonly boolean[],
    outputs: readonly Tensor[],
  ): readonly (Tensor | undefined)[]
  /** Inputs whose gradient is the output's own, in the same storage. */
  readonly passes?: readonly number[]
  /** Called when the gradients have been taken, so that what they lived in can go. */
  taken?(): void
  /** Name under which a checkpoint may keep the outputs. */
  readonly keepAs?: string | undefined
}

const nothing = (): readonly Tensor[] => []

const present = (...tensors: (Tensor | undefined)[]): Tensor[] =>
  tensors.filter((tensor) => tensor !== undefined)

function weightTensors(weight: Weight): Tensor[] {
  return isPackedWeight(weight) ? present(weight.codes, weight.scales, weight.zeros) : [weight]
}

const sameShape = (a: Tensor, b: Tensor): boolean =>
  a.shape.length === b.shape.length && a.shape.every((extent, axis) => extent === b.shape[axis])

/** The one gradient of an op with one output. */
function only(name: string, douts: readonly (OutputGrad | undefined)[]): Tensor {
  const dout = douts[0]
  if (dout === undefined || !('shape' in dout)) {
    throw trainerErrors.NO_GRADIENT(name, 'its gradient was given as numbers')
  }
  return dout
}

/**
 * The op set in which every call goes through `perform`, with its rule. `scope` and `checkpoint` are the caller's: they are
 * about lifetimes, not about gradients.
 */
export function describeOps(
  device: Device,
  perform: (call: Call) => readonly Tensor[],
  structure: Pick<Ops, 'scope' | 'checkpoint'>,
): Ops {
  const { ops } = device

  const one = (call: Call): Tensor => perform(call)[0]!

  /**
   * dyᵀ x of a dense weight [O, K], as the gradient of an adapter beside the identity: its products are the ones backends have for
   * sums over rows. Meant for weights with a short side.
   */
  function weightGradient(dy: Tensor, x: Tensor, weight: Tensor): Tensor {
    const [o, k] = weight.shape as readonly [number, number]
    const size = Math.min(o, k)
    const identity = new Float32Array(size * size)
    for (let i = 0; i < size; i++) identity[i * size + i] = 1
    const eye = device.upload(identity, [size, size], 'f32')
    const other = device.zeros([o, k], 'f32')
    const { da, db } = ops.linearGrad(dy, x, weight, {
      adapters: [o <= k ? { a: other, b: eye, scale: 1 } : { a: eye, b: other, scale: 1 }],
      needsX: false,
    }).adapters[0]!
    const grad = o <= k ? da : db
    return weight.dtype === 'f32' ? grad : ops.cast(grad, weight.dtype)
  }

  /** Sum over the leading axes of x, down to the shape and dtype of `like`. */
  function sumToShape(x: Tensor, like: Tensor): Tensor {
    const columns = numElements(like.shape)
    const rows = numElements(x.shape) / columns
    const ones = device.upload(new Float32Array(rows).fill(1), [rows, 1], 'f32')
    const one = device.upload(Float32Array.of(1), [1, 1], 'f32')
    const zeros = device.zeros([1, columns], 'f32')
    const { da } = ops.linearGrad(ones, ops.reshape(x, [rows, columns]), zeros, {
      adapters: [{ a: zeros, b: one, scale: 1 }],
      needsX: false,
    }).adapters[0]!
    const sum = ops.reshape(da, like.shape)
    return like.dtype === 'f32' ? sum : ops.cast(sum, like.dtype)
  }

  /** An op without a gradient: an error only if one is asked of it. */
  const frozen = (name: string, constants: readonly Tensor[], run: () => readonly Tensor[]) =>
    perform({
      name,
      inputs: [],
      constants,
      run,
      saves: nothing,
      grad: () => [],
    })
  const frozenOne = (name: string, constants: readonly Tensor[], run: () => Tensor): Tensor =>
    frozen(name, constants, () => [run()])[0]!

  return {
    linear(x, weight, options = {}) {
      const adapters = options.adapters ?? []
      const factors = adapters.flatMap(({ a, b }) => [a, b])
      // A weight of a network is frozen; a small dense one may be trained (the factors of LoKr, a branch with dropout).
      const dense = isPackedWeight(weight) ? undefined : weight
      return one({
        name: 'linear',
        inputs: [x, ...factors, ...present(dense)],
        constants: [...(dense ? [] : weightTensors(weight)), ...present(options.bias)],
        run: () => [ops.linear(x, weight, options)],
        saves: () => [x, ...weightTensors(weight), ...factors],
        grad: (douts, needs) => {
          const dy = only('linear', douts)
          const grads = ops.linearGrad(dy, x, weight, {
            adapters: adapters.length > 0 ? adapters : undefined,
            dtype: x.dtype,
            needsX: needs[0]!,
          })
          const ofWeight = needs[1 + factors.length] ? weightGradient(dy, x, dense!) : undefined
          return [grads.dx, ...grads.adapters.flatMap(({ da, db }) => [da, db]), ofWeight]
        },
        keepAs: options.name,
      })
    },
    linearGrad(dy, x, weight, options) {
      const adapters = options.adapters ?? []
      const read = [dy, x, ...weightTensors(weight), ...adapters.flatMap(({ a, b }) => [a, b])]
      const results = frozen('linearGrad', read, () => {
        const grads = ops.linearGrad(dy, x, weight, options)
        return [...present(grads.dx), ...grads.adapters.flatMap(({ da, db }) => [da, db])]
      })
      const factors = options.needsX ? results.slice(1) : results
      return {
        ...(options.needsX ? { dx: results[0]! } : {}),
        adapters: adapters.map((_, i) => ({ da: factors[2 * i]!, db: factors[2 * i + 1]! })),
      }
    },

    quantize: (weight, format, options) => ops.quantize(weight, format, options),

    attention(q, k, v, options = {}) {
      const [out, lse] = perform({
        name: 'attention',
        inputs: [q, k, v],
        constants: present(options.bias, options.keyBias),
        run: () => {
          const result = ops.attention(q, k, v, options)
          return [result.out, result.lse]
        },
        saves: (outputs) => [q, k, v, ...present(options.bias, options.keyBias), ...outputs],
        grad: (douts, _needs, outputs) => {
          if (douts[1] !== undefined) {
            throw trainerErrors.NO_GRADIENT('attention', 'its log-sum-exp was used')
          }
          const saved = { q, k, v, out: outputs[0]!, lse: outputs[1]! }
          const { dq, dk, dv } = ops.attentionGrad(only('attention', douts), saved, options)
          return [dq, dk, dv]
        },
        keepAs: options.name,
      })
      return { out: out!, lse: lse! }
    },
    attentionGrad(dout, saved, options = {}) {
      const { q, k, v, out, lse } = saved
      const [dq, dk, dv] = frozen(
        'attentionGrad',
        [dout, q, k, v, out, lse, ...present(options.bias, options.keyBias)],
        () => {
          const grads = ops.attentionGrad(dout, saved, options)
          return [grads.dq, grads.dk, grads.dv]
        },
      )
      return { dq: dq!, dk: dk!, dv: dv! }
    },

    layerNorm: (x, options) =>
      one({
        name: 'layerNorm',
        inputs: [x],
        constants: present(options.weight, options.bias),
        run: () => [ops.layerNorm(x, options)],
        saves: () => [x, ...present(options.weight, options.bias)],
        grad: (douts) => [
          ops.layerNormGrad(only('layerNorm', douts), x, { ...options, dtype: x.dtype }),
        ],
      }),
    layerNormGrad: (dy, x, options) =>
      frozenOne('layerNormGrad', [dy, x, ...present(options.weight, options.bias)], () =>
        ops.layerNormGrad(dy, x, options),
      ),
    rmsNorm: (x, weight, options) =>
      one({
        name: 'rmsNorm',
        inputs: [x],
        constants: [weight],
        run: () => [ops.rmsNorm(x, weight, options)],
        saves: () => [x, weight],
        grad: (douts) => [
          ops.rmsNormGrad(only('rmsNorm', douts), x, weight, { ...options, dtype: x.dtype }),
        ],
      }),
    rmsNormGrad: (dy, x, weight, options) =>
      frozenOne('rmsNormGrad', [dy, x, weight], () => ops.rmsNormGrad(dy, x, weight, options)),

    rope: (x, cos, sin, options = {}) =>
      one({
        name: 'rope',
        inputs: [x],
        constants: [cos, sin],
        run: () => [ops.rope(x, cos, sin, options)],
        saves: () => [cos, sin],
        grad: (douts) => [
          ops.rope(only('rope', douts), cos, sin, { inverse: !(options.inverse ?? false) }),
        ],
      }),

    gelu: (x) =>
      one({
        name: 'gelu',
        inputs: [x],
        constants: [],
        run: () => [ops.gelu(x)],
        saves: () => [x],
        grad: (douts) => [ops.geluGrad(only('gelu', douts), x)],
      }),
    geluGrad: (dy, x) => frozenOne('geluGrad', [dy, x], () => ops.geluGrad(dy, x)),
    silu: (x) => frozenOne('silu', [x], () => ops.silu(x)),
    rsqrt: (x) => frozenOne('rsqrt', [x], () => ops.rsqrt(x)),
    dropout: (x, options) =>
      one({
        name: 'dropout',
        inputs: [x],
        constants: [],
        run: () => [ops.dropout(x, options)],
        saves: nothing,
        grad: (douts) => [ops.dropout(only('dropout', douts), options)],
      }),

    add(a, b) {
      // The gradient of a broadcast bias would be a sum over rows, which no trained tensor of ours needs.
      const broadcast = !sameShape(a, b)
      return one({
        name: 'add',
        inputs: broadcast ? [a] : [a, b],
        constants: broadcast ? [b] : [],
        run: () => [ops.add(a, b)],
        saves: nothing,
        grad: (douts, needs) => {
          const dy = only('add', douts)
          return [dy, needs[1] ? (b.dtype === dy.dtype ? dy : ops.cast(dy, b.dtype)) : undefined]
        },
        passes: broadcast || b.dtype !== a.dtype ? [0] : [0, 1],
      })
    },
    mul(a, b) {
      const ofB = (dy: Tensor): Tensor => {
        const db = ops.mul(dy, a)
        if (!sameShape(a, b)) return sumToShape(db, b)
        return b.dtype === db.dtype ? db : ops.cast(db, b.dtype)
      }
      return one({
        name: 'mul',
        inputs: [a, b],
        constants: [],
        run: () => [ops.mul(a, b)],
        saves: () => [a, b],
        grad: (douts, needs) => {
          const dy = only('mul', douts)
          return [needs[0] ? ops.mul(dy, b) : undefined, needs[1] ? ofB(dy) : undefined]
        },
      })
    },
    affine: (x, options) =>
      one({
        name: 'affine',
        inputs: [x],
        constants: [],
        run: () => [ops.affine(x, options)],
        saves: nothing,
        grad: (douts) => [ops.affine(only('affine', douts), { scale: options.scale ?? 1 })],
      }),
    gatedAdd: (x, y, gate) =>
      one({
        name: 'gatedAdd',
        inputs: [x, y],
        constants: present(gate),
        run: () => [ops.gatedAdd(x, y, gate)],
        saves: () => present(gate),
        grad: (douts, needs) => {
          const dx = only('gatedAdd', douts)
          const passes = gate === undefined && y.dtype === dx.dtype
          return [dx, needs[1] ? (passes ? dx : ops.gatedAddGrad(dx, gate, y.dtype)) : undefined]
        },
        passes: gate === undefined && y.dtype === x.dtype ? [0, 1] : [0],
      }),
    gatedAddGrad: (dx, gate, dtype) =>
      frozenOne('gatedAddGrad', [dx, ...present(gate)], () => ops.gatedAddGrad(dx, gate, dtype)),

    conv3d: (x, weight, options = {}) =>
      frozenOne('conv3d', [x, weight, ...present(options.bias)], () =>
        ops.conv3d(x, weight, options),
      ),
    embedding: (table, ids, options = {}) =>
      frozenOne('embedding', [table, ids], () => ops.embedding(table, ids, options)),

    cast: (x, dtype) =>
      dtype === x.dtype
        ? x
        : one({
            name: 'cast',
            inputs: [x],
            constants: [],
            run: () => [ops.cast(x, dtype)],
            saves: nothing,
            grad: (douts) => [ops.cast(only('cast', douts), x.dtype)],
          }),
    reshape: (x, shape) =>
      one({
        name: 'reshape',
        inputs: [x],
        constants: [],
        run: () => [ops.reshape(x, shape)],
        saves: nothing,
        grad: (douts) => [ops.reshape(only('reshape', douts), x.shape)],
        passes: [0],
      }),
    permute: (x, axes) =>
      one({
        name: 'permute',
        inputs: [x],
        constants: [],
        run: () => [ops.permute(x, axes)],
        saves: nothing,
        grad: (douts) => [
          ops.permute(
            only('permute', douts),
            axes.map((_, axis) => axes.indexOf(axis)),
          ),
        ],
      }),
    slice: (x, axis, start, end) =>
      one({
        name: 'slice',
        inputs: [x],
        constants: [],
        run: () => [ops.slice(x, axis, start, end)],
        saves: nothing,
        grad: (douts) => {
          const dy = only('slice', douts)
          const along = (extent: number): number[] =>
            x.shape.map((whole, i) => (i === axis ? extent : whole))
          const after = x.shape[axis]! - end
          const parts = [
            ...(start > 0 ? [device.zeros(along(start), dy.dtype)] : []),
            dy,
            ...(after > 0 ? [device.zeros(along(after), dy.dtype)] : []),
          ]
          // A slice of the whole is its own gradient, but in new storage like the others.
          return [parts.length > 1 ? ops.concat(parts, axis) : ops.affine(dy, {})]
        },
      }),
    concat(parts, axis) {
      if (parts.length === 1) return parts[0]!
      const starts = parts.map((_, i) =>
        parts.slice(0, i).reduce((sum, part) => sum + part.shape[axis]!, 0),
      )
      return one({
        name: 'concat',
        inputs: parts,
        constants: [],
        run: () => [ops.concat(parts, axis)],
        saves: nothing,
        grad: (douts, needs) => {
          const dy = only('concat', douts)
          return parts.map((part, i) =>
            needs[i] ? ops.slice(dy, axis, starts[i]!, starts[i]! + part.shape[axis]!) : undefined,
          )
        },
      })
    },

    loss: (prediction, target, options) =>
      one({
        name: 'loss',
        inputs: [prediction],
        constants: [target, ...present(options.mask)],
        run: () => [ops.loss(prediction, target, options)],
        saves: () => [prediction, target, ...present(options.mask)],
        grad: ([itemScale]) => {
          if (itemScale === undefined || 'shape' in itemScale) {
            throw trainerErrors.NO_GRADIENT(
              'loss',
              'the factor of each batch item must be given as numbers',
            )
          }
          return [ops.lossGrad(prediction, target, { ...options, itemScale })]
        },
      }),
    lossGrad: (prediction, target, options) =>
      frozenOne('lossGrad', [prediction, target, ...present(options.mask)], () =>
        ops.lossGrad(prediction, target, options),
      ),

    sumSquares: (tensors) => frozenOne('sumSquares', tensors, () => ops.sumSquares(tensors)),
    addInto: () => {
      throw trainerErrors.IN_PLACE('addInto')
    },
    adamw: () => {
      throw trainerErrors.IN_PLACE('adamw')
    },
    adamw8bit: () => {
      throw trainerErrors.IN_PLACE('adamw8bit')
    },

    ...structure,
  }
}
