import { totalmem } from 'node:os'
import type { Device, DeviceInfo, Tensor } from '@kinora/kernel-api'
import { z } from 'zod'
import type { CountingOptions } from '../memory/counting-device.ts'
import type { StepWork } from '../memory/plan-training-memory.ts'

/** How fast an adapter is at what a step is made of, by our own kernels. */
export const deviceSpeedSchema = z.strictObject({
  linearFlops: z
    .number()
    .positive()
    .describe('Operations a second of linears, two a multiply-add.'),
  attentionFlops: z.number().positive(),
  attentionGradFlops: z.number().positive().describe('At two and a half forward passes.'),
  bytes: z.number().positive().describe('Bytes a second that norms, activations and sums move.'),
  hostBytes: z.number().positive().describe('Bytes a second between host and device.'),
  opSeconds: z.number().nonnegative().describe('What an op takes beside its work.'),
})
export type DeviceSpeed = z.output<typeof deviceSpeedSchema>

/** An adapter that was measured before. */
interface KnownAdapter {
  name: RegExp
  memoryBytes: number
  speed?: DeviceSpeed
}

const gib = 2 ** 30

/** Adapters by their name. Speeds are those of `docs/log.md`; memory is what the maker gives. */
const knownAdapters: readonly KnownAdapter[] = [
  {
    name: /\bH100\b.*\b80 ?GB|\bH100\b(?!.*\d+ ?GB)/i,
    memoryBytes: 79.6 * gib,
    speed: {
      linearFlops: 305e12,
      attentionFlops: 250e12,
      attentionGradFlops: 170e12,
      bytes: 2.2e12,
      hostBytes: 35e9,
      opSeconds: 0,
    },
  },
  { name: /\bH200\b/i, memoryBytes: 139.8 * gib },
  { name: /\bB200\b/i, memoryBytes: 178 * gib },
  { name: /RTX (PRO )?6000 Blackwell/i, memoryBytes: 95 * gib },
  { name: /\bL40S?\b|RTX 6000 Ada|\bA6000\b|\bA40\b/i, memoryBytes: 44.9 * gib },
  { name: /RTX 5090/i, memoryBytes: 31.8 * gib },
  { name: /RTX (4090|3090|A5000)|\bA10G?\b|\bL4\b|TITAN RTX/i, memoryBytes: 23.9 * gib },
  { name: /RTX (4080|5080|5070 Ti|5060 Ti|4060 Ti 16|A4000)|\bT4\b/i, memoryBytes: 15.9 * gib },
  { name: /RTX (4070|5070|3060|3080 Ti)/i, memoryBytes: 11.9 * gib },
  { name: /RTX 3080/i, memoryBytes: 9.9 * gib },
  { name: /RX 7900 XTX/i, memoryBytes: 23.9 * gib },
  { name: /RX 7900 XT/i, memoryBytes: 19.9 * gib },
  { name: /RX (9070|6800|6900|6950|7800)/i, memoryBytes: 15.9 * gib },
]

/** Drivers write `NVIDIA GeForce RTX 4090`, Dawn `nvidia-geforce-rtx-4090`. */
const inWords = (adapter: string): string => adapter.replace(/[-_]+/g, ' ')

function knownAdapter(adapter: string): KnownAdapter | undefined {
  return knownAdapters.find(({ name }) => name.test(inWords(adapter)))
}

/** Memory of an adapter in bytes, by its name, which often says it; undefined where it does not. WebGPU tells nothing of it. */
function knownMemory(adapter: string): number | undefined {
  const known = knownAdapter(adapter)
  if (known) return known.memoryBytes
  const said = /(\d+) ?GB\b/i.exec(inWords(adapter))
  return said ? Number(said[1]) * gib : undefined
}

/**
 * Memory that a device has for training: what the job says, else what its name tells; of the machine's own for one that computes on
 * the processor, where others live too.
 *
 * @param said in bytes
 */
export function deviceMemory({ software, adapter }: DeviceInfo, said?: number): number | undefined {
  return said ?? (software ? 0.75 * totalmem() : knownMemory(adapter))
}

/** What of a backend's own memory is to be counted. */
export function overheadOf({ software, backend }: DeviceInfo): CountingOptions['overhead'] {
  if (backend === '@kinora/cpu-kernels') return 'none'
  return software ? 'software' : 'gpu'
}

/** Speed of an adapter that was measured for the log. */
export function knownSpeed(adapter: string): DeviceSpeed | undefined {
  return knownAdapter(adapter)?.speed
}

/** Bytes a second at which a processor moves what has come from the device to where it waits; it takes part in nothing else. */
const hostCopyBytes = 3.5e9

/**
 * Seconds that so much work takes. What goes to host memory must be there before the way back begins: what the forward pass, a
 * quarter of the step, does not hide of it is waited for.
 */
export function secondsOf(work: StepWork, speed: DeviceSpeed): number {
  const computing =
    work.linearFlops / speed.linearFlops +
    work.attentionFlops / speed.attentionFlops +
    work.attentionGradFlops / speed.attentionGradFlops +
    work.bytes / speed.bytes +
    work.numOps * speed.opSeconds
  const settling = Math.max(0, work.awayBytes / hostCopyBytes - computing / 4)
  return computing + work.trafficBytes / speed.hostBytes + settling
}

/** Sizes to measure at. */
interface Sizes {
  rows: number
  channels: number
  tokens: number
  heads: number
}

/** About two seconds of the ops a step is made of. Results are rates, so the sizes need not be those of the job. */
export async function measureSpeed(
  device: Device,
  compute: 'f32' | 'f16',
  budgetSeconds = 2,
): Promise<DeviceSpeed> {
  const { info, ops } = device
  const sizes: Sizes = info.software
    ? { rows: 128, channels: 256, tokens: 160, heads: 2 }
    : { rows: 4096, channels: 4096, tokens: 4096, heads: 16 }
  const { rows, channels, tokens, heads } = sizes
  const made: Tensor[] = []
  const make = (shape: readonly number[], dtype: 'f32' | 'f16' = compute): Tensor => {
    const tensor = device.scope(() => {
      const wide = ops.affine(device.zeros(shape, 'f32'), { offset: 0.01 })
      return dtype === 'f32' ? wide : ops.cast(wide, dtype)
    })
    made.push(tensor)
    return tensor
  }
  /** Seconds of one call: the median of rounds, each long enough to outweigh waiting for it. */
  async function time(run: () => unknown): Promise<number> {
    const round = async (calls: number): Promise<number> => {
      const start = performance.now()
      for (let i = 0; i < calls; i++) device.scope(() => void run())
      await device.sync()
      return (performance.now() - start) / 1000 / calls
    }
    // The first call compiles.
    await round(1)
    const once = await round(1)
    const calls = Math.max(1, Math.min(200, Math.round(budgetSeconds / 30 / once)))
    const rounds = [await round(calls), await round(calls), await round(calls)]
    return rounds.sort((a, b) => a - b)[1]!
  }

  try {
    const tiny = make([64], 'f32')
    const opSeconds = await time(() => ops.affine(tiny, { scale: 2 }))
    const x = make([rows, channels])
    const w = make([channels, channels])
    const wide = make([rows * 8, channels], 'f32')
    const head = channels / heads > 128 ? 128 : 64
    const qkv = make([1, tokens, heads, head])
    const saved = device.scope(() => ops.attention(qkv, qkv, qkv))
    made.push(saved.out, saved.lse)
    const without = (seconds: number): number => Math.max(seconds - opSeconds, seconds / 4)
    const linear = without(await time(() => ops.linear(x, w)))
    const attention = without(await time(() => ops.attention(qkv, qkv, qkv)))
    const grad = { q: qkv, k: qkv, v: qkv, ...saved }
    const attentionGrad = without(await time(() => ops.attentionGrad(saved.out, grad)))
    const copy = without(await time(() => ops.affine(wide, { scale: 1 })))
    const parked = await device.park(wide)
    const fetch = without(await time(() => device.unpark(parked, wide)))
    device.discard(parked)
    const attentionWork = 4 * tokens * tokens * heads * head
    return {
      linearFlops: (2 * rows * channels * channels) / linear,
      attentionFlops: attentionWork / attention,
      attentionGradFlops: (2.5 * attentionWork) / attentionGrad,
      bytes: (2 * 4 * rows * 8 * channels) / copy,
      hostBytes: (4 * rows * 8 * channels) / fetch,
      opSeconds,
    }
  } finally {
    for (const tensor of made) device.release(tensor)
  }
}

/** What a cached measurement is filed under. */
export function speedKey(info: DeviceInfo, compute: 'f32' | 'f16'): string {
  return [info.backend, info.adapter, info.driver, compute].join(' | ')
}
