import { createHash, type Hash } from 'node:crypto'
import { createReadStream, createWriteStream } from 'node:fs'
import { mkdir, readFile, rename, rm, stat, symlink } from 'node:fs/promises'
import { homedir } from 'node:os'
import { dirname, join, relative } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { setTimeout as wait } from 'node:timers/promises'
import {
  downloadFile,
  HubApiError,
  listFiles,
  modelInfo,
  type ListFileEntry,
} from '@huggingface/hub'
import { isCodedError, lockFolder, requireFreeSpace, writeFileAtomic } from '@kinora/stage'
import { checkpointErrors } from '../errors.ts'
import { readConfigs, recogniseLayout } from './read-configs.ts'
import { exists } from './weight-files.ts'

// A snapshot lies in the cache as huggingface_hub lays it out, so that what Python has downloaded is found and the other way:
//
//   models--<owner>--<name>/refs/<revision>             the commit it stood for
//   models--<owner>--<name>/blobs/<checksum>            contents; <checksum>.incomplete while they arrive
//   models--<owner>--<name>/snapshots/<commit>/<path>   links to contents

export interface HubOptions {
  /** Where downloads are kept: by default the folder that huggingface_hub uses. */
  cacheDir?: string | undefined
  /** Branch, tag or commit; `main` unless given. */
  revision?: string | undefined
  /** For private and gated models. */
  accessToken?: string | undefined
  /** Address of the Hub. */
  hubUrl?: string | undefined
  /** Used for every request. */
  fetch?: typeof fetch | undefined
  signal?: AbortSignal | undefined
  /** Called as bytes arrive. */
  onProgress?: ((progress: DownloadProgress) => void) | undefined
}

export interface DownloadProgress {
  /** File that is arriving, as the repository names it. */
  file: string
  /** Of all files, those that were there already included. */
  doneBytes: number
  totalBytes: number
}

/** How often a broken transfer is taken up again without a byte of progress, and how long is waited before, growing. */
const maxAttempts = 5
const retryMs = 500

/** Only these files of a repository are fetched. */
const wanted =
  /^(model_index\.json|scheduler\/[^/]+\.json|(transformer|transformer_2|vae|text_encoder)\/[^/]+\.(json|safetensors)|tokenizer\/[^/]+\.(json|model))$/

export function isHubId(source: string): boolean {
  return /^[A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*$/.test(source)
}

/**
 * Downloads a checkpoint, or finds it in the cache, and returns its folder. Configuration files come first and are checked, so
 * that another model is refused before its weights are fetched. A transfer that breaks is resumed, now and in a later run; every
 * file's checksum is compared with the Hub's. Without a network a snapshot that is in the cache is used.
 */
export async function fetchFromHub(repo: string, options: HubOptions): Promise<string> {
  const revision = options.revision ?? 'main'
  const folder = join(options.cacheDir ?? defaultCache(), `models--${repo.replace('/', '--')}`)
  const request = {
    repo,
    ...(options.accessToken === undefined ? {} : { accessToken: options.accessToken }),
    ...(options.hubUrl === undefined ? {} : { hubUrl: options.hubUrl }),
    fetch: withSignal(options.fetch ?? fetch, options.signal),
  }
  let commit: string
  const entries: ListFileEntry[] = []
  try {
    commit = (await modelInfo({ ...request, name: repo, revision, additionalFields: ['sha'] })).sha
    for await (const entry of listFiles({ ...request, recursive: true, revision: commit })) {
      entries.push(entry)
    }
  } catch (error) {
    options.signal?.throwIfAborted()
    const cached = await cachedSnapshot(folder, revision)
    if (cached && !(error instanceof HubApiError)) return cached
    throw hubError(repo, revision, error)
  }

  const names = entries.map((entry) => entry.path)
  recogniseLayout(repo, names)
  const files = entries.filter((entry) => entry.type === 'file' && wanted.test(entry.path))
  const snapshot = join(folder, 'snapshots', commit)
  await using _lock = await lockFolder(folder)
  const todo: ListFileEntry[] = []
  for (const entry of files) {
    if (!(await isComplete(join(snapshot, entry.path), entry.size))) todo.push(entry)
  }
  await requireFreeSpace(
    folder,
    todo.reduce((sum, entry) => sum + entry.size, 0),
  )

  const totalBytes = files.reduce((sum, entry) => sum + entry.size, 0)
  let doneBytes = totalBytes - todo.reduce((sum, entry) => sum + entry.size, 0)
  const fetchAll = async (list: readonly ListFileEntry[]) => {
    for (const entry of list) {
      await fetchFile(
        { ...request, revision: commit },
        entry,
        folder,
        snapshot,
        options,
        (bytes) => {
          doneBytes += bytes
          options.onProgress?.({ file: entry.path, doneBytes, totalBytes })
        },
      )
    }
  }
  const isConfig = (entry: ListFileEntry) => entry.path.endsWith('.json')
  await fetchAll(todo.filter(isConfig))
  await readConfigs(snapshot)
  await fetchAll(todo.filter((entry) => !isConfig(entry)))
  if (revision !== commit) await writeFileAtomic(join(folder, 'refs', revision), commit)
  return snapshot
}

interface Request {
  repo: string
  revision: string
  fetch: typeof fetch
  accessToken?: string
  hubUrl?: string
}

async function fetchFile(
  request: Request,
  entry: ListFileEntry,
  folder: string,
  snapshot: string,
  { signal }: HubOptions,
  onBytes: (count: number) => void,
): Promise<void> {
  const checksum = entry.lfs?.oid ?? entry.oid
  if (!checksum || !/^[0-9a-f]{40,64}$/.test(checksum)) {
    throw checkpointErrors.HUB_FAILED(request.repo, `the Hub gives no checksum for ${entry.path}`)
  }
  const blob = join(folder, 'blobs', checksum)
  const link = join(snapshot, entry.path)
  if (await isComplete(blob, entry.size)) onBytes(entry.size)
  else await transfer(request, entry, checksum, blob, signal, onBytes)
  await mkdir(dirname(link), { recursive: true })
  await rm(link, { force: true })
  // Windows lets only some users make links: there the file itself goes where the link would be.
  await symlink(relative(dirname(link), blob), link).catch(() => rename(blob, link))
}

/** Brings one file's content to `blob`, taking up what an earlier transfer left. */
async function transfer(
  request: Request,
  entry: ListFileEntry,
  checksum: string,
  blob: string,
  signal: AbortSignal | undefined,
  onBytes: (count: number) => void,
): Promise<void> {
  const incomplete = `${blob}.incomplete`
  await mkdir(dirname(blob), { recursive: true })
  const hash = checksumOf(checksum, entry.size)
  let done = await hashWhatIsThere(incomplete, hash, entry.size)
  onBytes(done)
  for (let failures = 0; done < entry.size;) {
    const before = done
    try {
      const content = await downloadFile({ ...request, path: entry.path })
      if (!content) throw checkpointErrors.HUB_FAILED(request.repo, `it has no ${entry.path}`)
      await pipeline(
        content.slice(done, entry.size).stream(),
        async function* (chunks: AsyncIterable<Uint8Array>) {
          for await (const chunk of chunks) {
            // A server that ignores the range sends the file from its start: nothing of that may be kept.
            if (done + chunk.length > entry.size)
              throw new Error('more bytes came than the file has')
            hash.update(chunk)
            done += chunk.length
            onBytes(chunk.length)
            yield chunk
          }
        },
        createWriteStream(incomplete, { flags: 'a' }),
      )
      if (done < entry.size) throw new Error('the connection ended early')
    } catch (error) {
      signal?.throwIfAborted()
      failures = done > before ? 1 : failures + 1
      if (isFinal(error) || failures >= maxAttempts) {
        throw hubError(request.repo, request.revision, error, entry.path)
      }
      await wait(retryMs * failures, undefined, signal ? { signal } : {})
      // What arrived but was not written is asked for again.
      const { size } = await stat(incomplete).catch(() => ({ size: 0 }))
      if (size !== done) {
        return transfer(request, entry, checksum, blob, signal, onBytes)
      }
    }
  }
  const found = hash.digest('hex')
  if (found !== checksum) {
    await rm(incomplete, { force: true })
    throw checkpointErrors.HUB_CORRUPT(entry.path, found, checksum)
  }
  if (entry.size === 0) await writeFileAtomic(incomplete, '')
  await rename(incomplete, blob)
}

/** Large files go by SHA-256 of their content; small ones by the name git gives them, SHA-1 over a header and the content. */
function checksumOf(checksum: string, size: number): Hash {
  if (checksum.length === 64) return createHash('sha256')
  return createHash('sha1').update(`blob ${size}\0`)
}

async function hashWhatIsThere(file: string, hash: Hash, size: number): Promise<number> {
  const found = await stat(file).catch(() => undefined)
  if (!found) return 0
  if (found.size > size) {
    await rm(file)
    return 0
  }
  await pipeline(createReadStream(file), async (chunks) => {
    for await (const chunk of chunks) hash.update(chunk as Uint8Array)
  })
  return found.size
}

function isFinal(error: unknown): boolean {
  if (isCodedError(error)) return true
  return error instanceof HubApiError && error.statusCode < 500 && error.statusCode !== 429
}

function hubError(repo: string, revision: string, cause: unknown, file?: string): unknown {
  if (isCodedError(cause)) return cause
  if (cause instanceof HubApiError) {
    const { statusCode } = cause
    if (statusCode === 401 || statusCode === 403) {
      return checkpointErrors.HUB_UNAUTHORIZED(repo, statusCode, { cause })
    }
    if (statusCode === 404) return checkpointErrors.HUB_NOT_FOUND(repo, revision, { cause })
  }
  const what = describeFailure(cause)
  return checkpointErrors.HUB_FAILED(repo, file ? `${file}: ${what}` : what, { cause })
}

/** `fetch` says "fetch failed" and keeps the reason in its cause. */
function describeFailure(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  return error.cause instanceof Error ? `${error.message} (${error.cause.message})` : error.message
}

async function cachedSnapshot(folder: string, revision: string): Promise<string | undefined> {
  const commit = await readFile(join(folder, 'refs', revision), 'utf8').catch(() => revision)
  const snapshot = join(folder, 'snapshots', commit.trim())
  return (await exists(join(snapshot, 'model_index.json'))) ? snapshot : undefined
}

/** A file, or a link whose target is there, of the right size. */
async function isComplete(path: string, size: number): Promise<boolean> {
  const found = await stat(path).catch(() => undefined)
  return found !== undefined && found.size === size
}

function withSignal(fetchFn: typeof fetch, signal: AbortSignal | undefined): typeof fetch {
  if (!signal) return fetchFn
  return (input, init) =>
    fetchFn(input, {
      ...init,
      signal: init?.signal ? AbortSignal.any([signal, init.signal]) : signal,
    })
}

/** As huggingface_hub chooses it. */
function defaultCache(): string {
  const env = process.env
  const home =
    env['HF_HOME'] ?? join(env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'huggingface')
  return env['HF_HUB_CACHE'] ?? env['HUGGINGFACE_HUB_CACHE'] ?? join(home, 'hub')
}
