import {
  bytesPerElement,
  defaultGroupSize,
  numElements,
  type Device,
  type DType,
  type LinearGrads,
  type Ops,
  type Tensor,
} from '@kinora/kernel-api'

// A device without data: its ops work out shapes and lifetimes only. Running the real training step on it says what memory
// that step takes, for any model and size, in milliseconds; the plan cannot drift from the code.

interface Storage {
  readonly bytes: number
  /** Live tensors over it: several where `reshape` was used. */
  tensors: number
}

/** What a tensor's handle is. It has an owner for the scope it belongs to, and one for each `retain`. */
interface Counted {
  readonly storage: Storage
  owners: number
}

const countedOf = (tensor: Tensor): Counted => tensor.handle as Counted

/** Every tensor of a scope's result: a tensor, or any nesting of arrays, maps and plain objects of them. */
function* tensorsIn(value: unknown): Generator<Tensor> {
  if (typeof value !== 'object' || value === null) return
  if ('handle' in value && 'shape' in value && 'dtype' in value) yield value as Tensor
  else if (value instanceof Map) for (const item of value.values()) yield* tensorsIn(item)
  else if (Array.isArray(value)) for (const item of value) yield* tensorsIn(item)
  else if (Object.getPrototypeOf(value) === Object.prototype) {
    for (const item of Object.values(value)) yield* tensorsIn(item)
  }
}

/** A device that counts bytes. Reading from it gives zeros. Scratch memory inside an op is a backend's own and not counted. */
export function createCountingDevice(): Device {
  const scopes: Counted[][] = []
  let live = 0
  let peak = 0
  let parked = 0

  function adopt(storage: Storage, shape: readonly number[], dtype: DType): Tensor {
    const counted: Counted = { storage, owners: 1 }
    storage.tensors++
    scopes.at(-1)?.push(counted)
    return { shape, dtype, handle: counted }
  }

  function allocate(shape: readonly number[], dtype: DType): Tensor {
    const bytes = numElements(shape) * bytesPerElement[dtype]
    live += bytes
    peak = Math.max(peak, live)
    return adopt({ bytes, tensors: 0 }, shape, dtype)
  }

  function drop(counted: Counted): void {
    counted.owners--
    if (counted.owners < 0) throw new Error('A tensor was released more often than it was owned.')
    if (counted.owners > 0) return
    counted.storage.tensors--
    if (counted.storage.tensors === 0) live -= counted.storage.bytes
  }

  function scope<T>(fn: () => T): T {
    const own: Counted[] = []
    scopes.push(own)
    let kept: ReadonlySet<Counted> = new Set()
    try {
      const result = fn()
      kept = new Set(Array.from(tensorsIn(result), countedOf))
      return result
    } finally {
      scopes.pop()
      for (const counted of own) {
        if (kept.has(counted)) scopes.at(-1)?.push(counted)
        else drop(counted)
      }
    }
  }

  const like = (x: Tensor, dtype: DType = x.dtype): Tensor => allocate(x.shape, dtype)

  const ops: Ops = {
    linear: (x, weight, options = {}) =>
      allocate([...x.shape.slice(0, -1), weight.shape[0]!], options.dtype ?? x.dtype),
    linearGrad(dy, x, _weight, { adapters = [], dtype, needsX }): LinearGrads {
      return {
        ...(needsX ? { dx: like(x, dtype ?? dy.dtype) } : {}),
        adapters: adapters.map(({ a, b }) => ({ da: like(a), db: like(b) })),
      }
    },
    quantize(weight, format, { groupSize = defaultGroupSize } = {}) {
      const shape = weight.shape as readonly [number, number]
      const [n, k] = shape
      if (format === 'float8_e4m3') {
        return { format, shape, codes: allocate([n, k / 4], 'u32'), scales: allocate([n], 'f32') }
      }
      const perGroup = (): Tensor => allocate([n, k / groupSize], 'f16')
      const codes = allocate([n, k / 8], 'u32')
      return { format, shape, codes, scales: perGroup(), zeros: perGroup(), groupSize }
    },
    attention: (q) => ({
      out: like(q),
      lse: allocate([q.shape[0]!, q.shape[2]!, q.shape[1]!], 'f32'),
    }),
    attentionGrad: (_dout, { q, k, v }) => ({ dq: like(q), dk: like(k), dv: like(v) }),
    layerNorm: (x, options) => like(x, options.dtype),
    layerNormGrad: (_dy, x, options) => like(x, options.dtype),
    rmsNorm: (x, _weight, options) => like(x, options.dtype),
    rmsNormGrad: (_dy, x, _weight, options) => like(x, options.dtype),
    rope: (x) => like(x),
    gelu: (x) => like(x),
    geluGrad: (dy) => like(dy),
    silu: (x) => like(x),
    add: (a) => like(a),
    mul: (a) => like(a),
    affine: (x) => like(x),
    gatedAdd: (x) => like(x),
    gatedAddGrad: (dx, _gate, dtype) => like(dx, dtype),
    conv3d(x, weight, options = {}) {
      const {
        stride = [1, 1, 1],
        padding = [
          [0, 0],
          [0, 0],
          [0, 0],
        ],
        upsample = 1,
      } = options
      const extents = [0, 1, 2].map((i) => {
        const extent = x.shape[1 + i]! * (i === 0 ? 1 : upsample)
        const padded = extent + padding[i as 0]![0] + padding[i as 0]![1]
        return Math.floor((padded - weight.shape[1 + i]!) / stride[i as 0]!) + 1
      })
      return allocate([x.shape[0]!, ...extents, weight.shape[0]!], x.dtype)
    },
    embedding: (table, ids, options = {}) =>
      allocate([...ids.shape, table.shape[1]!], options.dtype ?? table.dtype),
    cast: (x, dtype) => (dtype === x.dtype ? x : like(x, dtype)),
    reshape: (x, shape) => adopt(countedOf(x).storage, shape, x.dtype),
    permute: (x, axes) =>
      allocate(
        axes.map((axis) => x.shape[axis]!),
        x.dtype,
      ),
    slice: (x, axis, start, end) =>
      allocate(
        x.shape.map((extent, i) => (i === axis ? end - start : extent)),
        x.dtype,
      ),
    concat: (parts, axis) =>
      allocate(
        parts[0]!.shape.map((extent, i) =>
          i === axis ? parts.reduce((sum, part) => sum + part.shape[axis]!, 0) : extent,
        ),
        parts[0]!.dtype,
      ),
    loss: (prediction) => allocate([prediction.shape[0]!], 'f32'),
    lossGrad: (prediction) => like(prediction, 'f32'),
    sumSquares: () => allocate([1], 'f32'),
    addInto: () => {},
    adamw: () => {},
    scope,
    checkpoint: (fn, inputs) => scope(() => fn(ops, ...inputs)),
  }

  return {
    info: {
      backend: '@kinora/trainer-core',
      adapter: 'counting device',
      driver: 'none',
      software: true,
      computeDTypes: ['f32', 'f16'],
      reason: 'It was made to count bytes.',
    },
    ops,
    upload: (_data, shape, dtype) => allocate(shape, dtype),
    zeros: allocate,
    write: () => {},
    read: (tensor) => Promise.resolve(new Float32Array(numElements(tensor.shape))),
    sync: () => Promise.resolve(),
    retain(tensor) {
      countedOf(tensor).owners++
      return tensor
    },
    release: (tensor) => drop(countedOf(tensor)),
    scope,
    park({ shape, dtype }) {
      const bytes = numElements(shape) * bytesPerElement[dtype]
      parked += bytes
      return Promise.resolve({ shape, dtype, handle: bytes })
    },
    unpark: () => {},
    discard({ handle }) {
      parked -= handle as number
    },
    memory: () => ({ liveBytes: live, peakBytes: peak, pooledBytes: 0, parkedBytes: parked }),
    resetPeak: () => {
      peak = live
    },
    destroy: () => {},
  }
}
    adamw8bit: () => {},
