import { CodedError } from './coded-error.ts'
import { defineErrors } from './define-errors.ts'

export const stageErrors = defineErrors('STAGE', {
  FOLDER_IN_USE: {
    message: (folder: string, holder: string) => `${folder} is in use by another run (${holder}).`,
    fix: (folder: string) =>
      `Wait until that run ends, or choose another output folder. If no such run exists, delete ${folder}/.kinora.lock.`,
  },
  DISK_FULL: {
    message: (what: string) => `The disk is full: ${what} could not be written.`,
    fix: 'Free some space or choose an output folder on another disk, then run the same command again: finished work is kept.',
  },
  NOT_ENOUGH_SPACE: {
    message: (folder: string, neededMiB: number, freeMiB: number) =>
      `${folder} has ${freeMiB} MiB free, and this run needs about ${neededMiB} MiB.`,
    fix: 'Free some space or choose an output folder on another disk.',
  },
  NO_PERMISSION: {
    message: (what: string) => `Permission to use ${what} was refused.`,
    fix: 'Check who owns it and that it is not read-only, or choose another folder.',
  },
  NO_SUCH_FILE: {
    message: (what: string) => `${what} does not exist.`,
    fix: 'Check the spelling of the path; relative paths start at the current folder.',
  },
  NOT_A_FOLDER: {
    message: (what: string) => `${what} is a file where a folder is needed, or lies inside a file.`,
    fix: 'Choose another path, or move that file away.',
  },
  TOO_MANY_FILES: {
    message: () => 'The limit of open files was reached.',
    fix: 'Raise it (`ulimit -n 4096`) and run the same command again.',
  },
})

/**
 * Gives a failed system call its code: a full disk, a refused permission, a missing path, a file in a folder's place, too
 * many open files. Anything else comes back as it is.
 *
 * @param path what was being written or read, where the error names a temporary file or nothing
 */
export function codeSystemError(error: unknown, path?: string): unknown {
  if (!(error instanceof Error) || error instanceof CodedError) return error
  const { code, path: errorPath } = error as NodeJS.ErrnoException
  const what = path ?? errorPath ?? 'a file'
  switch (code) {
    case 'ENOSPC':
    case 'EDQUOT':
      return stageErrors.DISK_FULL(what, { cause: error })
    case 'EACCES':
    case 'EPERM':
    case 'EROFS':
      return stageErrors.NO_PERMISSION(what, { cause: error })
    case 'ENOENT':
      return stageErrors.NO_SUCH_FILE(what, { cause: error })
    case 'ENOTDIR':
      return stageErrors.NOT_A_FOLDER(what, { cause: error })
    case 'EEXIST':
      // What mkdir says of a file in a folder's place; any other EEXIST is a bug and keeps its own words.
      return (error as NodeJS.ErrnoException).syscall === 'mkdir'
        ? stageErrors.NOT_A_FOLDER(what, { cause: error })
        : error
    case 'EMFILE':
    case 'ENFILE':
      return stageErrors.TOO_MANY_FILES({ cause: error })
    default:
      return error
  }
}
