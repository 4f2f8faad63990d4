import type { Device } from '../device.ts'
import { bf16FromF32, f16FromF32, f32FromF16 } from '../half-floats.ts'
import { bytesPerElement, type Tensor } from '../tensor.ts'
import { attentionCases } from './cases/attention-cases.ts'
import { conv3dCases } from './cases/conv3d-cases.ts'
import { layoutCases } from './cases/layout-cases.ts'
import { linearCases } from './cases/linear-cases.ts'
import { normCases } from './cases/norm-cases.ts'
import { pointwiseCases } from './cases/pointwise-cases.ts'
import { quantizeCases } from './cases/quantize-cases.ts'
import { trainingCases } from './cases/training-cases.ts'
import type { ComputeDType, ConformanceCase } from './conformance-case.ts'

export interface ConformanceOptions {
  /** The device under test. Test files open it with a top-level await, so that rows can depend on its dtypes. */
  device: Device
  /** The test runner's own: this package depends on none. */
  describe: (name: string, fn: () => void) => void
  it: (name: string, fn: () => Promise<void>) => void
  /** Dtypes to cover; those that the device says it computes in unless given. */
  dtypes?: readonly ComputeDType[] | undefined
}

/** All rows for a device that computes in `dtypes`. */
export function conformanceCases(dtypes: readonly ComputeDType[]): ConformanceCase[] {
  return [
    ...linearCases(dtypes),
    ...quantizeCases(),
    ...attentionCases(dtypes),
    ...normCases(dtypes),
    ...pointwiseCases(dtypes),
    ...conv3dCases(dtypes),
    ...layoutCases(dtypes),
    ...trainingCases(),
  ]
}

/**
 * Declares the suite that a backend passes: every op and gradient against the f64 references, each row with its bound; the
 * same bytes from two runs; scopes, owners and memory accounting.
 */
export function runConformance(options: ConformanceOptions): void {
  const { device, describe, it } = options
  const dtypes = options.dtypes ?? device.info.computeDTypes
  const liveAtStart = device.memory().liveBytes
  const byOp = new Map<string, ConformanceCase[]>()
  for (const row of conformanceCases(dtypes)) {
    byOp.set(row.op, [...(byOp.get(row.op) ?? []), row])
  }
  for (const [op, rows] of byOp) {
    describe(op, () => {
      for (const row of rows) it(`${row.name} ≤ ${row.bound.max}`, () => row.run(device))
    })
  }
  describe('host arrays', () => declareTransfers(options, dtypes))
  describe('determinism', () => declareDeterminism(options, dtypes))
  describe('lifetimes', () => declareLifetimes(options))
  describe('memory', () => {
    it('is back to what it was before the suite', async () => {
      await device.sync()
      const { liveBytes } = device.memory()
      if (liveBytes !== liveAtStart) {
        throw new Error(`${liveBytes - liveAtStart} bytes of the suite's tensors are still live.`)
      }
    })
  })
}

function expectSame(got: ArrayLike<number>, want: ArrayLike<number>): void {
  const [a, b] = [Array.from(got), Array.from(want)]
  if (a.length !== b.length || a.some((value, i) => !Object.is(value, b[i]))) {
    throw new Error(`Got ${a.slice(0, 20).join(', ')}; wanted ${b.slice(0, 20).join(', ')}.`)
  }
}

async function readAndRelease(device: Device, tensor: Tensor): Promise<ArrayLike<number>> {
  try {
    return await device.read(tensor)
  } finally {
    device.release(tensor)
  }
}

function declareTransfers(
  { device, it }: ConformanceOptions,
  dtypes: readonly ComputeDType[],
): void {
  it('come back as they were: f32, i32, u32, bf16', async () => {
    const floats = Float32Array.of(0, -0, 1.5, -1e-38, 3e38, Infinity, -Infinity)
    expectSame(await readAndRelease(device, device.upload(floats, [7], 'f32')), floats)
    const ints = Int32Array.of(-(2 ** 31), -1, 0, 2 ** 31 - 1)
    expectSame(await readAndRelease(device, device.upload(ints, [2, 2], 'i32')), ints)
    const words = Uint32Array.of(0, 1, 2 ** 32 - 1)
    expectSame(await readAndRelease(device, device.upload(words, [3], 'u32')), words)
    const brain = Float32Array.of(1, -2.5, 0.1015625)
    expectSame(await readAndRelease(device, device.upload(bf16FromF32(brain), [3], 'bf16')), brain)
  })

  if (dtypes.includes('f16')) {
    it('come back as they were: f16, an odd number of them', async () => {
      const half = f16FromF32(Float32Array.of(1, -0.1, 65504, 6e-8, -3))
      expectSame(await readAndRelease(device, device.upload(half, [5], 'f16')), f32FromF16(half))
    })
  }

  it('f64 arrays are rounded to f32', async () => {
    const tensor = device.upload(Float64Array.of(0.1, 1 / 3), [2], 'f32')
    expectSame(await readAndRelease(device, tensor), Float32Array.of(0.1, 1 / 3))
  })

  it('zeros are zero, also where a freed tensor was', async () => {
    for (let i = 0; i < 3; i++) {
      device.scope(() => void device.ops.affine(device.zeros([1000], 'f32'), { offset: 7 }))
      const zeros = await readAndRelease(device, device.zeros([1000], 'f32'))
      expectSame(zeros, new Float32Array(1000))
    }
  })

  it('write overwrites a range, and what is queued before it sees the old numbers', async () => {
    const tensor = device.upload(Float32Array.of(1, 2, 3, 4, 5), [5], 'f32')
    const before = device.ops.affine(tensor, { scale: 10 })
    device.write(tensor, Float32Array.of(8, 9), 3)
    const after = device.ops.affine(tensor, { scale: 10 })
    expectSame(await readAndRelease(device, before), [10, 20, 30, 40, 50])
    expectSame(await readAndRelease(device, after), [10, 20, 30, 80, 90])
    expectSame(await readAndRelease(device, tensor), [1, 2, 3, 8, 9])
  })

  it('a reshape has the same elements, and outlives the tensor it came from', async () => {
    const x = device.upload(Float32Array.of(1, 2, 3, 4, 5, 6), [2, 3], 'f32')
    const y = device.ops.reshape(x, [3, 1, 2])
    device.release(x)
    if (y.shape.join() !== '3,1,2') throw new Error(`Its shape is [${y.shape.join(', ')}].`)
    expectSame(await readAndRelease(device, y), [1, 2, 3, 4, 5, 6])
  })
}

/** A small network that touches every kind of reduction, forward and back. */
function runEverything(device: Device, dtype: ComputeDType): Tensor[] {
  const { ops } = device
  const wave = (length: number, step: number) =>
    Float32Array.from({ length }, (_, i) => Math.sin(i * step))
  const put = (shape: number[], step: number, as: ComputeDType = dtype) => {
    const data = wave(
      shape.reduce((p, n) => p * n, 1),
      step,
    )
    return device.upload(as === 'f16' ? f16FromF32(data) : data, shape, as)
  }
  return device.scope(() => {
    const x = put([1, 130, 128], 0.37)
    const w = put([128, 128], 0.73)
    const adapter = { a: put([8, 128], 0.11, 'f32'), b: put([128, 8], 0.19, 'f32'), scale: 1 }
    const y = ops.linear(x, w, { adapters: [adapter] })
    const q = ops.reshape(y, [1, 130, 2, 64])
    const saved = ops.attention(q, q, q)
    const grads = ops.attentionGrad(q, { q, k: q, v: q, ...saved })
    const back = ops.linearGrad(ops.reshape(grads.dq, [1, 130, 128]), x, w, {
      adapters: [adapter],
      needsX: true,
    })
    const norm = ops.layerNorm(back.dx!, { eps: 1e-6, dtype: 'f32' })
    const [da, db] = [back.adapters[0]!.da, back.adapters[0]!.db]
    const video = put([1, 3, 8, 8, 16], 0.41)
    const kernel = put([16, 3, 3, 3, 16], 0.23)
    const conv = ops.conv3d(video, kernel, {
      padding: [
        [2, 0],
        [1, 1],
        [1, 1],
      ],
    })
    const loss = ops.loss(norm, ops.affine(norm, { scale: 0.5 }), { kind: 'mse' })
    return [norm, da, db, grads.dk, grads.dv, saved.lse, conv, loss, ops.sumSquares([da, db])]
  })
}

function declareDeterminism(
  { device, it }: ConformanceOptions,
  dtypes: readonly ComputeDType[],
): void {
  for (const dtype of dtypes) {
    it(`two runs in ${dtype} give the same bytes`, async () => {
      const first = runEverything(device, dtype)
      const firstValues = []
      for (const tensor of first) firstValues.push(await readAndRelease(device, tensor))
      const second = runEverything(device, dtype)
      for (const [i, tensor] of second.entries()) {
        expectSame(await readAndRelease(device, tensor), firstValues[i]!)
      }
    })
  }
}

function declareLifetimes({ device, it }: ConformanceOptions): void {
  const { ops } = device
  const live = () => device.memory().liveBytes
  const make = () => device.upload(Float32Array.of(1, 2, 3, 4), [4], 'f32')
  const expectLive = (bytes: number, when: string) => {
    if (live() !== bytes) throw new Error(`${live() - bytes} bytes too many are live ${when}.`)
  }

  it('a scope frees what it made and does not return', async () => {
    const before = live()
    device.scope(() => void ops.add(make(), make()))
    expectLive(before, 'after the scope')
    const kept = device.scope(() => ops.add(make(), make()))
    if (live() <= before) throw new Error('The result is not counted as live.')
    expectSame(await readAndRelease(device, kept), [2, 4, 6, 8])
    expectLive(before, 'after the release')
  })

  it('finds the tensors of a result in arrays, maps, sets and plain objects', async () => {
    const before = live()
    const result = device.scope(() => ({
      list: [make(), { deep: make() }],
      map: new Map([['a', make()]]),
      set: new Set([make()]),
      other: [1, 'x', null, undefined],
    }))
    const kept = [
      result.list[0] as Tensor,
      (result.list[1] as { deep: Tensor }).deep,
      result.map.get('a')!,
      [...result.set][0]!,
    ]
    for (const tensor of kept) expectSame(await readAndRelease(device, tensor), [1, 2, 3, 4])
    expectLive(before, 'after the releases')
  })

  it('scopes nest: what an inner one returns belongs to the outer one', async () => {
    const before = live()
    const result = ops.scope(() => {
      const inner = device.scope(() => ops.affine(make(), { scale: 2 }))
      return ops.affine(inner, { offset: 1 })
    })
    expectSame(await readAndRelease(device, result), [3, 5, 7, 9])
    expectLive(before, 'after the release')
  })

  it('a scope that throws frees everything', () => {
    const before = live()
    let thrown: unknown
    try {
      device.scope(() => {
        make()
        throw new Error('stop')
      })
    } catch (error) {
      thrown = error
    }
    if (!(thrown instanceof Error) || thrown.message !== 'stop') {
      throw new Error('The error of the scope did not come through.')
    }
    expectLive(before, 'after the scope')
    return Promise.resolve()
  })

  it('a retained tensor survives its scope until as many releases', async () => {
    const before = live()
    let tensor: Tensor | undefined
    device.scope(() => {
      tensor = device.retain(device.retain(make()))
    })
    device.release(tensor!)
    expectSame(await device.read(tensor!), [1, 2, 3, 4])
    device.release(tensor!)
    expectLive(before, 'after the last release')
  })

  it('an early release inside a scope frees at once, and the scope does not free again', async () => {
    const before = live()
    const result = device.scope(() => {
      const x = make()
      const during = live()
      const y = ops.affine(x, { scale: 3 })
      device.release(x)
      if (live() > during) throw new Error('The released tensor is still counted.')
      return y
    })
    expectSame(await readAndRelease(device, result), [3, 6, 9, 12])
    expectLive(before, 'after the release')
  })

  it('an input returned from a scope or a checkpoint keeps its owner', async () => {
    const before = live()
    const x = make()
    if (device.scope(() => x) !== x) throw new Error('The scope returned another tensor.')
    const y = ops.checkpoint((inner, input) => inner.affine(input, { scale: 2 }), [x])
    expectSame(await readAndRelease(device, y), [2, 4, 6, 8])
    expectSame(await readAndRelease(device, x), [1, 2, 3, 4])
    expectLive(before, 'after the releases')
  })

  it('storage that is reused does not disturb results still to be read', async () => {
    const results = []
    for (let i = 0; i < 20; i++) {
      results.push(
        device.scope(() => {
          const x = device.upload(new Float32Array(64).fill(i), [64], 'f32')
          return ops.affine(ops.affine(x, { scale: 2 }), { offset: 1 })
        }),
      )
    }
    for (const [i, tensor] of results.entries()) {
      expectSame(await readAndRelease(device, tensor), new Float32Array(64).fill(2 * i + 1))
    }
  })

  it('a parked tensor comes back as it was, into other storage, and what is queued before sees the old content', async () => {
    const before = device.memory()
    const words = Uint32Array.from({ length: 1001 }, (_, i) => Math.imul(i, 0x9e3779b1))
    const halves = f16FromF32(Float32Array.from({ length: 333 }, (_, i) => i / 7 - 20))
    const first = device.upload(words, [7, 143], 'u32')
    const second = device.upload(halves, [333], 'f16')
    const [parkedWords, parkedHalves] = await Promise.all([device.park(first), device.park(second)])
    const parked = device.memory().parkedBytes - before.parkedBytes
    if (parked < 4 * 1001 + 2 * 333) throw new Error(`Only ${parked} bytes count as parked.`)
    device.release(first)
    device.release(second)
    expectLive(before.liveBytes, 'after the tensors were parked and released')
    const target = device.upload(new Float32Array(1001).fill(3), [1001], 'f32')
    const old = ops.affine(target, { scale: 2 })
    device.release(target)
    const backWords = device.zeros([7, 143], 'u32')
    const backHalves = device.zeros([333], 'f16')
    const wide = ops.cast(backHalves, 'f32')
    device.unpark(parkedWords, backWords)
    device.unpark(parkedHalves, backHalves)
    // Twice: a parked copy stays.
    device.unpark(parkedHalves, backHalves)
    device.discard(parkedWords)
    device.discard(parkedHalves)
    expectSame(await readAndRelease(device, old), new Float32Array(1001).fill(6))
    expectSame(await readAndRelease(device, wide), new Float32Array(333))
    expectSame(await readAndRelease(device, backWords), words)
    expectSame(await readAndRelease(device, backHalves), f32FromF16(halves))
    if (device.memory().parkedBytes !== before.parkedBytes) {
      throw new Error('Discarded copies are counted as parked.')
    }
  })

  it('a tensor may be released and overwritten as soon as parking it was asked for, transient or not', async () => {
    const before = device.memory()
    for (const transient of [true, false, true, true]) {
      const parking = [3, 5, 8].map((value) => {
        const tensor = device.upload(new Float32Array(500).fill(value), [500], 'f32')
        const parked = device.park(tensor, { transient })
        device.write(tensor, new Float32Array(500).fill(-1))
        device.release(tensor)
        return parked
      })
      expectLive(before.liveBytes, 'after the tensors were released')
      const copies = await Promise.all(parking)
      const target = device.zeros([500], 'f32')
      for (const [i, value] of [3, 5, 8].entries()) {
        device.unpark(copies[i]!, target)
        device.discard(copies[i]!)
        const got = ops.affine(target, { scale: 1 })
        expectSame(await readAndRelease(device, got), new Float32Array(500).fill(value))
      }
      device.release(target)
    }
    if (device.memory().parkedBytes !== before.parkedBytes) {
      throw new Error('Discarded copies are counted as parked.')
    }
  })

  it('memory tells the peak since it was reset', async () => {
    const before = live()
    device.resetPeak()
    device.scope(() => {
      for (let i = 0; i < 4; i++) device.zeros([1024], 'f32')
    })
    const { peakBytes, liveBytes } = device.memory()
    if (peakBytes < before + 4 * 4096) throw new Error(`The peak is ${peakBytes}.`)
    if (liveBytes !== before) throw new Error('Freed tensors are counted as live.')
    device.resetPeak()
    if (device.memory().peakBytes !== before) throw new Error('resetPeak did not reset.')
    await device.sync()
  })

  it('fill writes parts of a tensor in any order, and nothing where reading fails', async () => {
    for (const dtype of ['f32', 'f16', 'u32'] as const) {
      const count = 700_001
      const size = count * bytesPerElement[dtype]
      const bytes = new Uint8Array(size)
      const values = Uint16Array.from({ length: size / 2 }, (_, i) => 0x3000 + (i % 0x700))
      bytes.set(new Uint8Array(values.buffer))
      const tensor = device.zeros([count], dtype)
      const cuts = [0, 4, 600_000, 1_200_000, size]
      const parts = cuts.slice(1).map((end, i) => [cuts[i]!, end] as const)
      await Promise.all(
        parts.toReversed().map(([from, end]) =>
          device.fill(tensor, from, end - from, async (target) => {
            await Promise.resolve()
            target.set(bytes.subarray(from, end))
          }),
        ),
      )
      const failure = new Error('The disk is gone.')
      const failed = await device
        .fill(tensor, 0, 4, () => Promise.reject(failure))
        .catch((error: unknown) => error)
      if (failed !== failure) throw new Error('A failed read is not passed on.')
      const want = device.upload(
        dtype === 'f32'
          ? new Float32Array(bytes.buffer)
          : dtype === 'f16'
            ? new Uint16Array(bytes.buffer)
            : new Uint32Array(bytes.buffer),
        [count],
        dtype,
      )
      expectSame(await readAndRelease(device, tensor), await readAndRelease(device, want))
    }
  })

  it('makeRoom gives idle memory back, and leaves tensors alone', async () => {
    const tensor = device.upload(Float32Array.of(1, 2, 3), [3], 'f32')
    device.release(device.zeros([4096], 'f32'))
    device.setMemoryBudget(device.memory().liveBytes)
    await device.makeRoom(1024)
    const { pooledBytes } = device.memory()
    if (pooledBytes !== 0) throw new Error(`${pooledBytes} bytes still lie idle.`)
    expectSame(await readAndRelease(device, tensor), Float32Array.of(1, 2, 3))
  })
}
