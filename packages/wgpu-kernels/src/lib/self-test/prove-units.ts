import type { Device, Tensor } from '@kinora/kernel-api'
import { isCodedError } from '@kinora/stage'

import type { AdapterProfile, Findings } from '../device/adapter-profile.ts'
import { assembleKernel, type Kernel } from '../program/define-kernel.ts'
import { matrixForward, matrixGradKv, matrixGradQ } from '../kernels/attention/matrix/matrix.ts'
import { convMatrixKernel } from '../kernels/conv3d/matrix/matrix.ts'
import { matmulKernel } from '../kernels/matmul/matmul.ts'
import { attentionPasses, type AttentionPass } from '../tuning/attention-schedule.ts'
import {
  hasMatrixUnit,
  matrixBlocks,
  matrixUnits,
  type MatrixBlockName,
  type MatrixUnitName,
} from '../tuning/matrix-unit.ts'
import { tuningKey, type TuningCache } from '../tuning/tuning-cache.ts'
import { knownAnswers } from './known-answers.ts'

/** How a device finds out what its adapter can be trusted with. */
export interface PrepareOptions {
  /** Where what was found out is kept. */
  cache?: TuningCache | undefined
  /** What runs WebGPU, with its version: part of the cache's key. */
  runtime?: string | undefined
  /** Also measures which ways of computing are fastest, where that is not known: half a minute, once. */
  tune?: boolean | undefined
  /** Hears of units that are not used, and why. */
  onNote?: ((message: string) => void) | undefined
}

/** Hash of the text of every kernel on subgroup matrices: a record is of no use for another text. */
function kernelVersion(): string {
  let hash = 0x811c9dc5
  const add = (text: string): void => {
    for (let i = 0; i < text.length; i++) {
      hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193) >>> 0
    }
  }
  const addAll = <V>(kernel: Kernel<V>, variants = kernel.variants()): void => {
    for (const variant of variants) add(assembleKernel(kernel, variant))
  }
  const isMatrix = ({ schedule }: { schedule: { unit: string } }): boolean =>
    schedule.unit === 'subgroup-matrix' || schedule.unit === 'thin'
  addAll(matmulKernel, matmulKernel.variants().filter(isMatrix))
  addAll(matrixForward)
  addAll(matrixGradKv)
  addAll(matrixGradQ)
  addAll(convMatrixKernel)
  return hash.toString(16).padStart(8, '0')
}

/** What is wrong with a unit on this adapter, in words, or undefined. */
async function faultOf(device: Device, unit: MatrixUnitName): Promise<string | undefined> {
  try {
    return await knownAnswers[unit](device)
  } catch (error) {
    if (!isCodedError(error, 'WGPU_BAD_KERNEL') && !isCodedError(error, 'WGPU_VALIDATION'))
      throw error
    return error.message
  }
}

/**
 * Lets every unit on subgroup matrices prove itself, once for each adapter, driver, runtime and text of the kernels; the cache
 * remembers. A unit that gives a wrong answer or does not compile is refused, and the general one takes its place.
 */
export async function proveUnits(
  device: Device,
  profile: AdapterProfile & Findings,
  { cache, runtime = 'unknown', tune = false, onNote }: PrepareOptions,
): Promise<void> {
  const units = matrixUnits.filter((unit) => hasMatrixUnit(profile, unit))
  if (units.length === 0) return
  const key = tuningKey(profile, runtime, kernelVersion())
  const known = await cache?.load(key)
  const refuse = (unit: MatrixUnitName, why: string): void => {
    profile.refusedUnits.add(unit)
    onNote?.(
      `${profile.device} does not compute ${unit} on its tensor cores as it should (${why}); the general kernels do it, slower. A newer driver may help.`,
    )
  }
  for (const unit of known?.refused ?? []) refuse(unit, 'found earlier')
  if (!known) {
    for (const unit of units) {
      const fault = await faultOf(device, unit)
      if (fault !== undefined) refuse(unit, fault)
    }
  }
  let { block, overlapped } = known ?? {}
  if (tune && hasMatrixUnit(profile, 'linear')) block ??= await fastestBlock(device, profile)
  if (block !== undefined) profile.block = block
  if (tune) overlapped ??= await fasterOverlapped(device, profile)
  for (const pass of overlapped ?? []) profile.overlapped.add(pass)
  if (!known || block !== known.block || overlapped !== known.overlapped) {
    await cache?.save(key, {
      refused: units.filter((unit) => profile.refusedUnits.has(unit)),
      block,
      overlapped,
    })
  }
}

/** What is measured: 41 frames of 512 × 512, by the width of the 14B model and by a few of its heads. */
const [ROWS, WIDTH, HEADS, HEAD] = [11264, 5120, 8, 128] as const
const REPEATS = 4
/** What another way must win by, which noise does not. */
const CLEARLY = 0.98

/** Milliseconds of work, the least of three; the first run compiles. */
async function leastTime(device: Device, queue: () => void): Promise<number> {
  const run = async (): Promise<number> => {
    const start = performance.now()
    device.scope(() => {
      for (let i = 0; i < REPEATS; i++) queue()
    })
    await device.sync()
    return performance.now() - start
  }
  await run()
  return Math.min(await run(), await run(), await run())
}

/** The block with which both layouts of a product take least time, of those that compute it right. */
async function fastestBlock(
  device: Device,
  profile: AdapterProfile & Findings,
): Promise<MatrixBlockName> {
  const usual = profile.block
  const x = device.zeros([ROWS, WIDTH], 'f16')
  const w = device.zeros([WIDTH, WIDTH], 'f16')
  let best = { name: usual, ms: Number.POSITIVE_INFINITY }
  try {
    for (const name of Object.keys(matrixBlocks) as MatrixBlockName[]) {
      profile.block = name
      if ((await faultOf(device, 'linear')) !== undefined) continue
      const ms = await leastTime(device, () => {
        device.ops.linear(x, w)
        device.ops.linearGrad(x, x, w, { needsX: true })
      })
      if (ms < best.ms * CLEARLY) best = { name, ms }
    }
  } finally {
    profile.block = usual
    device.release(x)
    device.release(w)
  }
  return best.name
}

/** The kernels of attention that are faster, and right, when they overlap. */
async function fasterOverlapped(
  device: Device,
  profile: AdapterProfile & Findings,
): Promise<AttentionPass[]> {
  const { overlapped } = profile
  const [q, k, v] = [1, 2, 3].map(() => device.zeros([1, ROWS, HEADS, HEAD], 'f16')) as [
    Tensor,
    Tensor,
    Tensor,
  ]
  const saved = device.ops.attention(q, k, v)
  const units = {
    forward: 'attention',
    'grad-kv': 'attention-gradient',
    'grad-q': 'attention-gradient',
  } as const
  const timeOf = (pass: AttentionPass): Promise<number> =>
    leastTime(device, () => {
      if (pass === 'forward') device.ops.attention(q, k, v)
      else device.ops.attentionGrad(q, { q, k, v, ...saved })
    })
  const faster: AttentionPass[] = []
  try {
    for (const pass of attentionPasses) {
      const unit = units[pass]
      if (!hasMatrixUnit(profile, unit)) continue
      const usual = await timeOf(pass)
      overlapped.add(pass)
      const isRight = (await faultOf(device, unit)) === undefined
      if (isRight && (await timeOf(pass)) < usual * CLEARLY) faster.push(pass)
      overlapped.delete(pass)
    }
    return faster
  } finally {
    for (const tensor of [q, k, v, saved.out, saved.lse]) device.release(tensor)
  }
}
