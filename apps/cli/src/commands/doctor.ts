import { statfs } from 'node:fs/promises'
import { availableParallelism, freemem, totalmem } from 'node:os'
import { resolve } from 'node:path'
import { checkFfmpeg } from '@kinora/media'
import { parseOptions, type RunContext, type StageEvent } from '@kinora/stage'
import { hasCodeAndFix, type BinCommand } from '@kinora/stage/bin'
import { z } from 'zod'
import { kinoraErrors } from '../lib/errors.ts'
import { backendOptions, openBackendIter, vramOption } from '../lib/open-backend.ts'
import { readJob } from '../lib/read-job.ts'
import { examineJobIter, type JobExamination } from '../preflight/examine-job.ts'

const doctorOptions = z.strictObject({
  job: z
    .string()
    .min(1)
    .optional()
    .describe('Job file: look at it and its clips instead of the machine.'),
  vram: vramOption,
  ...backendOptions,
  folder: z.string().min(1).default('.').describe('Folder whose disk is looked at.'),
})

/** One thing that was looked at. */
interface Check {
  name: string
  status: 'ok' | 'warning' | 'failed'
  detail: string
  fix?: string
}

/** `kinora doctor`: what this machine has and lacks, or what is wrong with a job. */
export const doctorCommand: BinCommand = {
  summary:
    'Says what this machine has and lacks (Node, ffmpeg, adapters, memory, disk), or with a job what would fail or disappoint.',
  options: doctorOptions,
  positionals: ['job'],
  async *run(
    options: z.input<typeof doctorOptions>,
    context: RunContext,
  ): AsyncGenerator<StageEvent, Check[] | JobExamination> {
    const settings = parseOptions('KINORA', doctorOptions, options)
    if (settings.job !== undefined) return yield* examineIter(settings.job, settings.vram, context)
    const { backend, adapter, folder } = settings
    const checks: Check[] = []
    for (const look of [
      lookAtNode,
      lookAtMemory,
      lookAtFfmpeg,
      () => lookAtDevice(backend, adapter),
      () => lookAtDisk(folder),
    ]) {
      const check = await look()
      checks.push(check)
      yield { type: 'note', message: checkLine(check) }
    }
    const failed = checks.filter(({ status }) => status === 'failed')
    if (failed.length > 0) throw kinoraErrors.DOCTOR_FAILED(failed.map(({ name }) => name))
    return checks
  },
}

async function* examineIter(
  file: string,
  vram: number | undefined,
  context: RunContext,
): AsyncGenerator<StageEvent, JobExamination> {
  const device = vram === undefined ? undefined : { memoryBytes: vram * 2 ** 30, hasF16: true }
  const examination = yield* examineJobIter(await readJob(file), device, context)
  const { findings } = examination
  for (const finding of findings) yield { type: 'finding', ...finding }
  const numErrors = findings.filter(({ severity }) => severity === 'error').length
  if (numErrors > 0) throw kinoraErrors.JOB_WOULD_FAIL(file, numErrors)
  const noted =
    findings.length === 0
      ? 'Nothing'
      : findings.length === 1
        ? 'One thing'
        : `${findings.length} things`
  yield { type: 'note', message: `${noted} to say of ${file}; nothing that would fail.` }
  return examination
}

function checkLine({ name, status, detail, fix }: Check): string {
  const mark = { ok: 'ok', warning: '--', failed: 'NO' }[status]
  return `${mark}  ${name.padEnd(8)} ${detail}${fix ? ` ${fix}` : ''}`
}

function lookAtNode(): Check {
  const { node } = process.versions
  const [major = 0, minor = 0] = node.split('.').map(Number)
  const fits = major > 20 || (major === 20 && minor >= 19)
  return fits
    ? { name: 'node', status: 'ok', detail: `${node} on ${process.platform} ${process.arch}.` }
    : {
        name: 'node',
        status: 'failed',
        detail: `${node} is too old.`,
        fix: 'Install Node 20.19 or newer.',
      }
}

function lookAtMemory(): Check {
  const gib = (bytes: number): string => (bytes / 2 ** 30).toFixed(1)
  return {
    name: 'machine',
    status: 'ok',
    detail: `${availableParallelism()} cores, ${gib(totalmem())} GiB of memory, ${gib(freemem())} GiB free.`,
  }
}

async function lookAtFfmpeg(): Promise<Check> {
  try {
    const { version } = await checkFfmpeg()
    return { name: 'ffmpeg', status: 'ok', detail: `${version}.` }
  } catch (error) {
    return failedCheck('ffmpeg', error)
  }
}

async function lookAtDevice(backend: string, adapter: string | undefined): Promise<Check> {
  try {
    const lines: string[] = []
    let warning: string | undefined
    const opening = openBackendIter({ backend, adapter })
    let next = await opening.next()
    while (!next.done) {
      if (next.value.type === 'note') lines.push(next.value.message)
      if (next.value.type === 'warning') warning = `${next.value.message} ${next.value.fix}`
      next = await opening.next()
    }
    next.value.destroy()
    return {
      name: 'adapter',
      status: warning ? 'warning' : 'ok',
      detail: lines.join(' '),
      ...(warning ? { fix: warning } : {}),
    }
  } catch (error) {
    return failedCheck('adapter', error)
  }
}

async function lookAtDisk(folder: string): Promise<Check> {
  try {
    const { bavail, bsize } = await statfs(folder)
    const freeGiB = (bavail * bsize) / 2 ** 30
    const detail = `${freeGiB.toFixed(1)} GiB free at ${resolve(folder)}.`
    return freeGiB >= 1
      ? { name: 'disk', status: 'ok', detail }
      : { name: 'disk', status: 'warning', detail, fix: 'Caches and saves want more than 1 GiB.' }
  } catch (error) {
    return failedCheck('disk', error)
  }
}

function failedCheck(name: string, error: unknown): Check {
  if (hasCodeAndFix(error)) {
    return { name, status: 'failed', detail: `${error.code}: ${error.message}`, fix: error.fix }
  }
  return {
    name,
    status: 'failed',
    detail: error instanceof Error ? error.message : String(error),
  }
}
