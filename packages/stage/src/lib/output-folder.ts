import { randomUUID } from 'node:crypto'
import { readFileSync, rmSync } from 'node:fs'
import { link, mkdir, open, readFile, rename, rm, stat, statfs, utimes } from 'node:fs/promises'
import { hostname } from 'node:os'
import { basename, dirname, join, resolve } from 'node:path'
import { codeSystemError, stageErrors } from './stage-errors.ts'

/** What a hard exit must not leave behind: temporary files being written and locks being held. */
const leftovers = new Set<string>()
let watchingExit = false

/** Removes a file or folder if the process exits before `forget` is called, as by a second Ctrl-C. */
export function removeOnExit(path: string): { forget: () => void } {
  if (!watchingExit) {
    watchingExit = true
    process.on('exit', () => {
      for (const leftover of leftovers) rmSync(leftover, { recursive: true, force: true })
    })
  }
  leftovers.add(path)
  return { forget: () => leftovers.delete(path) }
}

/**
 * Writes a file so that it is either there whole or not at all: to a temporary name beside it, flushed, then renamed.
 * Missing folders are made. Chunks are written as they come, so a large file needs no large buffer.
 */
export async function writeFileAtomic(
  file: string,
  data: string | Uint8Array | Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
): Promise<void> {
  const temporary = temporaryName(file)
  const leftover = removeOnExit(temporary)
  try {
    await mkdir(dirname(file), { recursive: true })
    const handle = await open(temporary, 'wx')
    try {
      if (typeof data === 'string' || data instanceof Uint8Array) await handle.writeFile(data)
      else for await (const chunk of data) await handle.writeFile(chunk)
      await handle.sync()
    } finally {
      await handle.close()
    }
    await rename(temporary, file)
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => {})
    throw codeSystemError(error, file)
  } finally {
    leftover.forget()
  }
}

/**
 * A name beside `file` for writing it under until it is whole. It keeps the extension, which tells some writers the format,
 * and begins with a dot, so that nothing that lists the folder takes it for output.
 */
export function temporaryName(file: string): string {
  return join(dirname(file), `.${process.pid}-${randomUUID().slice(0, 8)}.${basename(file)}`)
}

/** Refuses early when the disk of `folder` (made if missing) has less than `neededBytes` free. */
export async function requireFreeSpace(folder: string, neededBytes: number): Promise<void> {
  await makeFolder(folder)
  const { bavail, bsize } = await statfs(folder)
  const freeBytes = bavail * bsize
  if (freeBytes < neededBytes) {
    throw stageErrors.NOT_ENOUGH_SPACE(
      folder,
      Math.ceil(neededBytes / 2 ** 20),
      Math.floor(freeBytes / 2 ** 20),
    )
  }
}

/** A held lock. `release` gives the folder back; forgetting to is mended when the process ends. */
export interface FolderLock extends AsyncDisposable {
  release(): Promise<void>
}

interface LockHolder {
  pid: number
  host: string
  /** When the process began, in the kernel's own words; tells a reused process id from the one that locked. */
  processStart: string | null
  since: string
}

const lockName = '.kinora.lock'
const heartbeatMs = 30_000
/** A lock of another machine (a shared disk) counts as left behind when its heartbeat is this old. */
const remoteStaleMs = 10 * 60_000

/**
 * Takes an output folder (made if missing) for this run, or throws `STAGE_FOLDER_IN_USE`. A lock whose process is gone is
 * taken over.
 */
export async function lockFolder(folder: string): Promise<FolderLock> {
  await makeFolder(folder)
  const file = resolve(folder, lockName)
  const holder: LockHolder = {
    pid: process.pid,
    host: hostname(),
    processStart: processStart(process.pid),
    since: new Date().toISOString(),
  }
  const text = `${JSON.stringify(holder)}\n`
  while (!(await createLock(file, text))) {
    const found = await readLock(file)
    if (!found) continue
    if (!(await isStale(file, found.holder))) {
      throw stageErrors.FOLDER_IN_USE(folder, describeHolder(found.holder))
    }
    await removeStale(file, found.text, folder)
  }
  const leftover = removeOnExit(file)
  const heartbeat = setInterval(() => {
    const now = new Date()
    utimes(file, now, now).catch(() => {})
  }, heartbeatMs)
  heartbeat.unref()

  let held = true
  async function release(): Promise<void> {
    if (!held) return
    held = false
    clearInterval(heartbeat)
    leftover.forget()
    await rm(file, { force: true })
  }
  return { release, [Symbol.asyncDispose]: release }
}

async function makeFolder(folder: string): Promise<void> {
  try {
    await mkdir(folder, { recursive: true })
  } catch (error) {
    throw codeSystemError(error, folder)
  }
}

/**
 * Written under another name and linked, so that whoever sees the lock sees all of it. On a file system without links it is
 * created in place.
 */
async function createLock(file: string, text: string): Promise<boolean> {
  const temporary = temporaryName(file)
  const leftover = removeOnExit(temporary)
  try {
    const handle = await open(temporary, 'wx')
    try {
      await handle.writeFile(text)
    } finally {
      await handle.close()
    }
    await link(temporary, file)
    return true
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'EEXIST') return false
    if (code === 'ENOTSUP' || code === 'ENOSYS' || code === 'EPERM') {
      return createInPlace(file, text)
    }
    throw codeSystemError(error, file)
  } finally {
    await rm(temporary, { force: true })
    leftover.forget()
  }
}

async function createInPlace(file: string, text: string): Promise<boolean> {
  try {
    const handle = await open(file, 'wx')
    try {
      await handle.writeFile(text)
    } finally {
      await handle.close()
    }
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false
    throw codeSystemError(error, file)
  }
}

async function readLock(
  file: string,
): Promise<{ text: string; holder: LockHolder | null } | undefined> {
  let text: string
  try {
    text = await readFile(file, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw codeSystemError(error, file)
  }
  try {
    const holder = JSON.parse(text) as LockHolder
    return { text, holder: typeof holder.pid === 'number' ? holder : null }
  } catch {
    return { text, holder: null }
  }
}

async function isStale(file: string, holder: LockHolder | null): Promise<boolean> {
  if (holder && holder.host === hostname()) {
    if (!isAlive(holder.pid)) return true
    const start = processStart(holder.pid)
    return start !== null && holder.processStart !== null && start !== holder.processStart
  }
  const { mtimeMs } = await stat(file).catch(() => ({ mtimeMs: 0 }))
  return Date.now() - mtimeMs > remoteStaleMs
}

/** Moves the lock away first: if another run took it over meanwhile, it is put back and that run keeps it. */
async function removeStale(file: string, text: string, folder: string): Promise<void> {
  const aside = temporaryName(file)
  try {
    await rename(file, aside)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return
    throw codeSystemError(error, file)
  }
  const moved = await readLock(aside)
  if (moved && moved.text !== text) {
    await link(aside, file).catch(() => {})
    await rm(aside, { force: true })
    throw stageErrors.FOLDER_IN_USE(folder, describeHolder(moved.holder))
  }
  await rm(aside, { force: true })
}

function describeHolder(holder: LockHolder | null): string {
  if (!holder) return 'its lock cannot be read'
  const where = holder.host === hostname() ? '' : ` on ${holder.host}`
  return `process ${holder.pid}${where}, since ${holder.since}`
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

/** Field 22 of /proc/<pid>/stat, clock ticks since boot; null where there is no such file. */
function processStart(pid: number): string | null {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return text.slice(text.lastIndexOf(')') + 2).split(' ')[19] ?? null
  } catch {
    return null
  }
}
