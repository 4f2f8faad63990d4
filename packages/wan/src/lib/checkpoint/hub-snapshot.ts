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

/** How to reach the Hub, and where to keep what comes from it. */
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

/** How far a download is. */
export interface DownloadProgress {
  /** File that is arriving, as the repository names it. */
  file: string
  /** Of all files, those that were there already included. */
  doneBytes: number
  totalBytes: number
}

/** How often a broken transfer is taken up again without a byte of progress, and the wait before the first, which doubles. */
const maxAttempts = 5
const retryMs = 250

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

  if (!/^[0-9a-f]{40,64}$/.test(commit)) {
    throw checkpointErrors.HUB_FAILED(repo, 'the Hub gives no commit for its revision')
  }
  const names = entries.map((entry) => entry.path)
  recogniseLayout(repo, names)
  const files = entries.filter((entry) => entry.type === 'file' && wanted.test(entry.path))
  const snapshot = join(folder, 'snapshots', commit)
  const todo: ListFileEntry[] = []
  for (const entry of files) {
    if (!(await isComplete(join(snapshot, entry.path), entry.size))) todo.push(entry)
  }
  const todoBytes = todo.reduce((sum, entry) => sum + entry.size, 0)
  await requireFreeSpace(folder, todoBytes)
  // Runs that find everything in the cache may share it; only one may fill it.
  await using _lock = todo.length > 0 ? await lockFolder(folder) : undefined

  const totalBytes = files.reduce((sum, entry) => sum + entry.size, 0)
  let doneBytes = totalBytes - todoBytes
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

/**
 * Downloads one file of a repository, or finds it in the cache, and returns its path.
 *
 * @param path as the repository names it
 */
export async function fetchFileFromHub(
  repo: string,
  path: string,
  options: HubOptions,
): Promise<string> {
  const revision = options.revision ?? 'main'
  const folder = join(options.cacheDir ?? defaultCache(), `models--${repo.replace('/', '--')}`)
  const request = {
    repo,
    ...(options.accessToken === undefined ? {} : { accessToken: options.accessToken }),
    ...(options.hubUrl === undefined ? {} : { hubUrl: options.hubUrl }),
    fetch: withSignal(options.fetch ?? fetch, options.signal),
  }
  let commit: string
  let entry: ListFileEntry | undefined
  try {
    commit = (await modelInfo({ ...request, name: repo, revision, additionalFields: ['sha'] })).sha
    for await (const each of listFiles({ ...request, recursive: true, revision: commit })) {
      if (each.type === 'file' && each.path === path) entry = each
    }
  } catch (error) {
    options.signal?.throwIfAborted()
    const known = await readFile(join(folder, 'refs', revision), 'utf8').catch(() => revision)
    const cached = join(folder, 'snapshots', known.trim(), path)
    if ((await exists(cached)) && !(error instanceof HubApiError)) return cached
    throw hubError(repo, revision, error)
  }
  if (!entry) throw checkpointErrors.HUB_FAILED(repo, `it has no file ${path}`)
  const snapshot = join(folder, 'snapshots', commit)
  const file = join(snapshot, path)
  if (await isComplete(file, entry.size)) return file
  await requireFreeSpace(folder, entry.size)
  await using _lock = await lockFolder(folder)
  let doneBytes = 0
  const pinned = { ...request, revision: commit }
  await fetchFile(pinned, entry, folder, snapshot, options, (bytes) => {
    doneBytes += bytes
    options.onProgress?.({ file: path, doneBytes, totalBytes: entry.size })
  })
  if (revision !== commit) await writeFileAtomic(join(folder, 'refs', revision), commit)
  return file
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
  let counted = 0
  const countUpTo = (bytes: number) => {
    onBytes(bytes - counted)
    counted = bytes
  }
  let hash = checksumOf(checksum, entry.size)
  let done = await hashWhatIsThere(incomplete, hash, entry.size)
  countUpTo(done)
  for (let failures = 0; done < entry.size;) {
    const before = done
    try {
      await append(request, entry, incomplete, done, (chunk) => {
        hash.update(chunk)
        done += chunk.length
        countUpTo(done)
      })
    } catch (error) {
      signal?.throwIfAborted()
      if (error instanceof RangeIgnored) await rm(incomplete, { force: true })
      failures = done > before ? 1 : failures + 1
      if (isFinal(error) || failures >= maxAttempts) {
        throw hubError(request.repo, request.revision, error, entry.path)
      }
      await wait(retryMs * 2 ** (failures - 1), undefined, signal ? { signal } : {})
      // What is in the file counts, not what arrived: some of that may not have been written.
      hash = checksumOf(checksum, entry.size)
      done = await hashWhatIsThere(incomplete, hash, entry.size)
      countUpTo(done)
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

/** The server sent a whole file where a part was asked for. */
class RangeIgnored extends Error {
  constructor() {
    super('the server does not send parts of files')
  }
}

/** Appends the rest of a file, from byte `start` on, to what is there. */
async function append(
  request: Request,
  entry: ListFileEntry,
  incomplete: string,
  start: number,
  onChunk: (chunk: Uint8Array) => void,
): Promise<void> {
  let rangeIgnored = false
  const content = await downloadFile({
    ...request,
    path: entry.path,
    fetch: async (input, init) => {
      const response = await request.fetch(input, init)
      const asked = /^bytes=([1-9]\d*)-/.test(new Headers(init?.headers).get('Range') ?? '')
      if (!asked || !response.ok || response.status === 206) return response
      await response.body?.cancel()
      rangeIgnored = true
      throw new RangeIgnored()
    },
  })
  if (!content) throw checkpointErrors.HUB_FAILED(request.repo, `it has no ${entry.path}`)
  let received = start
  try {
    await pipeline(
      content.slice(start, entry.size).stream(),
      async function* (chunks: AsyncIterable<Uint8Array>) {
        for await (const chunk of chunks) {
          received += chunk.length
          if (received > entry.size) throw new Error('more bytes came than the file has')
          onChunk(chunk)
          yield chunk
        }
      },
      createWriteStream(incomplete, { flags: 'a' }),
    )
  } catch (error) {
    // The hub library passes on the message of an error only.
    throw rangeIgnored ? new RangeIgnored() : error
  }
  if (received < entry.size) throw new Error('the connection ended early')
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
