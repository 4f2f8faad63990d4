import { totalmem } from 'node:os'
import type { AttentionResult, Device, DeviceInfo, Tensor } from '@kinora/kernel-api'
import { z } from 'zod'
import { usableBytes } from '../memory/choose-plan.ts'
import type { CountingOptions } from '../memory/counting-device.ts'
import type { StepWork } from '../memory/plan-training-memory.ts'

const rate = z.number().positive()

/** How fast an adapter is at what a step is made of, by our own kernels: a rate for each kind of `DeviceWork`, a second. */
export const deviceSpeedSchema = z.strictObject({
  linearFlops: rate.describe('Operations a second of linears, two a multiply-add.'),
  linearGradFlops: rate.describe('Of the gradients of their inputs.'),
  attentionFlops: rate.describe('Of attention among the tokens of a clip.'),
  attentionGradFlops: rate.describe('At two and a half forward passes.'),
  textAttentionFlops: rate.describe('Of attention to the text, which has few keys.'),
  textAttentionGradFlops: rate.describe('At two and a half forward passes.'),
  normBytes: rate.describe('Bytes a second that norms and their gradients read and write.'),
  adapterBytes: rate.describe('Bytes a second that the products of adapters read.'),
  unpackedBytes: rate.describe('Bytes a second of unpacking weights.'),
  bytes: rate.describe('Bytes a second of activations, sums and casts.'),
  hostBytes: rate.describe('Bytes a second between host and device.'),
  opSeconds: z
    .number()
    .nonnegative()
    .describe('What an op takes the device beside its work: gaps between kernels.'),
  queueSeconds: z
    .number()
    .nonnegative()
    .describe('What the host takes to queue an op, while the device works on those before.'),
})
export type DeviceSpeed = z.output<typeof deviceSpeedSchema>

/** An adapter that was measured before. */
interface KnownAdapter {
  name: RegExp
  memoryBytes: number
  speed?: DeviceSpeed
}

/**
 * Measured on one NVIDIA H100 80GB HBM3 (docs/log.md, 2026-11-25): the kernels of a step at 512 × 512 × 41 in f16 with rank 16 and a
 * uint4 base, nothing kept but self-attention, and the work that the memory plan counts for it. By kernel from `bench step
 * --profile` (but for the linears and the gradient of attention, which are faster since: what is left of the time of a step).
 *
 * | kind                  | counted   | ms a step                                      |
 * | --------------------- | --------- | ---------------------------------------------- |
 * | linears, gradients    | 747 TFLO  | 2287                                           |
 * | self-attention        | 104 TFLO  | 408: 10.2 a layer of all 473 of forward passes |
 * | its gradient          | 260 TFLO  | 1285: 32.1 a layer                             |
 * | attention to the text | 9.4 TFLO  | 65                                             |
 * | its gradient          | 11.8 TFLO | 112                                            |
 * | norms                 | 275 GB    | 115                                            |
 * | adapters              | 259 GB    | 149                                            |
 * | all else              | 480 GB    | 206                                            |
 *
 * Timing each kernel costs about a hundredth; rates are raised by it. Unpacking is the kernel of before alone. Queueing is the
 * `seconds.queue` of the steps of a run.
 */
const h100: DeviceSpeed = {
  linearFlops: 330e12,
  linearGradFlops: 330e12,
  attentionFlops: 256e12,
  attentionGradFlops: 201e12,
  textAttentionFlops: 148e12,
  textAttentionGradFlops: 110e12,
  normBytes: 2.4e12,
  adapterBytes: 1.8e12,
  unpackedBytes: 1.8e12,
  bytes: 2.4e12,
  hostBytes: 35e9,
  opSeconds: 2e-6,
  queueSeconds: 0.11e-3,
}

const gib = 2 ** 30

/** Adapters by their name. Speeds are those of `docs/log.md`; memory is what the maker gives. */
const knownAdapters: readonly KnownAdapter[] = [
  {
    name: /\bH100\b.*\b80 ?GB|\bH100\b(?!.*\d+ ?GB)/i,
    memoryBytes: 79.6 * gib,
    speed: h100,
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

/** Lets a device keep no more idle memory than leaves what training may take of it, where its memory is known. */
export function limitIdleMemory(device: Device, said?: number): void {
  const memory = deviceMemory(device.info, said)
  if (memory !== undefined) device.setMemoryBudget(usableBytes(memory))
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
  const { hostBytes, opSeconds, queueSeconds, ...rates } = speed
  const working = Object.entries(rates).reduce(
    (sum, [kind, perSecond]) => sum + work[kind as keyof typeof rates] / perSecond,
    work.numOps * opSeconds,
  )
  const computing = Math.max(working, work.numOps * queueSeconds)
  const settling = Math.max(0, work.awayBytes / hostCopyBytes - computing / 4)
  return computing + work.trafficBytes / hostBytes + settling
}

/** Sizes to measure at. */
interface Sizes {
  rows: number
  channels: number
  tokens: number
  heads: number
  textTokens: number
}

/** About two seconds of the ops a step is made of. Results are rates, so the sizes need not be those of the job. */
export async function measureSpeed(
  device: Device,
  compute: 'f32' | 'f16',
  budgetSeconds = 2,
): Promise<DeviceSpeed> {
  const { info, ops } = device
  const sizes: Sizes = info.software
    ? { rows: 128, channels: 256, tokens: 160, heads: 2, textTokens: 32 }
    : { rows: 4096, channels: 4096, tokens: 4096, heads: 16, textTokens: 512 }
  const { rows, channels, tokens, heads, textTokens } = sizes
  const made: Tensor[] = []
  const make = (shape: readonly number[], dtype: 'f32' | 'f16' = compute): Tensor => {
    const tensor = device.scope(() => {
      const wide = ops.affine(device.zeros(shape, 'f32'), { offset: 0.01 })
      return dtype === 'f32' ? wide : ops.cast(wide, dtype)
    })
    made.push(tensor)
    return tensor
  }
  /** Seconds of one call, and of queueing it alone: of the median of rounds, each long enough to outweigh waiting for it. */
  async function time(run: () => unknown): Promise<{ seconds: number; queue: number }> {
    const round = async (calls: number): Promise<{ seconds: number; queue: number }> => {
      const start = performance.now()
      for (let i = 0; i < calls; i++) device.scope(() => void run())
      const queued = performance.now()
      await device.sync()
      const perCall = (end: number): number => (end - start) / 1000 / calls
      return { queue: perCall(queued), seconds: perCall(performance.now()) }
    }
    // The first call compiles.
    await round(1)
    const { seconds: once } = await round(1)
    const calls = Math.max(1, Math.min(200, Math.round(budgetSeconds / 45 / once)))
    const rounds = [await round(calls), await round(calls), await round(calls)]
    return rounds.sort((a, b) => a.seconds - b.seconds)[1]!
  }

  try {
    const tiny = make([64], 'f32')
    const nothing = await time(() => ops.affine(tiny, { scale: 2 }))
    /** What a call does a second, beside what another takes. */
    const rateOf = async (
      work: number,
      run: () => unknown,
      beside = nothing.seconds,
    ): Promise<number> => {
      const { seconds } = await time(run)
      return work / Math.max(seconds - beside, seconds / 4)
    }
    const x = make([rows, channels])
    const w = make([channels, channels])
    const wide = make([rows * 8, channels], 'f32')
    const wideBytes = 4 * rows * 8 * channels
    const dtypeBytes = compute === 'f16' ? 2 : 4
    // Of few rows, so that unpacking is most of it.
    const few = make([16, channels])
    const dense = await time(() => ops.linear(few, w))
    const packed = device.scope(() => ops.quantize(w, 'float8_e4m3'))
    made.push(packed.codes, packed.scales)
    const adapter = { a: make([16, channels], 'f32'), b: make([channels, 16], 'f32'), scale: 1 }
    const head = channels / heads > 128 ? 128 : 64
    const qkv = make([1, tokens, heads, head])
    const text = make([1, textTokens, heads, head])
    const attend = (kv: Tensor): AttentionResult => {
      const result = device.scope(() => ops.attention(qkv, kv, kv))
      made.push(result.out, result.lse)
      return result
    }
    const [own, toText] = [attend(qkv), attend(text)]
    const attentionGrad = (kv: Tensor, saved: AttentionResult): unknown =>
      ops.attentionGrad(saved.out, { q: qkv, k: kv, v: kv, ...saved })
    const attentionWork = (keys: number): number => 4 * tokens * keys * heads * head
    const parked = await device.park(wide)
    const speed: DeviceSpeed = {
      linearFlops: await rateOf(2 * rows * channels * channels, () => ops.linear(x, w)),
      linearGradFlops: await rateOf(2 * rows * channels * channels, () =>
        ops.linearGrad(x, x, w, { needsX: true }),
      ),
      attentionFlops: await rateOf(attentionWork(tokens), () => ops.attention(qkv, qkv, qkv)),
      attentionGradFlops: await rateOf(2.5 * attentionWork(tokens), () => attentionGrad(qkv, own)),
      textAttentionFlops: await rateOf(attentionWork(textTokens), () =>
        ops.attention(qkv, text, text),
      ),
      textAttentionGradFlops: await rateOf(2.5 * attentionWork(textTokens), () =>
        attentionGrad(text, toText),
      ),
      normBytes: await rateOf(2 * wideBytes, () => ops.layerNorm(wide, { eps: 1e-6 })),
      // Its gradients alone, which read both sides twice.
      adapterBytes: await rateOf(4 * dtypeBytes * rows * channels, () =>
        ops.linearGrad(x, x, w, { needsX: false, adapters: [adapter] }),
      ),
      // Codes of a byte; beside few rows they become f32.
      unpackedBytes: await rateOf(
        (1 + 4) * channels * channels,
        () => ops.linear(few, packed),
        dense.seconds,
      ),
      bytes: await rateOf(2 * wideBytes, () => ops.affine(wide, { scale: 1 })),
      hostBytes: await rateOf(wideBytes, () => device.unpark(parked, wide)),
      opSeconds: nothing.seconds - nothing.queue,
      queueSeconds: nothing.queue,
    }
    device.discard(parked)
    return speed
  } finally {
    for (const tensor of made) device.release(tensor)
  }
}

/** What a cached measurement is filed under. */
export function speedKey(info: DeviceInfo, compute: 'f32' | 'f16'): string {
  return [info.backend, info.adapter, info.driver, compute].join(' | ')
}
