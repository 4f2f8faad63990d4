import { z } from 'zod'

// The header metadata of LoRA files, in AI Toolkit's keys. Safetensors holds strings alone, so structured values are JSON text.

function jsonText<Schema extends z.ZodType>(schema: Schema, description: string) {
  return z
    .string()
    .describe(`JSON text: ${description}`)
    .transform((text, context): z.output<Schema> => {
      let value: unknown
      try {
        value = JSON.parse(text)
      } catch {
        context.addIssue({ code: 'custom', message: 'Expected JSON text' })
        return z.NEVER
      }
      const parsed = schema.safeParse(value)
      if (parsed.success) return parsed.data
      for (const issue of parsed.error.issues) {
        context.addIssue({ code: 'custom', message: issue.message, path: [...issue.path] })
      }
      return z.NEVER
    })
}

/** The metadata of a LoRA as AI Toolkit and Kinora write it. Other keys, such as those of a job's `meta`, pass as text. */
export const loraMetadataSchema = z
  .object({
    format: z.literal('pt').optional().describe('Mark of the reference library.'),
    name: z.string().optional().describe("Name in the job's meta."),
    version: z.string().optional().describe("Version in the job's meta."),
    training_info: jsonText(
      z.object({
        step: z.number().int().nonnegative(),
        epoch: z.number().nonnegative().default(0),
      }),
      '{"step", "epoch"} at the time of saving.',
    ).optional(),
    software: jsonText(
      z.object({ name: z.string(), version: z.string().optional(), repo: z.string().optional() }),
      '{"name", "version", "repo"} of the program that trained.',
    ).optional(),
    ss_base_model_version: z.string().optional().describe('wan_2.2_14b for this model.'),
    ss_output_name: z.string().optional().describe('Name of the job.'),
    ss_tag_frequency: jsonText(
      z.record(z.string(), z.record(z.string(), z.number())),
      '{"1_<trigger>": {"<trigger>": 1}}, where there is a trigger word.',
    ).optional(),
    sshs_model_hash: z
      .string()
      .regex(/^[0-9a-f]{64}$/)
      .optional()
      .describe('SHA-256 of the data of the file.'),
    sshs_legacy_hash: z
      .string()
      .regex(/^[0-9a-f]{8}$/)
      .optional()
      .describe('Eight digits of the SHA-256 of 64 KiB at 1 MiB.'),
  })
  .catchall(z.string())

export type LoraMetadata = z.output<typeof loraMetadataSchema>
