import { readdir } from 'node:fs/promises'
import { join, relative, resolve, sep } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import { createRepo, HubApiError, uploadFilesWithProgress } from '@huggingface/hub'
import {
  codeSystemError,
  drain,
  parseOptions,
  type RunContext,
  type StageEvent,
} from '@kinora/stage'
import { exporterErrors } from './errors.ts'
import { pushToHubOptions, type PushToHubOptions } from './options.ts'

/** What an upload is given that cannot be written in a config file. */
export interface PushContext extends RunContext {
  /** Where HF_TOKEN (or HUGGING_FACE_HUB_TOKEN) and HF_ENDPOINT are looked up; the process's own unless given. */
  env?: Readonly<Record<string, string | undefined>> | undefined
}

/** Where a folder went. */
export interface PushedFolder {
  repo: string
  url: string
  numFiles: number
  /** Null where the Hub made no commit, since nothing was new. */
  commit: string | null
}

/** Tries of an upload that breaks, and the wait before the second, which doubles. */
const maxTries = 3
const retryMs = 500

/**
 * Refuses at once what an upload would be refused for: a name that is none, or no token.
 *
 * @returns the token, and the address of the Hub
 */
export function checkPush(
  repo: string,
  env: NonNullable<PushContext['env']> = process.env,
): { accessToken: string; hubUrl: string } {
  if (!/^[\w-][\w.-]*\/[\w-][\w.-]*$/.test(repo)) throw exporterErrors.BAD_REPO(repo)
  const accessToken = (env['HF_TOKEN'] || env['HUGGING_FACE_HUB_TOKEN'] || '').trim()
  if (accessToken === '') throw exporterErrors.NO_TOKEN(repo)
  return {
    accessToken,
    hubUrl: (env['HF_ENDPOINT'] || 'https://huggingface.co').replace(/\/+$/, ''),
  }
}

/**
 * Uploads a folder as one commit. Large files go first, by their checksums: those that the Hub has, from this or from an earlier
 * attempt, are not sent again; the commit is made when all have arrived, so a repository never holds half of a folder.
 *
 * @throws `EXPORTER_NO_TOKEN`, `EXPORTER_BAD_REPO`, `EXPORTER_HUB_REFUSED`, `EXPORTER_HUB_FAILED`
 */
export async function* pushToHubIter(
  options: PushToHubOptions,
  { signal, env }: PushContext = {},
): AsyncGenerator<StageEvent, PushedFolder> {
  const settings = parseOptions('EXPORTER', pushToHubOptions, options)
  const { folder, repo, branch } = settings
  const { accessToken, hubUrl } = checkPush(repo, env)
  const paths = await listFiles(resolve(folder))
  if (paths.length === 0) throw exporterErrors.NOTHING_TO_PUSH(folder)
  const files = paths.map((path) => ({
    path: relative(resolve(folder), path).split(sep).join('/'),
    content: pathToFileURL(path),
  }))
  const request = { repo, accessToken, hubUrl }

  for (let attempt = 1; ; attempt++) {
    try {
      await makeRepo(request, settings.private)
      const commit = yield* upload(request, files, branch, settings.message, signal)
      const url = `${hubUrl}/${repo}`
      yield { type: 'note', message: `The files are at ${url}.` }
      return { repo, url, numFiles: files.length, commit }
    } catch (error) {
      signal?.throwIfAborted()
      if (attempt === maxTries || !mayPass(error)) throw codeFailure(repo, error)
      await wait(retryMs * 2 ** (attempt - 1), undefined, { signal })
    }
  }
}

/** `pushToHubIter` run to its end. */
export function pushToHub(options: PushToHubOptions, context?: PushContext): Promise<PushedFolder> {
  return drain(pushToHubIter(options, context))
}

interface HubRequest {
  repo: string
  accessToken: string
  hubUrl: string
}

async function makeRepo(request: HubRequest, isPrivate: boolean): Promise<void> {
  try {
    await createRepo({ ...request, visibility: isPrivate ? 'private' : 'public' })
  } catch (error) {
    // It is there already.
    if (!(error instanceof HubApiError && error.statusCode === 409)) throw error
  }
}

async function* upload(
  request: HubRequest,
  files: readonly { path: string; content: URL }[],
  branch: string,
  message: string,
  signal: AbortSignal | undefined,
): AsyncGenerator<StageEvent, string | null> {
  const phase = 'upload'
  yield { type: 'started', phase, total: files.length }
  const shares = new Map(files.map(({ path }) => [path, 0]))
  const uploading = uploadFilesWithProgress({
    ...request,
    files: [...files],
    branch,
    commitTitle: message,
    // Plain transfers, which every Hub and its mirrors answer; they are resumed file by file.
    useXet: false,
    ...(signal ? { abortSignal: signal } : {}),
  })
  let told = 0
  let next = await uploading.next()
  while (!next.done) {
    const event = next.value
    if (event.event === 'fileProgress' && event.state === 'uploading') {
      shares.set(event.path, event.progress)
      const done =
        Math.round(100 * [...shares.values()].reduce((sum, share) => sum + share, 0)) / 100
      if (done > told) {
        told = done
        yield { type: 'progress', phase, done, total: files.length, item: event.path }
      }
    }
    next = await uploading.next()
  }
  yield { type: 'progress', phase, done: files.length, total: files.length }
  return next.value?.commit.oid ?? null
}

/** Whether another attempt may go better: the network broke, or the Hub is busy. */
function mayPass(error: unknown): boolean {
  if (!(error instanceof HubApiError))
    return !(error instanceof TypeError && /token/i.test(error.message))
  return error.statusCode >= 500 || error.statusCode === 429 || error.statusCode === 408
}

function codeFailure(repo: string, error: unknown): Error {
  if (error instanceof HubApiError && error.statusCode < 500 && error.statusCode !== 429) {
    return exporterErrors.HUB_REFUSED(repo, error.statusCode, firstLine(error), { cause: error })
  }
  const { cause } = error as Error & { cause?: { code?: string } }
  return exporterErrors.HUB_FAILED(repo, cause?.code ?? firstLine(error), { cause: error })
}

function firstLine(error: unknown): string {
  return String((error as Error).message)
    .split('\n')[0]!
    .replace(/\.+$/, '')
}

/** Every file under a folder, sorted; hidden files and folders are left out. */
async function listFiles(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { withFileTypes: true }).catch((error: unknown) => {
    throw codeSystemError(error, folder)
  })
  const files: string[] = []
  for (const entry of entries) {
    if (entry.name.startsWith('.')) continue
    const path = join(folder, entry.name)
    if (entry.isDirectory()) files.push(...(await listFiles(path)))
    else if (entry.isFile()) files.push(path)
  }
  return files.toSorted()
}
