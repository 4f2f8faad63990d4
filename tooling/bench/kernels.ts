// Kernels at the sizes of the real model (5120 channels, 13824 in the feed-forward, 40 heads of 128), by the device's own clock:
// products and attention in TFLOP/s, everything that only moves memory as a share of the copy bandwidth of the same run,
// convolutions of the VAE.
//
//   bench kernels [--tokens=11264] [--only=copy,elementwise,linear,attention,conv3d] [--repeat=5]
//                    [--block=128x128x32] [--json=FILE]
//
// Smaller widths for a software adapter: --channels=256 --ffn=512 --heads=2 --pixels=32
import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'

import {
  f16FromF32,
  normals,
  numElements,
  type PackedWeight,
  type Tensor,
} from '@kinora/kernel-api'
import { openDevice } from '@kinora/wgpu-kernels/node'

import { ceilingOf } from './ceilings.ts'

const { values: flags } = parseArgs({
  options: {
    tokens: { type: 'string', default: '11264' },
    'long-tokens': { type: 'string', default: '45056' },
    channels: { type: 'string', default: '5120' },
    ffn: { type: 'string', default: '13824' },
    heads: { type: 'string', default: '40' },
    pixels: { type: 'string', default: '512' },
    only: { type: 'string', default: 'copy,elementwise,linear,attention,conv3d' },
    repeat: { type: 'string', default: '5' },
    /** Block of matrix products on tensor cores, instead of the one that tuning found. */
    block: { type: 'string' },
    json: { type: 'string' },
  },
})
const sections = new Set(flags.only.split(','))
type Overrides = NonNullable<NonNullable<Parameters<typeof openDevice>[0]>['overrides']>
const device = await openDevice({
  profile: true,
  ...(flags.block === undefined
    ? {}
    : {
        tuningFile: false as const,
        overrides: { block: flags.block as NonNullable<Overrides['block']> },
      }),
})
const { ops } = device
if (!device.profile.timestamps) {
  console.error(`${device.info.adapter} has no timestamp queries, by which kernels are timed.`)
  process.exit(1)
}
const N = Number(flags.tokens)
const C = Number(flags.channels)
const F = Number(flags.ffn)
const H = Number(flags.heads)
const repeat = Number(flags.repeat)

interface Result {
  readonly section: string
  readonly name: string
  readonly ms: number
  readonly gbPerSecond?: number
  readonly shareOfCopy?: number
  readonly tflops?: number
  /** Of what the adapter's matrix units can do. */
  readonly ofCeiling?: number
  readonly kernels: Readonly<Record<string, number>>
}
const results: Result[] = []
let copyBandwidth = 0
let bestProduct = 0
const ceiling = ceilingOf(device.info.adapter)

/** A tensor of normals from a pool, each from places of its own: tensors alike would be a special case of attention. */
const pool = normals(1, 1, (1 << 20) + 8 * 4099)
const pool16 = f16FromF32(pool)
let made = 0
function put(shape: readonly number[], dtype: 'f32' | 'f16', scale = 1): Tensor {
  const tensor = device.zeros(shape, dtype)
  const count = numElements(shape)
  const scaled = scale === 1 ? pool : pool.map((x) => x * scale)
  const source = dtype === 'f32' ? scaled : scale === 1 ? pool16 : f16FromF32(scaled)
  const start = 8 * ((made++ * 577) % 4099)
  const piece = 1 << 20
  for (let at = 0; at < count; at += piece) {
    device.write(tensor, source.subarray(start, start + Math.min(piece, count - at)), at)
  }
  return tensor
}

/**
 * Device milliseconds of all dispatches of `fn`, the median of runs queued back to back: between runs that are waited for, and
 * while it compiles, a card lowers its clock. At least 300 ms of work go before, counted as they pass: of the slow first ones
 * there would be too few.
 */
async function time(fn: () => void): Promise<{ ms: number; kernels: Record<string, number> }> {
  const queued = async (runs: number) => {
    for (let i = 0; i < runs; i++) device.scope(fn)
    const times = await device.takeProfile()
    const each = times.length / runs
    return Array.from({ length: runs }, (_, run) => times.slice(run * each, (run + 1) * each))
  }
  const total = (times: readonly { milliseconds: number }[]): number =>
    times.reduce((sum, { milliseconds }) => sum + milliseconds, 0)
  await queued(1)
  const [first] = await queued(1)
  let last = total(first!)
  const runsFor = (milliseconds: number): number =>
    Math.min(500, Math.ceil(milliseconds / Math.max(0.01, last)))
  // A card whose clock says nothing must not keep it here.
  for (let busy = 0, rounds = 0; busy < 300 && rounds < 20; rounds++) {
    const runs = await queued(runsFor(300 - busy))
    busy += runs.reduce((sum, run) => sum + total(run), 0)
    last = total(runs.at(-1)!)
  }
  const warm = runsFor(50)
  const runs = (await queued(warm + repeat)).slice(warm)
  const times = runs.toSorted((x, y) => total(x) - total(y))[Math.floor(repeat / 2)]!
  const kernels: Record<string, number> = {}
  for (const { kernel, milliseconds } of times) {
    kernels[kernel] = (kernels[kernel] ?? 0) + milliseconds
  }
  return { ms: total(times), kernels }
}

function report(result: Result): void {
  results.push(result)
  const { name, ms, gbPerSecond, shareOfCopy, tflops, ofCeiling, kernels } = result
  const parts = Object.entries(kernels)
  console.log(
    [
      name.padEnd(52),
      `${ms.toFixed(3).padStart(9)} ms`,
      gbPerSecond === undefined ? '' : `${gbPerSecond.toFixed(0).padStart(5)} GB/s`,
      shareOfCopy === undefined ? '' : `${(100 * shareOfCopy).toFixed(0).padStart(3)} % of copy`,
      tflops === undefined
        ? ''
        : tflops >= 1
          ? `${tflops.toFixed(1).padStart(6)} TFLOP/s`
          : `${(1000 * tflops).toFixed(1).padStart(6)} GFLOP/s`,
      ofCeiling === undefined
        ? ''
        : `${(100 * ofCeiling).toFixed(0).padStart(3)} % of ${ceiling ? 'the ceiling' : 'the best product'}`,
      parts.length > 1 ? parts.map(([kernel, t]) => `${kernel} ${t.toFixed(3)}`).join(', ') : '',
    ]
      .filter((part) => part !== '')
      .join('  '),
  )
}

/** @param bytes what has to be read and written once */
async function bandwidth(
  name: string,
  bytes: number,
  fn: () => void,
  only?: string,
): Promise<void> {
  const { ms: all, kernels } = await time(fn)
  const ms = only === undefined ? all : (kernels[only] ?? Number.NaN)
  const gbPerSecond = bytes / ms / 1e6
  report({
    section: 'bandwidth',
    name,
    ms,
    gbPerSecond,
    ...(copyBandwidth > 0 ? { shareOfCopy: gbPerSecond / copyBandwidth } : {}),
    kernels: only === undefined ? kernels : {},
  })
}
async function throughput(
  section: string,
  name: string,
  flops: number,
  fn: () => void,
): Promise<void> {
  const { ms, kernels } = await time(fn)
  const tflops = flops / ms / 1e9
  // Of an adapter whose ceiling nobody measured, the best product of this run stands for it.
  if (section === 'linear') bestProduct = Math.max(bestProduct, tflops * 1e12)
  const most = ceiling?.flopsPerSecond ?? bestProduct
  const ofCeiling = most > 0 ? (tflops * 1e12) / most : undefined
  report({ section, name, ms, tflops, ...(ofCeiling ? { ofCeiling } : {}), kernels })
}
const release = (...tensors: readonly Tensor[]): void => {
  for (const tensor of tensors) device.release(tensor)
}

console.log(`${device.info.adapter}, ${device.info.driver}`)
if (sections.has('copy') || sections.has('elementwise')) {
  for (const bytes of [N * C * 4, 4 * N * C * 4]) {
    const x = device.zeros([bytes / 4], 'f32')
    const { ms } = await time(() => void ops.cast(x, 'f32'))
    copyBandwidth = Math.max(copyBandwidth, (2 * bytes) / ms / 1e6)
    report({
      section: 'copy',
      name: `copy of ${(bytes / 2 ** 20).toFixed(0)} MiB`,
      ms,
      gbPerSecond: (2 * bytes) / ms / 1e6,
      kernels: {},
    })
    release(x)
  }
}

if (sections.has('elementwise')) {
  const e = N * C
  const x = put([1, N, C], 'f32')
  const y = put([1, N, C], 'f16')
  const f = put([1, N, F], 'f16')
  const w = put([C], 'f32')
  const gate = put([1, C], 'f32')
  const table = put([N, C / H / 2], 'f32')
  const bf16 = ops.cast(y, 'bf16')
  const heads = ops.reshape(y, [1, N, H, C / H])
  const one = { eps: 1e-6 }
  const modulated = { ...one, weight: gate, bias: gate, dtype: 'f16' as const }
  await bandwidth(
    'layer norm, modulated, f32 to f16',
    6 * e,
    () => void ops.layerNorm(x, modulated),
  )
  await bandwidth(
    'layer norm, modulated, f16 to f16',
    4 * e,
    () => void ops.layerNorm(y, modulated),
  )
  await bandwidth(
    'its gradient, dy f16, x f32, to f32',
    10 * e,
    () => void ops.layerNormGrad(y, x, { ...one, weight: gate, dtype: 'f32' }),
  )
  await bandwidth('rms norm f16', 4 * e, () => void ops.rmsNorm(y, w, one))
  await bandwidth('its gradient', 6 * e, () => void ops.rmsNormGrad(y, y, w, one))
  await bandwidth('rope f16', 4 * e, () => void ops.rope(heads, table, table))
  await bandwidth('gelu f16, feed-forward', 4 * N * F, () => void ops.gelu(f))
  await bandwidth('its gradient', 6 * N * F, () => void ops.geluGrad(f, f))
  await bandwidth('gated add, f32 and f16', 10 * e, () => void ops.gatedAdd(x, y, gate))
  await bandwidth('its gradient, f32 to f16', 6 * e, () => void ops.gatedAddGrad(x, gate, 'f16'))
  await bandwidth('add f32', 12 * e, () => void ops.add(x, x))
  await bandwidth('add f32 and f16', 10 * e, () => void ops.add(x, y))
  await bandwidth('cast f32 to f16', 6 * e, () => void ops.cast(x, 'f16'))
  await bandwidth('cast bf16 to f16', 4 * e, () => void ops.cast(bf16, 'f16'))
  await bandwidth('silu f32', 8 * e, () => void ops.silu(x))
  await bandwidth('slice of the channels, f16', 4 * (e / 2), () => void ops.slice(y, 2, 0, C / 2))
  await bandwidth('permute [N, C] to [C, N], f16', 4 * e, () => void ops.permute(y, [0, 2, 1]))
  release(x, y, f, w, gate, table, heads, bf16)
  // What `linear` expands a packed weight with: its dispatch alone.
  const few = put([1, 128, C], 'f16')
  for (const format of ['uint4', 'float8_e4m3'] as const) {
    const perWord = format === 'uint4' ? 8 : 4
    const groups = format === 'uint4' ? C / 64 : 1
    const scales = put([F, groups], 'f16')
    const weight: PackedWeight = {
      format,
      shape: [F, C],
      codes: device.zeros([F, C / perWord], 'u32'),
      scales,
      ...(format === 'uint4' ? { zeros: scales, groupSize: 64 } : {}),
    }
    const bytes = F * C * (2 + 4 / perWord) + F * groups * (format === 'uint4' ? 4 : 2)
    await bandwidth(
      `dequantise [${F}, ${C}] ${format}`,
      bytes,
      () => void ops.linear(few, weight),
      'dequantize',
    )
    release(weight.codes, scales)
  }
  release(few)
}

if (sections.has('linear')) {
  for (const [O, K] of [
    [C, C],
    [F, C],
    [C, F],
  ] as const) {
    const x = put([1, N, K], 'f16')
    const w = put([O, K], 'f16')
    const bias = put([O], 'f32')
    const a = put([16, K], 'f32')
    const b = put([O, 16], 'f32')
    const dy = put([1, N, O], 'f16')
    const adapters = [{ a, b, scale: 1 }]
    const flops = 2 * N * O * K
    const name = `linear ${N} × ${O} × ${K}`
    await throughput('linear', name, flops, () => void ops.linear(x, w, { bias }))
    await throughput(
      'linear',
      `${name}, rank 16`,
      flops,
      () => void ops.linear(x, w, { bias, adapters }),
    )
    await throughput(
      'linear',
      `${name}, dx`,
      flops,
      () => void ops.linearGrad(dy, x, w, { needsX: true }),
    )
    await throughput(
      'linear',
      `${name}, dx, rank 16`,
      flops,
      () => void ops.linearGrad(dy, x, w, { needsX: true, adapters }),
    )
    release(x, w, bias, a, b, dy)
  }
}

if (sections.has('attention')) {
  for (const [tokens, keys, heads] of [
    [N, N, H],
    [N, 512, H],
    [Number(flags['long-tokens']), Number(flags['long-tokens']), Math.max(1, Math.round(H / 5))],
  ] as const) {
    const D = C / H
    const q = put([1, tokens, heads, D], 'f16')
    const k = put([1, keys, heads, D], 'f16')
    const v = put([1, keys, heads, D], 'f16')
    const flops = 4 * tokens * keys * D * heads
    const name = `attention ${tokens} × ${keys}, ${heads} heads`
    await throughput('attention', name, flops, () => void ops.attention(q, k, v))
    if (tokens === keys) {
      // Scores of standard deviation 9: rows of one or a few keys, which a reference for the weights has to meet.
      const sharp = put([1, tokens, heads, D], 'f16', 9)
      await throughput('attention', `${name}, sharp`, flops, () => void ops.attention(sharp, k, v))
      await throughput(
        'attention',
        `${name}, sharp, rows attend to themselves`,
        flops,
        () => void ops.attention(sharp, sharp, v, { scale: 2 / D }),
      )
      release(sharp)
    }
    const { out, lse } = ops.attention(q, k, v)
    const saved = { q, k, v, out, lse }
    await throughput(
      'attention',
      `${name}, gradient (2.5 forwards)`,
      2.5 * flops,
      () => void ops.attentionGrad(q, saved),
    )
    release(q, k, v, out, lse)
  }
}

if (sections.has('conv3d')) {
  const P = Number(flags.pixels)
  const causal = {
    padding: [
      [2, 0],
      [1, 1],
      [1, 1],
    ] as const,
  }
  const flat = {
    padding: [
      [0, 0],
      [1, 1],
      [1, 1],
    ] as const,
  }
  const halved = {
    stride: [1, 2, 2] as const,
    padding: [
      [0, 0],
      [0, 1],
      [0, 1],
    ] as const,
  }
  const cases = [
    { T: 4, P, K: 3, O: 96, taps: [3, 3, 3], options: causal },
    { T: 4, P, K: 96, O: 96, taps: [3, 3, 3], options: causal },
    { T: 4, P, K: 96, O: 96, taps: [1, 3, 3], options: halved },
    { T: 4, P: P / 2, K: 96, O: 192, taps: [3, 3, 3], options: causal },
    { T: 4, P: P / 2, K: 192, O: 192, taps: [3, 3, 3], options: causal },
    { T: 2, P: P / 4, K: 384, O: 384, taps: [3, 3, 3], options: causal },
    { T: 4, P: P / 8, K: 384, O: 384, taps: [3, 3, 3], options: causal },
    { T: 4, P: P / 2, K: 192, O: 96, taps: [1, 3, 3], options: { ...flat, upsample: 2 } },
    { T: 4, P, K: 96, O: 3, taps: [3, 3, 3], options: causal },
  ] as const
  for (const dtype of ['f32', 'f16'] as const) {
    for (const { T, P: extent, K, O, taps, options } of cases) {
      const x = put([1, T, extent, extent, K], dtype)
      const w = put([O, ...taps, K], dtype)
      const bias = put([O], dtype)
      const y = ops.conv3d(x, w, { bias, ...options })
      const flops = 2 * numElements(y.shape) * numElements(taps) * K
      const name = `conv3d ${dtype}, ${T} × ${extent}², ${K} → ${O}, ${taps.join(' × ')}`
      await throughput('conv3d', name, flops, () => void ops.conv3d(x, w, { bias, ...options }))
      release(x, w, bias, y)
    }
  }
}

if (flags.json !== undefined) {
  const { adapter, driver } = device.info
  writeFileSync(
    flags.json,
    `${JSON.stringify({ adapter, driver, copyBandwidth, results }, null, 2)}\n`,
  )
}
device.destroy()
process.exit(0)
