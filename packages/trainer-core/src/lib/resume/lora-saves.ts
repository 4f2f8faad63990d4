import { mkdir, readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { TrainProcess } from '@kinora/config-schema'
import {
  loraFileName,
  parseLoraFileName,
  writeCombinedLora,
  writeLora,
  type LoraWeights,
} from '@kinora/lora-files'
import { codeSystemError } from '@kinora/stage'
import { experts, type Expert } from '../noise/random-streams.ts'

/** The step saves of an expert in a folder, those with both experts included, oldest first. File N has had exactly N steps of the run. */
export async function listStepSaves(
  folder: string,
  name: string,
  expert: Expert,
): Promise<{ step: number; file: string }[]> {
  let files: string[]
  try {
    files = await readdir(folder)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw codeSystemError(error, folder)
  }
  const saves: { step: number; file: string }[] = []
  for (const file of files) {
    const parsed = parseLoraFileName(file)
    const both = file.startsWith(`${name}_`)
      ? /^(\d{9,})\.safetensors$/.exec(file.slice(name.length + 1))
      : null
    if (both) saves.push({ step: Number(both[1]), file: join(folder, file) })
    else if (parsed?.name === name && parsed.expert === expert && parsed.step !== undefined) {
      saves.push({ step: parsed.step, file: join(folder, file) })
    }
  }
  return saves.sort((a, b) => a.step - b.step)
}

/** Deletes the oldest step saves of an expert, so that `keep` are left; 0 keeps all. */
export async function pruneStepSaves(
  folder: string,
  name: string,
  expert: Expert,
  keep: number,
): Promise<void> {
  if (keep === 0) return
  const saves = await listStepSaves(folder, name, expert)
  for (const { file } of saves.slice(0, Math.max(0, saves.length - keep))) {
    await rm(file, { force: true })
  }
}

/**
 * Writes the LoRA files of a step, or the finished ones, named as AI Toolkit names them.
 *
 * @param step absent for the finished files
 */
export async function writeLoras(
  out: string,
  name: string,
  loras: Partial<Record<Expert, LoraWeights>>,
  { save, network }: TrainProcess,
  metadata: Record<string, string>,
  step: number | undefined,
): Promise<Partial<Record<Expert, string>>> {
  const options = { layout: 'comfyui', dtype: dtypes[save.dtype], metadata } as const
  const files: Partial<Record<Expert, string>> = {}
  try {
    await mkdir(out, { recursive: true })
    const { high, low } = loras
    if (!network.split_multistage_loras && high && low) {
      const stem = step === undefined ? name : `${name}_${String(step).padStart(9, '0')}`
      const file = join(out, `${stem}.safetensors`)
      await writeCombinedLora(file, { high, low }, options)
      return { high: file, low: file }
    }
    for (const expert of experts) {
      const weights = loras[expert]
      if (!weights) continue
      files[expert] = join(out, loraFileName(name, expert, step))
      await writeLora(files[expert], weights, options)
    }
  } catch (error) {
    const { cause } = error as Error
    throw codeSystemError(cause instanceof Error ? cause : error, out)
  }
  return files
}

/** Writes an expert's LoRA as the best so far, in `best/`, under the name of a finished one. */
export async function writeBestLora(
  out: string,
  name: string,
  expert: Expert,
  weights: LoraWeights,
  { save }: TrainProcess,
  metadata: Record<string, string>,
): Promise<string> {
  const file = join(out, 'best', loraFileName(name, expert))
  try {
    await mkdir(join(out, 'best'), { recursive: true })
    await writeLora(file, weights, { layout: 'comfyui', dtype: dtypes[save.dtype], metadata })
  } catch (error) {
    const { cause } = error as Error
    throw codeSystemError(cause instanceof Error ? cause : error, file)
  }
  return file
}

const dtypes = { fp32: 'f32', fp16: 'f16', bf16: 'bf16' } as const

/** Names that writers give a file until it is whole: those of safetensors and of stage. */
const temporaryNames = /^\.(.+\.\d+-[0-9a-f]{8}\.tmp|\d+-[0-9a-f]{8}\..+)$/

/** Removes what a killed run left half-written. Only the holder of the folder's lock may. */
export async function removeLeftovers(folder: string): Promise<void> {
  for (const file of await readdir(folder).catch(() => [])) {
    if (temporaryNames.test(file)) await rm(join(folder, file), { force: true })
  }
}
