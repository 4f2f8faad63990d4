import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { goals, recipe, recipeMemories } from '@kinora/config-schema'
import { drain } from '@kinora/stage'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { makeClip } from '../../test/run-kinora.ts'
import { readJob } from '../lib/read-job.ts'
import { examineJobIter } from './examine-job.ts'

const tinyWan = fileURLToPath(new URL('../../../../packages/tiny-wan', import.meta.url))

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kinora-examine-'))
  for (let i = 0; i < 16; i++) {
    await makeClip(join(folder, 'clips', `${i}.mp4`), { numFrames: 48 })
    await writeFile(join(folder, 'clips', `${i}.txt`), '[trigger], a square moves')
  }
})
afterAll(() => rm(folder, { recursive: true, force: true }))

async function examine(text: string, device?: Parameters<typeof examineJobIter>[1]) {
  const file = join(folder, 'job.yaml')
  await writeFile(file, text)
  return drain(examineJobIter(await readJob(file), device, {}))
}
const clips = (): string => join(folder, 'clips')

describe('examineJobIter', () => {
  it.each(goals.flatMap((goal) => recipeMemories.map((vram) => [goal, vram] as const)))(
    'finds no error in the recipe %s for %i GB on real clips',
    async (goal, vram) => {
      const { findings, facts } = await examine(recipe(goal, vram, { clips: clips() }), {
        memoryBytes: vram * 1e9,
        hasF16: true,
      })
      expect(findings.filter(({ severity }) => severity === 'error')).toEqual([])
      expect(facts.datasets).toEqual([{ numClips: 16, medianSeconds: 3, numCaptions: 16 }])
      expect(facts.checkpoint).toEqual({ boundaryRatio: 0.9, expertParameters: 14_288_901_184 })
      // The clips are 64 pixels wide.
      expect(findings.map(({ code }) => code)).not.toContain('PREFLIGHT_TOO_FEW_CLIPS')
    },
  )

  it('looks into clips, captions and the checkpoint', async () => {
    await mkdir(join(folder, 'few'), { recursive: true })
    await makeClip(join(folder, 'few/long.mp4'), { numFrames: 100 })
    const text = recipe('motion', 24, {
      clips: join(folder, 'few'),
      checkpoint: join(tinyWan, 'checkpoint'),
    })
      .replace('frame_mode: real-time', 'boundary: 0.875')
      .replace('flip_x: false', 'flip_x: true')
    const { findings, facts } = await examine(text)
    const codes = findings.map(({ code }) => code)
    expect(codes).toContain('PREFLIGHT_TOO_FEW_CLIPS')
    expect(codes).toContain('PREFLIGHT_CAPTIONS_MISSING')
    expect(codes).toContain('PREFLIGHT_SPED_UP')
    expect(codes).toContain('PREFLIGHT_BOUNDARY_DIFFERS')
    expect(facts.checkpoint).toEqual({ boundaryRatio: 0.9, expertParameters: 2_331_328 })
  })

  it('tells weights that do not fit, where the memory is known', async () => {
    const text = recipe('motion', 80, { clips: clips() })
    const codes = async (memoryBytes: number) =>
      (await examine(text, { memoryBytes, hasF16: true })).findings.map(({ code }) => code)
    expect(await codes(80e9)).not.toContain('PREFLIGHT_WEIGHTS_EXCEED_MEMORY')
    expect(await codes(16e9)).toContain('PREFLIGHT_WEIGHTS_EXCEED_MEMORY')
  })

  it('reports what cannot be looked at beside what can', async () => {
    await mkdir(join(folder, 'empty'), { recursive: true })
    await mkdir(join(folder, 'no-checkpoint'), { recursive: true })
    const { findings } = await examine(
      recipe('character', 24, {
        clips: join(folder, 'empty'),
        checkpoint: join(folder, 'no-checkpoint'),
      }).replace('auto_control: true', 'auto_control: false'),
    )
    const errors = findings.filter(({ severity }) => severity === 'error').map(({ code }) => code)
    expect(errors).toContain('BUCKETER_NO_CLIPS')
    expect(errors.some((code) => code.startsWith('CHECKPOINT_'))).toBe(true)
    expect(errors).toContain('PREFLIGHT_SAMPLE_NO_CONTROL')
  })

  it('does not plan what names files that are not there, and names them', async () => {
    const missing = join(folder, 'nowhere')
    const { findings } = await examine(recipe('motion', 24, { clips: missing }))
    expect(findings[0]).toMatchObject({ code: 'PREFLIGHT_FILE_MISSING', severity: 'error' })
    expect(findings[0]!.message).toContain(missing)
  })
})
