import { readFile } from 'node:fs/promises'
import { parseTrainJob, type ParsedTrainJob } from '@kinora/config-schema'
import type { WarningEvent } from '@kinora/stage'
import { kinoraErrors } from './errors.ts'

/** A job file as it was written and as it was understood. */
export interface JobFile {
  file: string
  text: string
  job: ParsedTrainJob
}

/**
 * Reads a job in AI Toolkit's dialect; `${VAR}` comes from the environment.
 *
 * @param name in place of the job's own
 */
export async function readJob(file: string, name?: string): Promise<JobFile> {
  let text: string
  try {
    text = await readFile(file, 'utf8')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    const why = code === 'ENOENT' ? 'there is no such file' : (error as Error).message
    throw kinoraErrors.NO_JOB(file, why, { cause: error })
  }
  return { file, text, job: parseTrainJob(text, { fileName: file, env: process.env, name }) }
}

/** What was noticed while reading a job, as events. */
export function jobWarnings({ warnings }: ParsedTrainJob): WarningEvent[] {
  return warnings.map(({ code, message, file, line, column }) => ({
    type: 'warning',
    code,
    message: `${file}:${line}:${column}: ${message}`,
    fix: 'The run goes on; change the job to silence this.',
  }))
}
