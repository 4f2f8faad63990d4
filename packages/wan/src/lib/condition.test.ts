import { openDevice } from '@kinora/cpu-kernels'
import { expect, it } from 'vitest'
import { buildCondition, conditionVideo } from './condition.ts'

it.each([1, 3])('puts a mask of the first frame before the latents (%d frames)', async (frames) => {
  const device = await openDevice()
  const latents = Float32Array.from({ length: 16 * frames * 2 }, (_, i) => i - 20)
  const condition = buildCondition(device.ops, device.upload(latents, [1, 16, frames, 1, 2], 'f32'))
  expect(condition.shape).toEqual([1, 20, frames, 1, 2])
  const values = (await device.read(condition)) as Float32Array
  const perChannel = frames * 2
  for (let channel = 0; channel < 4; channel++) {
    const mask = [...values.subarray(channel * perChannel, (channel + 1) * perChannel)]
    expect(mask.map((value) => value + 0)).toEqual(mask.map((_, i) => (i < 2 ? 1 : 0)))
  }
  expect(values.subarray(4 * perChannel)).toEqual(latents)
  device.destroy()
})

it('makes a clip of the image and grey', () => {
  const image = { width: 2, height: 1, data: Uint8Array.of(0, 255, 51, 0, 0, 0) }
  const { data, shape } = conditionVideo(image, 5)
  expect(shape).toEqual([1, 5, 1, 2, 3])
  expect(data.length).toBe(30)
  expect([...data.subarray(0, 3)]).toEqual([-1, 1, Math.fround(-0.6)])
  expect(data.subarray(6).every((value) => value === 0)).toBe(true)
  expect(() => conditionVideo({ ...image, height: 2 }, 5)).toThrowError(
    expect.objectContaining({ code: 'WAN_BAD_SHAPE' }) as Error,
  )
})
