// The text encoder as `kinora cache` runs it: seconds, bytes read, and the most memory on the device and on the host.
//
//   bench text CHECKPOINT [--quantize=float8|qfloat8|uint4|none] [--captions=32] [--budget-gib=3] [--no-dense] [--json=FILE]
//
// Three passes over the weights: a short caption alone; the short one and one as long as fits, together; and `--captions` of lengths
// between. Then, unless told not to, the short one through dense weights, for what packing costs in accuracy. A pass reads every layer once
// however many captions it has, which `readGB` shows (Linux).
//
// `deviceGiB` counts every buffer that this process made on the device and has not destroyed, idle ones included; `liveGiB` those in
// use; `driverGiB` is by how much the driver says that the card fills up (NVIDIA). The bar is 3 GiB, which is also the budget that the
// device is told.
import { execFile } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs, promisify } from 'node:util'

import type { Device } from '@kinora/kernel-api'
import {
  loadTextEncoder,
  openCheckpoint,
  type QuantizeScheme,
  type WanTokenizer,
} from '@kinora/wan'
import { openDevice } from '@kinora/wgpu-kernels/node'

import { hostPeak } from './host-memory.ts'

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  allowNegative: true,
  options: {
    quantize: { type: 'string', default: 'float8' },
    captions: { type: 'string', default: '32' },
    'long-tokens': { type: 'string', default: '512' },
    'budget-gib': { type: 'string', default: '3' },
    dense: { type: 'boolean', default: true },
    json: { type: 'string' },
  },
})
const [source] = positionals
if (!source) {
  console.error('Name a checkpoint: bench text CHECKPOINT')
  process.exit(2)
}
const BAR_GIB = 3
const GIB = 2 ** 30
const round = (value: number): number => Number(value.toFixed(3))
const gib = (bytes: number): number => round(bytes / GIB)

/** Counts the buffers of a device as they come and go, those for mapping apart: they are host memory. */
function countBuffers(gpu: GPUDevice): {
  resetPeak(): void
  peak(): { device: number; host: number }
} {
  const MAPPED = 0x0001 | 0x0002
  const now = { device: 0, host: 0 }
  let peak = { ...now }
  const create = gpu.createBuffer.bind(gpu)
  gpu.createBuffer = (descriptor) => {
    const buffer = create(descriptor)
    const side = (descriptor.usage & MAPPED) === 0 ? 'device' : 'host'
    now[side] += descriptor.size
    peak[side] = Math.max(peak[side], now[side])
    const destroy = buffer.destroy.bind(buffer)
    let isThere = true
    buffer.destroy = () => {
      if (isThere) now[side] -= descriptor.size
      isThere = false
      return destroy()
    }
    return buffer
  }
  return { resetPeak: () => (peak = { ...now }), peak: () => peak }
}

/** MiB in use on the first card, by what its driver says; undefined where there is no nvidia-smi. */
async function driverMiB(): Promise<number | undefined> {
  const query = ['--query-gpu=memory.used', '--format=csv,noheader,nounits']
  const asked = await promisify(execFile)('nvidia-smi', query, { timeout: 10_000 }).catch(
    () => undefined,
  )
  const used = Number(asked?.stdout.trim().split('\n')[0])
  return Number.isFinite(used) ? used : undefined
}

/** Asks the driver again and again; by how much it grew at most, in GiB, when stopped. */
async function watchDriver(): Promise<{ stop(): Promise<number> } | undefined> {
  const first = await driverMiB()
  if (first === undefined) return undefined
  let most = first
  let isWatching = true
  const watching = (async () => {
    while (isWatching) {
      most = Math.max(most, (await driverMiB()) ?? 0)
      await sleep(100)
    }
  })()
  return {
    async stop() {
      isWatching = false
      await watching
      return (most - first) / 2 ** 10
    },
  }
}

/** Bytes that this process has read from files; undefined where nobody counts. */
async function bytesRead(): Promise<number | undefined> {
  const text = await readFile('/proc/self/io', 'utf8').catch(() => '')
  const found = /rchar: (\d+)/.exec(text)
  return found ? Number(found[1]) : undefined
}

const SHORT = 'A red fox runs through deep snow at dawn, the camera follows it from the side.'
const SCENE =
  'The handheld camera drifts forward along a narrow market street after the rain while lanterns swing above the stalls, a woman ' +
  'in a green coat lifts a basket of oranges, turns to the left and laughs, steam rises from a kettle behind her, a cyclist crosses ' +
  'from right to left out of focus, reflections tremble in the puddles, and the light slowly changes from cold blue to warm amber.'

/** A caption of about so many tokens, and never more. */
function captionOf(tokenizer: WanTokenizer, numTokens: number, from: number): string {
  const words = SCENE.split(' ')
  const taken: string[] = []
  const count = (): number => tokenizer.encode(taken.join(' '), { truncate: false }).length
  while (taken.length === 0 || count() <= numTokens) {
    taken.push(words[(from + taken.length) % words.length]!)
  }
  if (taken.length > 1) taken.pop()
  return taken.join(' ')
}

interface Encoded {
  numTokens: number
  values: Float32Array
}

/** Encodes texts as `kinora cache` does, one visit of the encoder, and checks what comes. */
async function encode(
  texts: readonly string[],
  quantize: QuantizeScheme | undefined,
  device: Device,
): Promise<Encoded[]> {
  const encoder = await loadTextEncoder(checkpoint, device, { quantize })
  const encoded: Encoded[] = []
  try {
    for await (const states of encoder.encodeEach(texts)) {
      const [, , dim] = states.shape as [number, number, number]
      const rows = (await device.read(states)) as Float32Array
      device.release(states)
      const { tokenizer } = encoder
      const numTokens = tokenizer.encode(tokenizer.cleanPrompt(texts[encoded.length]!)).length
      const values = rows.slice(0, numTokens * dim)
      if (!values.every(Number.isFinite)) throw new Error('A state is not finite.')
      if (values.every((value) => value === 0)) throw new Error('The states are zeros.')
      if (rows.subarray(numTokens * dim).some((value) => value !== 0)) {
        throw new Error('A row after the last token is not zero.')
      }
      encoded.push({ numTokens, values })
    }
  } finally {
    await encoder.release()
  }
  return encoded
}

/** ‖a − b‖ / ‖b‖. */
function relativeError(a: Float32Array, b: Float32Array): number {
  let error = 0
  let size = 0
  for (const [i, value] of b.entries()) {
    error += (a[i]! - value) ** 2
    size += value ** 2
  }
  return Math.sqrt(error / size)
}

const device = await openDevice()
console.log(`${device.info.adapter}, ${device.info.driver}`)
device.setMemoryBudget(Number(flags['budget-gib']) * GIB)
const buffers = countBuffers(device.gpuDevice)
const driver = await watchDriver()
const hostBefore = await hostPeak()
const checkpoint = await openCheckpoint(source)
const { textEncoder, textLength } = checkpoint
const quantize = flags.quantize === 'none' ? undefined : (flags.quantize as QuantizeScheme)
await using weights = await checkpoint.openWeights('text_encoder')
const sizes = await Promise.all(weights.files.map(({ file }) => stat(file)))
const fileBytes = sizes.reduce((sum, { size }) => sum + size, 0)
const tokenizerBytes = (await stat(join(checkpoint.dir, 'tokenizer', 'tokenizer.json'))).size

interface Pass {
  pass: string
  captions: number
  tokens: number
  seconds: number
  readGB?: number
  liveGiB: number
  deviceGiB: number
  stagingGiB: number
}
const passes: Pass[] = []
async function run(
  pass: string,
  texts: readonly string[],
  scheme: QuantizeScheme | undefined,
): Promise<Encoded[]> {
  device.resetPeak()
  buffers.resetPeak()
  const before = await bytesRead()
  const start = performance.now()
  const encoded = await encode(texts, scheme, device)
  const seconds = (performance.now() - start) / 1000
  const after = await bytesRead()
  const { device: made, host } = buffers.peak()
  passes.push({
    pass,
    captions: texts.length,
    tokens: encoded.reduce((sum, { numTokens }) => sum + numTokens, 0),
    seconds: round(seconds),
    ...(before === undefined || after === undefined
      ? {}
      : { readGB: round((after - before) / 1e9) }),
    liveGiB: gib(device.memory().peakBytes),
    deviceGiB: gib(made),
    stagingGiB: gib(host),
  })
  console.log(JSON.stringify(passes.at(-1)))
  return encoded
}

const { tokenizer, release } = await loadTextEncoder(checkpoint, device)
await release()
const most = Math.min(textLength, Number(flags['long-tokens']))
const long = captionOf(tokenizer, most, 0)
const many = Array.from({ length: Number(flags.captions) }, (_, i) =>
  captionOf(tokenizer, 16 + ((i * 97) % Math.max(1, most - 15)), i),
)
const [alone] = await run('short', [SHORT], quantize)
const [together] = await run('short and long', [SHORT, long], quantize)
if (relativeError(together!.values, alone!.values) > 1e-6) {
  throw new Error('A caption has other states beside another one than alone.')
}
if (many.length > 0) await run('many', many, quantize)
let packingError: number | undefined
if (quantize !== undefined && flags.dense) {
  const [dense] = await run('short, dense', [SHORT], undefined)
  packingError = relativeError(alone!.values, dense!.values)
}
const deviceGiB = Math.max(...passes.map((pass) => pass.deviceGiB))
const driverGiB = await driver?.stop()
const result = {
  encoder: {
    layers: textEncoder.numLayers,
    dim: textEncoder.dim,
    ffn: textEncoder.ffnDim,
    vocabulary: textEncoder.vocabSize,
    files: weights.files.length,
    gigabytes: round(fileBytes / 1e9),
    tokenizerMB: round(tokenizerBytes / 1e6),
  },
  quantize: flags.quantize,
  passes,
  ...(packingError === undefined ? {} : { packingError: Number(packingError.toPrecision(3)) }),
  deviceGiB,
  ...(driverGiB === undefined ? {} : { driverGiB: round(driverGiB) }),
  barGiB: BAR_GIB,
  withinBar: Math.max(deviceGiB, driverGiB ?? 0) < BAR_GIB,
  hostGiBBefore: round(hostBefore),
  hostPeakGiB: round(await hostPeak()),
}
console.log(JSON.stringify(result, null, 1))
if (flags.json) writeFileSync(flags.json, JSON.stringify({ device: device.info, result }, null, 2))
device.destroy()
process.exit(result.withinBar ? 0 : 1)
