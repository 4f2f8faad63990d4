import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { writeLora, writeCombinedLora, type LoraWeights } from '@kinora/lora-files'
import { afterAll, describe, expect, test } from 'vitest'
import { parseLoraOption, readLoras } from './read-loras.ts'

describe('parseLoraOption', () => {
  test.each([
    ['a.safetensors', { file: 'a.safetensors', expert: undefined, weight: 1 }],
    ['a.safetensors@0.8', { file: 'a.safetensors', expert: undefined, weight: 0.8 }],
    ['low:x/a.safetensors@-1.5', { file: 'x/a.safetensors', expert: 'low', weight: -1.5 }],
    ['HIGH:a@2e-1', { file: 'a', expert: 'high', weight: 0.2 }],
    [
      'runs/me@home/a.safetensors',
      { file: 'runs/me@home/a.safetensors', expert: undefined, weight: 1 },
    ],
  ])('%s', (text, expected) => {
    expect(parseLoraOption(text)).toEqual(expected)
  })

  test('a weight that is no number is refused', () => {
    expect(() => parseLoraOption('a.safetensors@1.2.3')).toThrow(
      expect.objectContaining({ code: 'SAMPLER_LORA_SYNTAX' }),
    )
  })
})

describe('readLoras', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'sampler-loras-'))
  afterAll(() => rm(folder, { recursive: true }))
  const lora = (value: number): LoraWeights => ({
    modules: new Map([
      [
        'blocks.0.attn1.to_q',
        {
          a: new Float32Array(8).fill(value),
          b: new Float32Array(8).fill(1),
          rank: 2,
          inFeatures: 4,
          outFeatures: 4,
        },
      ],
    ]),
    metadata: {},
  })
  const options = { layout: 'comfyui', dtype: 'f32', metadata: {} } as const
  const write = async (name: string) => {
    await writeLora(join(folder, name), lora(3), options)
    return join(folder, name)
  }

  test('takes the expert from the name', async () => {
    const file = await write('style_low_noise.safetensors')
    const [only, ...more] = await readLoras([`${file}@0.5`])
    expect([only?.expert, only?.weight, more]).toEqual(['low', 0.5, []])
    expect(only?.weights.modules.get('blocks.0.attn1.to_q')?.a[0]).toBe(3)
  })

  test('a name that says nothing needs the expert said', async () => {
    const file = await write('style.safetensors')
    await expect(readLoras([file])).rejects.toMatchObject({ code: 'SAMPLER_LORA_EXPERT' })
    expect((await readLoras([`high:${file}`]))[0]?.expert).toBe('high')
    expect((await readLoras([{ file, expert: 'low', weight: 2 }]))[0]).toMatchObject({
      expert: 'low',
      weight: 2,
    })
  })

  test('a file of both experts gives both', async () => {
    const file = join(folder, 'both.safetensors')
    await writeCombinedLora(file, { high: lora(1), low: lora(2) }, options)
    const loras = await readLoras([file])
    expect(
      loras.map(({ expert, weights }) => [
        expert,
        weights.modules.get('blocks.0.attn1.to_q')?.a[0],
      ]),
    ).toEqual(
      expect.arrayContaining([
        ['high', 1],
        ['low', 2],
      ]),
    )
  })
})
