import { openDevice } from '@kinora/cpu-kernels'
import { describe, expect, it } from 'vitest'
import { createLora } from './create-lora.ts'
import { joinAdapters, uploadLora } from './device-lora.ts'

const targets = [
  { name: 'blocks.0.attn1.to_q', inFeatures: 64, outFeatures: 32 },
  { name: 'blocks.0.attn1.to_k', inFeatures: 64, outFeatures: 32 },
]

describe('createLora', () => {
  it('draws A from ±1/√in and leaves B zero, by seed and stream alone', () => {
    const lora = createLora(targets, { rank: 16, alpha: 8, seed: 3, stream: 100 })
    const { a, b, rank, alpha } = lora.modules.get('blocks.0.attn1.to_q')!
    expect([rank, alpha, a.length, b.length]).toEqual([16, 8, 16 * 64, 32 * 16])
    expect(b.every((value) => value === 0)).toBe(true)
    const bound = 1 / 8
    expect(Math.max(...a.map(Math.abs))).toBeLessThanOrEqual(bound)
    const variance = a.reduce((sum, value) => sum + value * value, 0) / a.length
    expect(variance).toBeCloseTo((bound * bound) / 3, 3)
    expect(createLora(targets, { rank: 16, alpha: 8, seed: 3, stream: 100 })).toEqual(lora)
    expect(lora.modules.get('blocks.0.attn1.to_k')!.a).not.toEqual(a)
    const other = createLora(targets, { rank: 16, seed: 4, stream: 100 })
    expect(other.modules.get('blocks.0.attn1.to_q')!.a).not.toEqual(a)
    expect(other.modules.get('blocks.0.attn1.to_q')).not.toHaveProperty('alpha')
  })
})

describe('uploadLora', () => {
  it('scales by alpha, rank and strength, reads back what it was given, and frees it', async () => {
    const device = await openDevice()
    const lora = createLora(targets, { rank: 16, alpha: 8, seed: 3, stream: 0 })
    const uploaded = uploadLora(device, lora, { strength: 0.5, targets })
    expect(uploaded.adapters.get('blocks.0.attn1.to_q')![0]!.scale).toBe(0.25)
    expect(await uploaded.read()).toEqual(lora)
    const both = joinAdapters([uploaded, uploaded])
    expect(both.get('blocks.0.attn1.to_k')).toHaveLength(2)
    uploaded.release()
    expect(device.memory().liveBytes).toBe(0)
    device.destroy()
  })

  it('refuses a module the transformer has not, and one of another width', async () => {
    const device = await openDevice()
    const upload = (name: string, inFeatures: number) =>
      uploadLora(
        device,
        createLora([{ name, inFeatures, outFeatures: 32 }], { rank: 2, seed: 0, stream: 0 }),
        { targets },
      )
    expect(() => upload('blocks.9.attn1.to_q', 64)).toThrowError(
      expect.objectContaining({ code: 'WAN_UNKNOWN_MODULE' }) as Error,
    )
    expect(() => upload('blocks.0.attn1.to_q', 128)).toThrowError(
      expect.objectContaining({ code: 'WAN_ADAPTER_SHAPE' }) as Error,
    )
    expect(device.memory().liveBytes).toBe(0)
    device.destroy()
  })
})
