import type { Device, Tensor } from '@kinora/kernel-api'

import type { AdapterProfile, Findings } from '../device/adapter-profile.ts'
import { attentionPasses, type AttentionPass } from '../tuning/attention-schedule.ts'
import {
  hasMatrixUnit,
  matrixBlocks,
  type MatrixBlockName,
  type MatrixUnitName,
} from '../tuning/matrix-unit.ts'

/** What is measured: 41 frames of 512 × 512, by the width of the 14B model and by a few of its heads. */
const [ROWS, WIDTH, HEADS, HEAD] = [11264, 5120, 8, 128] as const
const REPEATS = 4
const ROUNDS = 4
/** An idle card has a low clock; it takes this much work to raise it. */
const WARM_MS = 300
/** What another way must win by, which noise does not. */
const CLEARLY = 0.98

/** Units by the passes that belong to them. */
const unitOf = {
  forward: 'attention',
  'grad-kv': 'attention-gradient',
  'grad-q': 'attention-gradient',
} as const satisfies Record<AttentionPass, MatrixUnitName>

/**
 * Which of the ways that kernels on subgroup matrices have are fastest on this adapter, of those that compute right. Leaves the
 * profile as it was. Answers do not depend on the way, to the last bit.
 *
 * @param isRight asks a unit for known answers, in the way that the profile says
 */
export async function findFastest(
  device: Device,
  profile: AdapterProfile & Findings,
  isRight: (unit: MatrixUnitName) => Promise<boolean>,
): Promise<{ block?: MatrixBlockName | undefined; overlapped: AttentionPass[] }> {
  return {
    block: hasMatrixUnit(profile, 'linear')
      ? await fastestBlock(device, profile, isRight)
      : undefined,
    overlapped: await fasterOverlapped(device, profile, isRight),
  }
}

/** The block with which both layouts of a product take least time. */
async function fastestBlock(
  device: Device,
  profile: AdapterProfile & Findings,
  isRight: (unit: MatrixUnitName) => Promise<boolean>,
): Promise<MatrixBlockName> {
  const usual = profile.block
  const x = device.zeros([ROWS, WIDTH], 'f16')
  const w = device.zeros([WIDTH, WIDTH], 'f16')
  try {
    const right: MatrixBlockName[] = []
    for (const name of Object.keys(matrixBlocks) as MatrixBlockName[]) {
      profile.block = name
      if (name === usual || (await isRight('linear'))) right.push(name)
    }
    const times = await leastTimes(
      device,
      right.map((name) => () => {
        profile.block = name
        device.ops.linear(x, w)
        device.ops.linearGrad(x, x, w, { needsX: true })
      }),
    )
    const least = Math.min(...times)
    const isUsualGood = times[right.indexOf(usual)]! * CLEARLY <= least
    return isUsualGood ? usual : right[times.indexOf(least)]!
  } finally {
    profile.block = usual
    device.release(x)
    device.release(w)
  }
}

/** The passes of attention that are faster when products overlap with the rest. */
async function fasterOverlapped(
  device: Device,
  profile: AdapterProfile & Findings,
  isRight: (unit: MatrixUnitName) => Promise<boolean>,
): Promise<AttentionPass[]> {
  const { overlapped } = profile
  const usual = [...overlapped]
  const [q, k, v] = [1, 2, 3].map(() => device.zeros([1, ROWS, HEADS, HEAD], 'f16')) as [
    Tensor,
    Tensor,
    Tensor,
  ]
  const saved = device.ops.attention(q, k, v)
  const faster: AttentionPass[] = []
  try {
    for (const pass of attentionPasses) {
      const unit = unitOf[pass]
      if (!hasMatrixUnit(profile, unit)) continue
      overlapped.add(pass)
      if (await isRight(unit)) {
        const queue = (): void => {
          if (pass === 'forward') device.ops.attention(q, k, v)
          else device.ops.attentionGrad(q, { q, k, v, ...saved })
        }
        const [serial, together] = await leastTimes(device, [
          () => {
            overlapped.delete(pass)
            queue()
          },
          () => {
            overlapped.add(pass)
            queue()
          },
        ])
        if (together! < serial! * CLEARLY) faster.push(pass)
      }
      overlapped.delete(pass)
    }
    return faster
  } finally {
    overlapped.clear()
    for (const pass of usual) overlapped.add(pass)
    for (const tensor of [q, k, v, saved.out, saved.lse]) device.release(tensor)
  }
}

/** Milliseconds of each of several pieces of work, the least of rounds in which they take turns. */
async function leastTimes(device: Device, ways: readonly (() => void)[]): Promise<number[]> {
  const timeOf = async (queue: () => void): Promise<number> => {
    const start = performance.now()
    device.scope(() => {
      for (let i = 0; i < REPEATS; i++) queue()
    })
    await device.sync()
    return performance.now() - start
  }
  // The first time each compiles.
  for (const way of ways) await timeOf(way)
  const warm = performance.now() + WARM_MS
  while (performance.now() < warm) for (const way of ways) await timeOf(way)
  const times = ways.map(() => Number.POSITIVE_INFINITY)
  for (let round = 0; round < ROUNDS; round++) {
    for (const [i, way] of ways.entries()) times[i] = Math.min(times[i]!, await timeOf(way))
  }
  return times
}
