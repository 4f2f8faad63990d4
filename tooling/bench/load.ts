// How fast an expert comes from the disk to the device, beside what the disk gives to plain reading, and how long the experts take
// to change places when one waits in host memory.
//
//   bench load CHECKPOINT [--quantize=uint4] [--compute=f16] [--json=FILE]
//
// Before each reading the files are put out of the page cache where `dd` can (Linux); what stays in memory anyway, such as /dev/shm,
// is read at memory's pace by both.
import { spawnSync } from 'node:child_process'
import { open, readdir, stat } from 'node:fs/promises'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'

import { loadTransformer, openCheckpoint, type QuantizeScheme } from '@kinora/wan'
import { openDevice } from '@kinora/wgpu-kernels/node'

import { hostPeak } from './host-memory.ts'

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    quantize: { type: 'string', default: '' },
    compute: { type: 'string', default: 'f16' },
    json: { type: 'string' },
  },
})
const [source] = positionals
if (!source) {
  console.error('Name a checkpoint: bench load CHECKPOINT')
  process.exit(2)
}
const GIB = 2 ** 30
const CHUNK = 16 * 2 ** 20
const round = (value: number): number => Number(value.toFixed(2))
const secondsSince = (start: number): number => (performance.now() - start) / 1000

async function weightFiles(folder: string): Promise<string[]> {
  const names = (await readdir(folder)).filter((name) => name.endsWith('.safetensors'))
  return names.sort().map((name) => join(folder, name))
}
/** Asks the kernel to forget the files, so that both readings go to the disk. */
function forget(files: readonly string[]): boolean {
  return files.every(
    (file) =>
      spawnSync('dd', [`if=${file}`, 'iflag=nocache', 'count=0', 'status=none']).status === 0,
  )
}
/** Reads files one after another, three reads ahead, as plainly as can be. */
async function readThrough(files: readonly string[]): Promise<number> {
  const buffers = Array.from({ length: 4 }, () => new Uint8Array(CHUNK))
  let bytes = 0
  for (const file of files) {
    const handle = await open(file)
    const { size } = await handle.stat()
    const numChunks = Math.ceil(size / CHUNK)
    for (let at = 0; at < numChunks; at += buffers.length) {
      const reads = buffers.map((buffer, i) => handle.read(buffer, 0, CHUNK, (at + i) * CHUNK))
      for (const { bytesRead } of await Promise.all(reads)) bytes += bytesRead
    }
    await handle.close()
  }
  return bytes
}

const device = await openDevice()
console.log(`${device.info.adapter}, ${device.info.driver}`)
const checkpoint = await openCheckpoint(source)
const compute = device.info.computeDTypes.includes('f16') && flags.compute === 'f16' ? 'f16' : 'f32'
const options = {
  compute,
  ...(flags.quantize ? { quantize: flags.quantize as QuantizeScheme } : {}),
} as const
const files = await weightFiles(join(checkpoint.dir, 'transformer'))
const bytes = (await Promise.all(files.map((file) => stat(file)))).reduce(
  (a, { size }) => a + size,
  0,
)

const isCold = forget(files)
let start = performance.now()
await readThrough(files)
const diskSeconds = secondsSince(start)
forget(files)
start = performance.now()
const high = await loadTransformer(checkpoint, 'high', device, options)
await device.sync()
const loadSeconds = secondsSince(start)
const afterLoad = {
  device: device.memory().liveBytes,
  peak: device.memory().peakBytes,
  rss: await hostPeak(),
}

// A change of turn under low_vram: the one goes to host memory, the other comes.
start = performance.now()
await high.toHost()
await device.sync()
const firstOut = secondsSince(start)
const low = await loadTransformer(checkpoint, 'low', device, options)
await device.sync()
const changes: number[] = []
for (const [leaving, coming] of [
  [low, high],
  [high, low],
  [low, high],
] as const) {
  start = performance.now()
  await leaving.toHost()
  coming.toDevice()
  await device.sync()
  changes.push(secondsSince(start))
}
const result = {
  shards: files.length,
  gigabytes: round(bytes / 1e9),
  cold: isCold,
  readGBs: round(bytes / 1e9 / diskSeconds),
  loadSeconds: round(loadSeconds),
  loadGBs: round(bytes / 1e9 / loadSeconds),
  ofReading: round(diskSeconds / loadSeconds),
  deviceGiB: round(afterLoad.device / GIB),
  devicePeakGiB: round(afterLoad.peak / GIB),
  hostPeakGiBAfterLoad: round(afterLoad.rss),
  firstToHostSeconds: round(firstOut),
  switchSeconds: changes.map(round),
  parkedGiB: round(device.memory().parkedBytes / GIB),
  hostPeakGiB: round(await hostPeak()),
}
console.log(JSON.stringify(result, null, 1))
if (flags.json) writeFileSync(flags.json, JSON.stringify({ device: device.info, result }, null, 2))
device.destroy()
process.exit(0)
