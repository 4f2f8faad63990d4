import type { Device } from '@kinora/kernel-api'
import { createUmt5, parseTextEncoderConfig } from '@kinora/wan'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { expectWithin, openGolden, openTestDevice, relativeError, take } from './golden.ts'

// States of the reference's text encoder in the rows of real tokens: relative L2 error ≤ 1e-4.

let device: Device
beforeAll(async () => {
  device = await openTestDevice()
})
afterAll(() => device?.destroy())

it('reproduces the states of the reference', async () => {
  await using golden = await openGolden('umt5')
  const config = parseTextEncoderConfig(golden.config)
  const encoder = createUmt5(config, golden.weights, device, { compute: 'f32' })
  const [batch, length] = golden.shape('in.ids') as [number, number]
  const ids = await golden.i32('in.ids')
  const mask = await golden.i32('in.mask')
  const expected = await golden.f32('out.hidden')
  const sequences: number[][] = []
  for (let row = 0; row < batch; row++) {
    const rowMask = [...mask.subarray(row * length, (row + 1) * length)]
    const tokens = rowMask.filter((value) => value === 1).length
    // The mask is a run of ones, then zeros: what comes first is what the encoder is given.
    expect(rowMask.indexOf(0)).toBe(tokens === length ? -1 : tokens)
    sequences.push([...ids.subarray(row * length, row * length + tokens)])
  }
  let row = 0
  for await (const states of encoder.encode(sequences)) {
    const tokens = sequences[row]!.length
    const start = row * length * config.dim
    expectWithin(
      `umt5 row ${row++}, ${tokens} tokens`,
      relativeError(
        await take(device, states),
        expected.subarray(start, start + tokens * config.dim),
      ),
      1e-4,
    )
  }
  expect(row).toBe(batch)
})
