import { loraErrors } from './errors.ts'

/** What is known of a training run when its LoRA is saved. */
export interface TrainingFacts {
  /** Name of the job, without step and expert. */
  name: string
  /** Updates that the weights have had. */
  step: number
  epoch?: number | undefined
  triggerWord?: string | null | undefined
  /** The job's free-form `meta`; values that are no strings are written as JSON. */
  meta?: Readonly<Record<string, unknown>> | undefined
  /** Version of the program that trained. */
  softwareVersion: string
  /** More entries, such as a summary of the recipe. */
  more?: Readonly<Record<string, unknown>> | undefined
}

/** Header metadata of a LoRA in AI Toolkit's keys, all values strings. The model hashes are added by `writeLora`. */
export function trainingMetadata(facts: TrainingFacts): Record<string, string> {
  const trigger = facts.triggerWord ?? ''
  const entries: Record<string, unknown> = {
    format: 'pt',
    ...facts.meta,
    ...facts.more,
    training_info: { step: facts.step, epoch: facts.epoch ?? 0 },
    ss_base_model_version: 'wan_2.2_14b',
    ss_output_name: facts.name,
    ...(trigger === '' ? {} : { ss_tag_frequency: { [`1_${trigger}`]: { [trigger]: 1 } } }),
    software: { name: 'kinora', version: facts.softwareVersion },
  }
  return Object.fromEntries(
    Object.entries(entries).map(([key, value]) => [key, toText(key, value)]),
  )
}

function toText(key: string, value: unknown): string {
  if (typeof value === 'string') return value
  const text = JSON.stringify(value)
  if (text === undefined) throw loraErrors.NO_METADATA_VALUE(key)
  return text
}

/** Name of a LoRA file as AI Toolkit gives it: `name_000000250_high_noise.safetensors`, without the step at the end of a run. */
export function loraFileName(name: string, expert: 'high' | 'low', step?: number): string {
  const stem = step === undefined ? name : `${name}_${String(step).padStart(9, '0')}`
  return `${stem}_${expert}_noise.safetensors`
}

/** Takes a file name of `loraFileName` apart; undefined for any other. */
export function parseLoraFileName(
  file: string,
): { name: string; expert: 'high' | 'low'; step?: number } | undefined {
  const [, name, step, expert] =
    /^(.+?)(?:_(\d{9,}))?_(high|low)_noise\.safetensors$/.exec(file) ?? []
  if (name === undefined) return undefined
  return {
    name,
    expert: expert as 'high' | 'low',
    ...(step === undefined ? {} : { step: Number(step) }),
  }
}
