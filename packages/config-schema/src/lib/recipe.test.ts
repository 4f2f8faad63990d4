import { describe, expect, it } from 'vitest'
import { parseTrainJob } from './parse-train-job.ts'
import { preflight } from './preflight/preflight.ts'
import { recipe, recipeMemories } from './recipe.ts'
import { goals, type Goal } from './train-job-schema.ts'

const all = goals.flatMap((goal) => recipeMemories.map((memory) => [goal, memory] as const))

describe('recipes', () => {
  it.each(all)('%s on %i GB parses and passes preflight', (goal, memory) => {
    const job = parseTrainJob(recipe(goal, memory), { fileName: 'recipe.yaml' })
    expect(job.warnings).toEqual([])
    const facts = {
      datasets: [
        { numClips: 20, medianSeconds: 6, maxPixels: 1920 * 1080, captions: ['a camera move'] },
      ],
      checkpoint: { boundaryRatio: 0.9, expertParameters: 14_288_901_184 },
      device: { memoryBytes: memory * 1e9, hasF16: true },
    }
    expect(preflight(job, facts)).toEqual([])
    expect(job.config.process[0].kinora.goal).toBe(goal)
  })

  it.each(all)('%s on %i GB says why after its numbers', (goal, memory) => {
    const lines = recipe(goal, memory).split('\n')
    for (const key of ['linear', 'steps', 'num_frames', 'switch_boundary_every', 'qtype', 'lr']) {
      const at = lines.findIndex((line) => line.trim().startsWith(`${key}:`))
      expect(`${lines[at - 1]}${lines[at]}`).toContain('#')
    }
  })

  it('take names, folders and prompts, whatever is in them', () => {
    const job = parseTrainJob(
      recipe('character', 24, {
        name: "it's #1",
        clips: 'C:\\clips # mine',
        checkpoint: './my model',
        triggerWord: 'true',
        prompts: ['[trigger] says: "no"', 'two'],
      }),
      { fileName: 'r.yaml' },
    )
    expect(job.config.name).toBe("it's #1")
    const [process] = job.config.process
    expect(process.datasets[0]?.folder_path).toBe('C:\\clips # mine')
    expect(process.model.name_or_path).toBe('./my model')
    expect(process.sample.samples.map((sample) => sample.prompt)).toEqual([
      'true says: "no"',
      'two',
    ])
  })

  it('refuse goals and sizes there are none for', () => {
    expect(() => recipe('object' as Goal, 24)).toThrow(
      expect.objectContaining({ code: 'CONFIG_UNKNOWN_RECIPE' }),
    )
    expect(() => recipe('motion', 16 as 12)).toThrow(/16 GB/)
  })
})
