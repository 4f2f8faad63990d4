import { z } from 'zod'
import { quantizeSchemes, type QuantizeScheme } from './schemes.ts'

const schemes = quantizeSchemes as [QuantizeScheme, ...QuantizeScheme[]]

/** How a checkpoint is packed. */
export const quantizeOptions = z.strictObject({
  checkpoint: z
    .string()
    .min(1)
    .describe('Checkpoint to pack: a folder in the diffusers layout, or a Hub id.'),
  out: z
    .string()
    .min(1)
    .describe('Folder that receives the packed checkpoint. It loads without the original.'),
  scheme: z
    .enum([...schemes, 'uint4+ara'])
    .default('uint4')
    .describe(
      "Format of the experts' linears: uint4 (groups of 64), float8 or qfloat8 (E4M3, a scale a row); +ara adds an adapter that gives back part of what packing loses.",
    ),
  rank: z.int().min(1).max(1024).default(32).describe('Rank of that adapter, at each linear.'),
  statistics: z
    .string()
    .min(1)
    .optional()
    .describe(
      'File of activation sizes, from calibration: the adapter then minds the outputs, not the weights.',
    ),
  textEncoder: z
    .enum(['keep', ...schemes])
    .default('keep')
    .describe('Format of the text encoder, or keep: as it is.'),
  seed: z.int().nonnegative().default(0).describe('Seed of the adapter.'),
})
export type QuantizeOptions = z.input<typeof quantizeOptions>
