import { randomBytes } from 'node:crypto'
import { mkdir, rename, rm } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { removeOnExit } from '@kinora/stage'
import { mediaErrors } from './errors.ts'
import { saysDiskFull } from './ffmpeg.ts'

/**
 * Lets `write` fill a temporary neighbour of `file` and renames it when that succeeded, so that nobody ever sees half a
 * file. The temporary name begins with a dot and ends in `.tmp`.
 */
export async function replaceFile<T>(
  file: string,
  write: (temporary: string) => Promise<T>,
): Promise<T> {
  const temporary = join(
    dirname(file),
    `.${basename(file)}.${process.pid}-${randomBytes(4).toString('hex')}.tmp`,
  )
  const leftover = removeOnExit(temporary)
  try {
    await mkdir(dirname(file), { recursive: true })
    const result = await write(temporary)
    await rename(temporary, file)
    return result
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => {})
    if (
      error instanceof Error &&
      saysDiskFull(`${error.message} ${(error as { code?: string }).code}`)
    )
      throw mediaErrors.DISK_FULL(file, { cause: error })
    throw error
  } finally {
    leftover.forget()
  }
}
