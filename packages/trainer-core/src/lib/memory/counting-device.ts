import {
  bytesPerElement,
  defaultGroupSize,
  isPackedWeight,
  numElements,
  type Device,
  type DType,
  type LinearGrads,
  type Ops,
  type Tensor,
  type Weight,
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

/** Nothing done. */
export const noWork = (): DeviceWork => ({
  linearFlops: 0,
  linearGradFlops: 0,
  attentionFlops: 0,
  attentionGradFlops: 0,
  textAttentionFlops: 0,
  textAttentionGradFlops: 0,
  normBytes: 0,
  adapterBytes: 0,
  unpackedBytes: 0,
  bytes: 0,
  numOps: 0,
})
const bytesOf = ({ shape, dtype }: Tensor): number => numElements(shape) * bytesPerElement[dtype]
/** What unpacking a weight reads and writes; nothing for a dense one. */
function unpackedBytes(weight: Weight): number {
  if (!isPackedWeight(weight)) return 0
  return bytesOf(weight.codes) + bytesOf(weight.scales) + 2 * numElements(weight.shape)
}

/** Numbers of a result that a card computes in parts of the contraction: 132 blocks of 256 × 128, of an H100. */
const mostInParts = 132 * 2 ** 15

/** Scores that attention on a processor works on at once. */
const scoreBlock = 2 ** 23

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

/** What ops had to do, apart by what an adapter is fast or slow at: operations are two a multiply-add. */
export interface DeviceWork {
  /** Of linears without their adapters. */
  linearFlops: number
  /** Of the gradients of their inputs. */
  linearGradFlops: number
  /** Of attention among the tokens of a clip. */
  attentionFlops: number
  /** By convention two and a half times those of the forward pass. */
  attentionGradFlops: number
  /** Of attention to others, the text: as many queries, but few keys. */
  textAttentionFlops: number
  textAttentionGradFlops: number
  /** What norms and their gradients read and write. */
  normBytes: number
  /** What the products of adapters read of the linears' inputs and of their gradients; they compute next to nothing. */
  adapterBytes: number
  /** What unpacking weights reads and writes. */
  unpackedBytes: number
  /** What all else reads and writes: activations, rotations, sums, casts, the optimiser. */
  bytes: number
  /** Ops, by their calls. */
  numOps: number
}

/** A device that counts. */
export interface CountingDevice extends Device {
  /** What was done since it was made or last asked. */
  takeWork(): DeviceWork
}

/** What of a backend's own memory is counted beside the tensors. */
export interface CountingOptions {
  /**
   * As wgpu-kernels takes it: buffers in size classes, and the scratch memory of the ops that need much (unpacked weights, sides of
   * adapters; on the processor also scores of attention). `none` counts tensors to the byte.
   */
  overhead?: 'none' | 'gpu' | 'software' | undefined
  /** Dtypes it says to compute in. */
  computeDTypes?: readonly ('f32' | 'f16')[] | undefined
}

/** Four size classes an octave below a quarter of a MiB, sixteen below 64, sixty-four above. */
function sizeClass(bytes: number): number {
  if (bytes <= 256) return 256
  const octave = 2 ** Math.floor(Math.log2(bytes - 1))
  const step = Math.max(256, octave / (bytes >= 2 ** 26 ? 64 : bytes >= 2 ** 18 ? 16 : 4))
  return Math.ceil(bytes / step) * step
}

/** A device that counts bytes. Reading from it gives zeros. */
export function createCountingDevice({
  overhead = 'none',
  computeDTypes = ['f32', 'f16'],
}: CountingOptions = {}): CountingDevice {
  const scopes: Counted[][] = []
  let live = 0
  let peak = 0
  let parked = 0
  let work: DeviceWork = noWork()

  function adopt(storage: Storage, shape: readonly number[], dtype: DType): Tensor {
    const counted: Counted = { storage, owners: 1 }
    storage.tensors++
    scopes.at(-1)?.push(counted)
    return { shape, dtype, handle: counted }
  }

  function allocate(shape: readonly number[], dtype: DType): Tensor {
    const exact = numElements(shape) * bytesPerElement[dtype]
    const bytes = overhead === 'none' ? exact : sizeClass(exact)
    live += bytes
    peak = Math.max(peak, live)
    return adopt({ bytes, tensors: 0 }, shape, dtype)
  }

  /** Runs an op while scratch memory of these sizes, in numbers of 4 bytes, is there. */
  function withScratch<T>(sizes: readonly number[], run: () => T): T {
    if (overhead === 'none') return run()
    const bytes = sizes.reduce(
      (sum, numbers) => sum + (numbers > 0 ? sizeClass(4 * numbers) : 0),
      0,
    )
    live += bytes
    const result = run()
    live -= bytes
    return result
  }

  /** The dense form of a packed weight: f16 where kernels read that, f32 on the processor. */
  const unpacked = (weight: Weight, like: Tensor): number =>
    isPackedWeight(weight)
      ? numElements(weight.shape) / (overhead === 'software' || like.dtype === 'f32' ? 1 : 2)
      : 0
  const rowsOf = ({ shape }: Tensor): number => numElements(shape.slice(0, -1))
  /** Whether x · wᵀ takes a copy of a dense weight in another order, which kernels for tensor cores read. */
  const isRearranged = (weight: Weight, x: Tensor): boolean =>
    overhead === 'gpu' &&
    !isPackedWeight(weight) &&
    weight.dtype === 'f16' &&
    x.dtype === 'f16' &&
    rowsOf(x) >= 128
  /**
   * Numbers that a product adds up which ends with less than half a wave of workgroups: at most a block of 256 × 128 for each
   * multiprocessor.
   */
  const lastWave = (x: Tensor, columns: number): number =>
    overhead === 'gpu' && x.dtype === 'f16' && rowsOf(x) * columns >= mostInParts ? mostInParts : 0
  /** Numbers of the scores that attention on a processor holds at once, at most `scoreBlock` at a time. */
  const scores = (q: Tensor, k: Tensor): number => {
    if (overhead !== 'software') return 0
    const [b, n, h] = q.shape as [number, number, number, number]
    const perQuery = b * h * k.shape[1]!
    return Math.min(perQuery * n, Math.max(scoreBlock, perQuery))
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

  /** Counts an op that reads tensors and writes one. */
  function touching(
    inputs: readonly Tensor[],
    run: () => Tensor,
    kind: 'bytes' | 'normBytes' = 'bytes',
  ): Tensor {
    const y = run()
    work[kind] += [...inputs, y].reduce((sum, tensor) => sum + bytesOf(tensor), 0)
    work.numOps++
    return y
  }
  function countLinear(x: Tensor, weight: Weight, kind: 'linearFlops' | 'linearGradFlops'): void {
    const [n, k] = weight.shape as readonly [number, number]
    work[kind] += 2 * rowsOf(x) * n * k
    work.unpackedBytes += unpackedBytes(weight)
    work.numOps += isPackedWeight(weight) ? 2 : 1
  }
  /** Operations of the scores and of the sum over them. */
  const attentionFlops = (q: Tensor, k: Tensor): number => 4 * numElements(q.shape) * k.shape[1]!

  /** Whether tokens attend to each other, and not to a text. */
  const isAmong = (q: Tensor, k: Tensor): boolean => q.shape[1] === k.shape[1]

  const like = (x: Tensor, dtype: DType = x.dtype): Tensor => allocate(x.shape, dtype)

  const ops: Ops = {
    linear(x, weight, options = {}) {
      const { adapters = [], dtype = x.dtype } = options
      countLinear(x, weight, 'linearFlops')
      const elements = isRearranged(weight, x) ? numElements(weight.shape) : 0
      work.unpackedBytes += 4 * elements
      work.adapterBytes += adapters.length * bytesOf(x)
      work.numOps += adapters.length
      return withScratch(
        [
          unpacked(weight, x) + elements / 2,
          lastWave(x, weight.shape[0]!),
          ...adapters.map(({ a }) => rowsOf(x) * a.shape[0]!),
        ],
        () => allocate([...x.shape.slice(0, -1), weight.shape[0]!], dtype),
      )
    },
    linearGrad(dy, x, weight, { adapters = [], dtype, needsX }): LinearGrads {
      if (needsX) countLinear(x, weight, 'linearGradFlops')
      work.adapterBytes += adapters.length * 2 * (bytesOf(x) + bytesOf(dy))
      work.numOps += 4 * adapters.length
      return withScratch(
        [
          needsX ? unpacked(weight, dy) : 0,
          needsX ? lastWave(dy, weight.shape[1]!) : 0,
          ...adapters.flatMap(({ a }) => Array<number>(2).fill(rowsOf(x) * a.shape[0]!)),
        ],
        () => ({
          ...(needsX ? { dx: like(x, dtype ?? dy.dtype) } : {}),
          adapters: adapters.map(({ a, b }) => ({ da: like(a), db: like(b) })),
        }),
      )
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
    attention(q, k) {
      work[isAmong(q, k) ? 'attentionFlops' : 'textAttentionFlops'] += attentionFlops(q, k)
      work.numOps++
      return withScratch([scores(q, k)], () => ({
        out: like(q),
        lse: allocate([q.shape[0]!, q.shape[2]!, q.shape[1]!], 'f32'),
      }))
    },
    attentionGrad(_dout, { q, k, v, lse }) {
      work[isAmong(q, k) ? 'attentionGradFlops' : 'textAttentionGradFlops'] +=
        2.5 * attentionFlops(q, k)
      work.numOps += 3
      return withScratch([scores(q, k), scores(q, k), numElements(lse.shape)], () => ({
        dq: like(q),
        dk: like(k),
        dv: like(v),
      }))
    },
    layerNorm: (x, options) => touching([x], () => like(x, options.dtype), 'normBytes'),
    layerNormGrad: (dy, x, options) => touching([dy, x], () => like(x, options.dtype), 'normBytes'),
    rmsNorm: (x, _weight, options) => touching([x], () => like(x, options.dtype), 'normBytes'),
    rmsNormGrad: (dy, x, _weight, options) =>
      touching([dy, x], () => like(x, options.dtype), 'normBytes'),
    rope: (x) => touching([x], () => like(x)),
    gelu: (x) => touching([x], () => like(x)),
    geluGrad: (dy, x) => touching([dy, x], () => like(dy)),
    silu: (x) => touching([x], () => like(x)),
    rsqrt: (x) => like(x),
    dropout: (x) => like(x),
    add: (a, b) => touching([a, b], () => like(a)),
    mul: (a, b) => touching([a, b], () => like(a)),
    affine: (x) => touching([x], () => like(x)),
    gatedAdd: (x, y) => touching([x, y], () => like(x)),
    gatedAddGrad: (dx, _gate, dtype) => touching([dx], () => like(dx, dtype)),
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
      touching([ids], () =>
        allocate([...ids.shape, table.shape[1]!], options.dtype ?? table.dtype),
      ),
    cast: (x, dtype) => (dtype === x.dtype ? x : touching([x], () => like(x, dtype))),
    reshape: (x, shape) => adopt(countedOf(x).storage, shape, x.dtype),
    permute: (x, axes) =>
      touching([x], () =>
        allocate(
          axes.map((axis) => x.shape[axis]!),
          x.dtype,
        ),
      ),
    slice: (x, axis, start, end) =>
      touching([], () =>
        allocate(
          x.shape.map((extent, i) => (i === axis ? end - start : extent)),
          x.dtype,
        ),
      ),
    concat: (parts, axis) =>
      touching(parts, () =>
        allocate(
          parts[0]!.shape.map((extent, i) =>
            i === axis ? parts.reduce((sum, part) => sum + part.shape[axis]!, 0) : extent,
          ),
          parts[0]!.dtype,
        ),
      ),
    loss: (prediction, target) =>
      touching([prediction, target], () => allocate([prediction.shape[0]!], 'f32')),
    lossGrad: (prediction, target) => touching([prediction, target], () => like(prediction, 'f32')),
    sumSquares: (tensors) => touching(tensors, () => allocate([1], 'f32')),
    addInto: (target, source) => {
      work.bytes += 2 * bytesOf(target) + bytesOf(source)
      work.numOps++
    },
    adamw(slots) {
      // Parameter, gradient and both moments are read, all but the gradient written.
      for (const { param } of slots) work.bytes += 7 * bytesOf(param)
      work.numOps++
    },
    adamw8bit(slots) {
      for (const { param } of slots) work.bytes += 4 * bytesOf(param)
      work.numOps++
    },
    scope,
    checkpoint: (fn, inputs) => scope(() => fn(ops, ...inputs)),
  }

  return {
    info: {
      backend: '@kinora/trainer-core',
      adapter: 'counting device',
      driver: 'none',
      software: true,
      computeDTypes,
      reason: 'It was made to count bytes.',
    },
    ops,
    upload: (_data, shape, dtype) => allocate(shape, dtype),
    zeros: allocate,
    write: () => {},
    fill: () => Promise.resolve(),
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
    takeWork() {
      const done = work
      work = noWork()
      return done
    },
    memory: () => ({ liveBytes: live, peakBytes: peak, pooledBytes: 0, parkedBytes: parked }),
    resetPeak: () => {
      peak = live
    },
    setMemoryBudget: () => {},
    makeRoom: () => Promise.resolve(),
    destroy: () => {},
  }
}
