import type { Device } from '@kinora/kernel-api'

import type { AdapterProfile, Findings } from '../device/adapter-profile.ts'
import { matrixBlocks, type MatrixBlockName } from '../tuning/matrix-unit.ts'

/** What is measured: 41 frames of 512 × 512, by the width of the 14B model. */
const [ROWS, WIDTH] = [11264, 5120] as const
const REPEATS = 4
const ROUNDS = 4
/** An idle card has a low clock; it takes this much work to raise it. */
const WARM_MS = 300
/** What another block must win by, which noise does not. */
const CLEARLY = 0.98

/**
 * The block with which the dense unit takes least time on this adapter for both layouts of a product, of those that compute
 * right. Leaves the profile as it was. Answers do not depend on the block, to the last bit.
 *
 * @param isRight asks the dense unit for known answers, by the block that the profile names
 */
export async function findFastestBlock(
  device: Device,
  profile: AdapterProfile & Findings,
  isRight: () => Promise<boolean>,
): Promise<MatrixBlockName> {
  const usual = profile.block
  const x = device.zeros([ROWS, WIDTH], 'f16')
  const w = device.zeros([WIDTH, WIDTH], 'f16')
  try {
    const right: MatrixBlockName[] = []
    for (const name of Object.keys(matrixBlocks) as MatrixBlockName[]) {
      profile.block = name
      if (name === usual || (await isRight())) right.push(name)
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
