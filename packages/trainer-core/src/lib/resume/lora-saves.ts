import { readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { parseLoraFileName } from '@kinora/lora-files'
import { codeSystemError } from '@kinora/stage'
import type { Expert } from '../noise/random-streams.ts'

/** The step saves of an expert in a folder, oldest first. File N has had exactly N steps of the run. */
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
    if (parsed?.name !== name || parsed.expert !== expert || parsed.step === undefined) continue
    saves.push({ step: parsed.step, file: join(folder, file) })
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
