import { basename } from 'node:path'
import {
  adapterKinds,
  inspectLora,
  parseLoraFileName,
  readLora,
  type Expert,
} from '@kinora/lora-files'
import { samplerErrors } from './errors.ts'
import type { LoraOption } from './options.ts'
import type { PipelineLora } from './pipeline.ts'

/** A LoRA as it was asked for; without an expert, the file has to say. */
export interface LoraRequest {
  file: string
  expert: Expert | undefined
  weight: number
}

/** `[high:|low:]FILE[@WEIGHT]`, or the same as an object. Throws `SAMPLER_LORA_SYNTAX`. */
export function parseLoraOption(option: LoraOption): LoraRequest {
  if (typeof option !== 'string') {
    return { file: option.file, expert: option.expert, weight: option.weight ?? 1 }
  }
  const [, expert, file, weight] =
    /^(?:(high|low):)?(.+?)(?:@([-+]?[\d.]+(?:e[-+]?\d+)?))?$/i.exec(option) ?? []
  const factor = weight === undefined ? 1 : Number(weight)
  if (file === undefined || !Number.isFinite(factor)) throw samplerErrors.LORA_SYNTAX(option)
  return { file, expert: expert?.toLowerCase() as Expert | undefined, weight: factor }
}

/** Reads LoRA files; one that holds both experts gives two. */
export async function readLoras(options: readonly LoraOption[]): Promise<PipelineLora[]> {
  const loras: PipelineLora[] = []
  for (const { file, expert, weight } of options.map(parseLoraOption)) {
    for (const wanted of await expertsOf(file, expert)) {
      const weights = await readLora(file, { expert: wanted, kinds: adapterKinds })
      loras.push({ expert: wanted, weights, weight })
    }
  }
  return loras
}

async function expertsOf(file: string, asked: Expert | undefined): Promise<Expert[]> {
  if (asked) return [asked]
  const named = parseLoraFileName(basename(file))?.expert
  if (named) return [named]
  const inside = [...(await inspectLora(file)).experts.keys()].filter((key) => key !== undefined)
  if (inside.length === 0) throw samplerErrors.LORA_EXPERT(file)
  return inside
}
