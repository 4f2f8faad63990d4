import { describe, expect, it } from 'vitest'
import { CodedError, isCodedError } from './coded-error.ts'
import { defineErrors } from './define-errors.ts'
import { codeSystemError } from './stage-errors.ts'

const errors = defineErrors('BUCKETER', {
  NO_BUCKET_FITS: {
    message: (clip: string, frames: number) => `${clip} has ${frames} frames.`,
    fix: (clip: string) => `Drop ${clip}.`,
  },
})

describe('defineErrors', () => {
  it('makes errors with a permanent code, a message, a fix and the cause', () => {
    const cause = new Error('below')
    const error = errors.NO_BUCKET_FITS('a.mp4', 3, { cause })
    expect(isCodedError(error, 'BUCKETER_NO_BUCKET_FITS')).toBe(true)
    expect(error.cause).toBe(cause)
    expect(error.toJSON()).toEqual({
      code: 'BUCKETER_NO_BUCKET_FITS',
      message: 'a.mp4 has 3 frames.',
      fix: 'Drop a.mp4.',
    })
    expect(errors.NO_BUCKET_FITS('a.mp4', 3).cause).toBeUndefined()
  })
})

describe('codeSystemError', () => {
  it.each([
    ['ENOSPC', 'STAGE_DISK_FULL'],
    ['EROFS', 'STAGE_NO_PERMISSION'],
    ['ENOENT', 'STAGE_NO_SUCH_FILE'],
    ['EMFILE', 'STAGE_TOO_MANY_FILES'],
  ])('gives %s the code %s', (code, coded) => {
    const coded_ = codeSystemError(Object.assign(new Error(code), { code, path: 'out/a' }))
    expect(coded_).toMatchObject({ code: coded })
  })

  it('leaves coded errors and bugs alone', () => {
    const bug = new TypeError('x is not a function')
    const own = new CodedError('A_B', 'm', 'f')
    expect(codeSystemError(bug)).toBe(bug)
    expect(codeSystemError(own)).toBe(own)
  })
})
