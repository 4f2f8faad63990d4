import { readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { diffusersName, originalName } from '@kinora/lora-files'
import { openSafetensors } from '@kinora/safetensors'
import { describe, expect, it } from 'vitest'
import { loraKeys, wan22I2vA14b, wanTensors } from './wan-tensors.ts'

describe('the tensors of Wan 2.2 I2V A14B', () => {
  const tensors = wanTensors(wan22I2vA14b)

  it('are 1095 with 14 288 901 184 numbers, under names that differ', () => {
    expect(tensors).toHaveLength(1095)
    expect(new Set(tensors.map((tensor) => tensor.diffusers)).size).toBe(1095)
    expect(new Set(tensors.map((tensor) => tensor.original)).size).toBe(1095)
    const numbers = tensors.reduce((sum, { shape }) => sum + shape.reduce((p, q) => p * q, 1), 0)
    expect(numbers).toBe(14_288_901_184)
  })

  it('name linears as lora-files does', () => {
    for (const { diffusers, original, shape } of tensors) {
      if (shape.length !== 2 || !diffusers.endsWith('.weight')) continue
      const stem = (name: string) => name.replace(/\.weight$/, '')
      expect(originalName(stem(diffusers))).toBe(stem(original))
      expect(diffusersName(stem(original))).toBe(stem(diffusers))
    }
  })

  it('take a LoRA of 800 keys and 4 792 320 numbers a rank, as ComfyUI and diffusers spell them', () => {
    const { comfyui, diffusers } = loraKeys(wan22I2vA14b, 16)
    for (const keys of [comfyui, diffusers]) {
      expect(keys.size).toBe(800)
      expect([...keys.values()].reduce((sum, [p = 0, q = 0]) => sum + p * q, 0)).toBe(
        16 * 4_792_320,
      )
    }
    expect(comfyui.get('diffusion_model.blocks.39.ffn.0.lora_B.weight')).toEqual([13824, 16])
    expect(comfyui.get('diffusion_model.blocks.0.self_attn.o.lora_A.weight')).toEqual([16, 5120])
    expect(diffusers.get('transformer.blocks.39.ffn.net.2.lora_A.weight')).toEqual([16, 13824])
    expect(diffusers.get('transformer.blocks.0.attn2.to_out.0.lora_B.weight')).toEqual([5120, 16])
  })
})

describe('the rule', () => {
  it('gives the very tensors of a checkpoint that diffusers wrote', async () => {
    const checkpoint = new URL('../../../../tiny-wan/checkpoint/', import.meta.url)
    const config = {
      numLayers: 8,
      dim: 128,
      ffnDim: 512,
      inChannels: 36,
      outChannels: 16,
      textDim: 128,
      freqDim: 256,
      patchSize: [1, 2, 2],
    } as const
    const expected = new Map(
      wanTensors(config).map(({ diffusers, shape }) => [diffusers, [...shape]]),
    )
    for (const folder of ['transformer', 'transformer_2']) {
      const path = fileURLToPath(new URL(`${folder}/`, checkpoint))
      const [file] = readdirSync(path).filter((name) => name.endsWith('.safetensors'))
      await using open = await openSafetensors(`${path}${file}`)
      const found = new Map([...open.tensors].map(([name, { shape }]) => [name, [...shape]]))
      expect(found).toEqual(expected)
    }
  })
})
