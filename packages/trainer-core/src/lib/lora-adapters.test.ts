import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openDevice, type CpuDevice } from '@kinora/cpu-kernels'
import { normals } from '@kinora/kernel-api'
import { loraLayouts, loraScale, readLora, writeLora, type LoraWeights } from '@kinora/lora-files'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  initialFactors,
  parameterNames,
  readLoraWeights,
  selectTargets,
  uploadFactors,
  type LoraOptions,
} from './lora-adapters.ts'
import { factorPair } from './module-forms.ts'

const targets = [0, 1].flatMap((block) =>
  ['attn1.to_q', 'attn2.to_out.0', 'ffn.net.0.proj'].map((path) => ({
    name: `blocks.${block}.${path}`,
    inFeatures: 12,
    outFeatures: path.startsWith('ffn') ? 20 : 12,
  })),
)
const names = (filter: object, expert: 'high' | 'low' = 'high'): string[] =>
  selectTargets(targets, expert, {
    ignoreIfContains: [],
    onlyIfContains: null,
    ...filter,
  }).map(({ name }) => name)

describe('which linears are adapted', () => {
  it('is said by parts of AI Toolkit’s names, dots or $$, ignoring first', () => {
    expect(names({})).toHaveLength(6)
    expect(names({ onlyIfContains: ['attn1'] })).toEqual([
      'blocks.0.attn1.to_q',
      'blocks.1.attn1.to_q',
    ])
    expect(names({ onlyIfContains: ['blocks$$0$$'] })).toHaveLength(3)
    expect(names({ onlyIfContains: ['attn'], ignoreIfContains: ['blocks.1.'] })).toEqual([
      'blocks.0.attn1.to_q',
      'blocks.0.attn2.to_out.0',
    ])
  })

  it('may differ between the experts, and must be something', () => {
    const filter = { ignoreIfContains: ['transformer_2'] }
    expect(names(filter)).toHaveLength(6)
    expect(() => names(filter, 'low')).toThrow(
      expect.objectContaining({ code: 'TRAINER_NO_TARGETS' }) as Error,
    )
  })
})

describe('factorPair', () => {
  it.each([
    [5120, -1, [64, 80]],
    [13824, -1, [108, 128]],
    [5120, 8, [8, 640]],
    [5120, 4, [4, 1280]],
    [12, 5, [3, 4]],
    [13, -1, [1, 13]],
    [16, 16, [1, 16]],
  ] as const)('%i by %i is %j, as LyCORIS has it', (n, factor, pair) => {
    expect(factorPair(n, factor)).toEqual(pair)
  })
})

describe('a network', () => {
  let device: CpuDevice
  let folder: string
  beforeAll(async () => {
    device = await openDevice()
    folder = await mkdtemp(join(tmpdir(), 'kinora-network-'))
  })
  afterAll(async () => {
    device.destroy()
    await rm(folder, { recursive: true })
  })
  const lora: LoraOptions = { rank: 4, scale: 1 }

  it.each([
    [lora, 0],
    [{ ...lora, type: 'lokr' } as const, 1],
    [{ ...lora, type: 'lokr', fullRank: false, rank: 1 } as const, 2],
  ])('%j changes nothing at first, and draws the rest by the seed', (options, zero) => {
    const lengths = new Map(
      targets.map(({ name, inFeatures }) => [name, new Float32Array(inFeatures)]),
    )
    const made = (seed: number) => initialFactors(targets, options, 'low', seed, { lengths })
    const perModule = made(1).length / targets.length
    const isZero = (values: Float32Array): boolean => values.every((value) => value === 0)
    made(1).forEach((values, i) => {
      const at = i % perModule
      expect(isZero(values)).toBe(at === Math.max(1, zero))
    })
    expect(made(1)).toEqual(made(1))
    expect(made(1)[0]).not.toEqual(made(2)[0])
    expect(parameterNames(targets, options)).toHaveLength(made(1).length)
  })

  it('begins from a LoRA of any layout, whatever its alpha, with what that did', async () => {
    const file = (layout: string): string => join(folder, `${layout}.safetensors`)
    const weights: LoraWeights = {
      modules: new Map(
        targets.map(({ name, inFeatures, outFeatures }, i) => [
          name,
          {
            a: normals(i, 1, 4 * inFeatures),
            b: normals(i, 2, 4 * outFeatures),
            rank: 4,
            alpha: 6,
            inFeatures,
            outFeatures,
          },
        ]),
      ),
      metadata: {},
    }
    for (const layout of loraLayouts) {
      await writeLora(file(layout), weights, { layout, dtype: 'f32' })
      const start = { weights: await readLora(file(layout)), file: file(layout) }
      for (const scale of [1, 0.5]) {
        const options = { ...lora, scale }
        const network = uploadFactors(
          device,
          targets,
          options,
          initialFactors(targets, options, 'high', 0, { start }),
        )
        const { modules } = await readLoraWeights(device, network)
        for (const [name, { a, b, alpha = 4 }] of modules) {
          const before = weights.modules.get(name)!
          // Alpha is saved as it is honoured.
          expect(alpha / 4).toBe(scale)
          expect(a).toEqual(before.a)
          b.forEach((value, i) =>
            expect(value * scale).toBeCloseTo(before.b[i]! * loraScale(before), 4),
          )
        }
        expect(
          [...network.adapters.values()].flat().every((adapter) => adapter.scale === scale),
        ).toBe(true)
        network.release()
      }
    }
  })

  it('refuses a LoRA of another rank, naming both', async () => {
    const odd = {
      modules: new Map([
        [targets[0]!.name, { ...targets[0]!, a: normals(1, 1, 24), b: normals(1, 2, 24), rank: 2 }],
      ]),
      metadata: {},
    }
    const start = { weights: odd, file: 'odd.safetensors' }
    expect(() => initialFactors(targets, lora, 'high', 0, { start })).toThrow(
      /LoRA, rank 2, 12 → 12.*needs LoRA, rank 4, 12 → 12/,
    )
  })
})
