import { openDevice } from '@kinora/cpu-kernels'
import { expect, it } from 'vitest'
import { tinyWan } from '../../../test/copied-checkpoint.ts'
import { parseTextEncoderConfig } from '../checkpoint/configs.ts'
import { loadTextEncoder } from '../checkpoint/load-networks.ts'
import { openCheckpoint } from '../checkpoint/open-checkpoint.ts'
import { createUmt5, umt5Tensors } from './umt5.ts'

it('has as many tensors and parameters as the release at its size', () => {
  const config = parseTextEncoderConfig({})
  const table = umt5Tensors(config)
  // One more is the embedding table, under either of its names.
  expect(table.size + 1).toBe(242)
  let parameters = config.vocabSize * config.dim
  for (const shape of table.values()) parameters += shape.reduce((a, b) => a * b, 1)
  expect(parameters).toBe(5_680_910_336)
})

it('pads with zero rows, encodes each text as if alone, and cleans prompts', async () => {
  const device = await openDevice()
  const encoder = await loadTextEncoder(await openCheckpoint(tinyWan), device)
  const before = device.memory().liveBytes
  const encode = async (...texts: string[]) => {
    const states = await encoder.encode(texts)
    expect(states.shape).toEqual([texts.length, 48, 128])
    const values = (await device.read(states)) as Float32Array
    device.release(states)
    return values
  }
  const rows = (values: Float32Array) =>
    Array.from({ length: 48 }, (_, row) =>
      values.subarray(row * 128, (row + 1) * 128).some((value) => value !== 0),
    )
  const circle = await encode('a red circle')
  const empty = await encode('')
  expect(rows(empty).filter(Boolean)).toHaveLength(1)
  const tokens = encoder.tokenizer.encode('a red circle').length
  expect(rows(circle)).toEqual(Array.from({ length: 48 }, (_, row) => row < tokens))
  expect(await encode('a red circle', '')).toEqual(Float32Array.of(...circle, ...empty))
  expect(await encode('  a &#114;ed\u3000circle\n')).toEqual(circle)
  expect(rows(await encode('red '.repeat(100))).every(Boolean)).toBe(true)
  expect(await encode()).toHaveLength(0)
  expect(device.memory().liveBytes).toBe(before)
  await encoder.release()
  expect(device.memory().liveBytes).toBe(0)
  device.destroy()
})

it('leaves nothing behind where the caller stops after some texts', async () => {
  const device = await openDevice()
  const encoder = await loadTextEncoder(await openCheckpoint(tinyWan), device)
  const given: number[] = []
  // A text that needs no padding and one that does: the second's states are the caller's own.
  for await (const states of encoder.encodeEach(['red '.repeat(100), 'a red circle', 'a cube'])) {
    given.push(states.shape[1]!)
    device.release(states)
    if (given.length === 2) break
  }
  expect(given).toEqual([48, 48])
  expect(device.memory().liveBytes).toBe(0)
  await encoder.release()
  device.destroy()
})

it('refuses tokens outside its vocabulary', async () => {
  const device = await openDevice()
  const checkpoint = await openCheckpoint(tinyWan)
  await using files = await checkpoint.openWeights('text_encoder')
  const { SafetensorsWeights } = await import('../checkpoint/safetensors-weights.ts')
  const umt5 = createUmt5(checkpoint.textEncoder, new SafetensorsWeights(files.byTensor), device, {
    compute: 'f32',
  })
  for (const ids of [[192], []]) {
    await expect(umt5.encode([[1], ids]).next()).rejects.toMatchObject({ code: 'WAN_BAD_TOKENS' })
  }
  expect(device.memory().liveBytes).toBe(0)
  device.destroy()
})
