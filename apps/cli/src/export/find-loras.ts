import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { parseLoraFileName, type Expert } from '@kinora/lora-files'
import { kinoraErrors } from '../lib/errors.ts'

/** Which of a run's LoRAs: the finished ones or, before the end, the newest; those validation liked best; those of a step. */
export type LoraChoice = 'latest' | 'best' | number

/** The LoRA files of a run, by expert. A file with both experts is given for each. */
export type RunLoras = Partial<Record<Expert, string>>

/** Finds the LoRA files of a run that are asked for; `KINORA_NO_SUCH_LORA` names what there is. */
export async function findLoras(
  run: string,
  name: string,
  choice: LoraChoice,
): Promise<{ loras: RunLoras; step: number | undefined }> {
  const folder = choice === 'best' ? join(run, 'best') : run
  const names = await readdir(folder).catch(() => [])
  /** Files by step; the finished ones under none. */
  const saves = new Map<number | undefined, RunLoras>()
  for (const file of names) {
    const path = join(folder, file)
    const parsed = parseLoraFileName(file)
    const both = file.startsWith(name)
      ? /^(?:_(\d{9,}))?\.safetensors$/.exec(file.slice(name.length))
      : null
    if (both) {
      const step = both[1] === undefined ? undefined : Number(both[1])
      saves.set(step, { high: path, low: path })
    } else if (parsed?.name === name) {
      saves.set(parsed.step, { ...saves.get(parsed.step), [parsed.expert]: path })
    }
  }
  const steps = [...saves.keys()].filter((step) => step !== undefined).toSorted((a, b) => a - b)
  const step = typeof choice === 'number' ? choice : saves.has(undefined) ? undefined : steps.at(-1)
  const loras = saves.get(step)
  if (loras) return { loras, step }
  throw kinoraErrors.NO_SUCH_LORA(
    run,
    choice === 'best' ? 'best LoRA' : step === undefined ? 'LoRA' : `LoRA of step ${step}`,
    steps,
  )
}
