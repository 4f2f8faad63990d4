import { access } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { goals, recipe, recipeMemories, trainJobJsonSchema } from '@kinora/config-schema'
import { parseOptions, writeFileAtomic, type StageEvent } from '@kinora/stage'
import type { BinCommand } from '@kinora/stage/bin'
import { z } from 'zod'
import { kinoraErrors } from '../lib/errors.ts'

const initOptions = z.strictObject({
  recipe: z.enum(goals).default('motion').describe('What the LoRA is to learn.'),
  vram: z
    .literal([...recipeMemories])
    .default(24)
    .describe('Memory of the device, in GB; it decides sizes, lengths and packed weights.'),
  name: z.string().min(1).optional().describe('Name of the job and of its LoRA files.'),
  clips: z
    .string()
    .min(1)
    .optional()
    .describe('Folder of clips with captions, as kinora prep and kinora caption leave it.'),
  checkpoint: z
    .string()
    .min(1)
    .optional()
    .describe('Base model: a folder in the diffusers layout, or a Hub id.'),
  trigger: z.string().min(1).optional().describe('Trigger word; captions say [trigger] for it.'),
  out: z.string().min(1).default('job.yaml').describe('File that receives the job.'),
  force: z.boolean().default(false).describe('Overwrite it.'),
})

interface InitResult {
  job: string
  schema: string
}

/** `kinora init`: a job file to start from, and its JSON Schema for editors. */
export const initCommand: BinCommand = {
  summary: 'Writes a training job to start from, with the schema that editors read.',
  options: initOptions,
  positionals: ['out'],
  async *run(options: z.input<typeof initOptions>): AsyncGenerator<StageEvent, InitResult> {
    const settings = parseOptions('KINORA', initOptions, options)
    const { recipe: goal, vram, out, force } = settings
    const schema = join(dirname(out), 'kinora-job.schema.json')
    const exists = await access(out).then(
      () => true,
      () => false,
    )
    if (exists && !force) throw kinoraErrors.FILE_EXISTS(out)
    const { name, clips, checkpoint, trigger } = settings
    const text = recipe(goal, vram, { name, clips, checkpoint, triggerWord: trigger })
    await writeFileAtomic(schema, `${JSON.stringify(trainJobJsonSchema(), null, 2)}\n`)
    await writeFileAtomic(out, `# yaml-language-server: $schema=./${basename(schema)}\n${text}`)
    yield { type: 'note', message: `Wrote ${out} and ${schema}.` }
    return { job: resolve(out), schema: resolve(schema) }
  },
  report: ({ job }: InitResult) =>
    `Next: kinora prep <footage>, kinora caption <dataset>, then kinora train ${basename(job)}.`,
}
