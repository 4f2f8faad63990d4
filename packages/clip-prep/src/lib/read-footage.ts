import type { DroppedRecord } from '@kinora/config-schema'
import { probe } from '@kinora/media'
import { isCodedError, type RunContext } from '@kinora/stage'
import { analyseVideo } from './analyse-video.ts'
import { findPictureAreas } from './black-bars.ts'
import type { DropReason } from './clip-flags.ts'
import { detectShots } from './detect-shots.ts'
import type { FootageFile } from './list-footage.ts'
import type { StoredAnalysis } from './work-state.ts'

/** What a file is refused for, by the code of the error that said so. */
const refusals: Record<string, DropReason> = {
  MEDIA_IS_IMAGE: 'image',
  MEDIA_IS_ANIMATION: 'animation',
  MEDIA_AUDIO_ONLY: 'audio-only',
  MEDIA_EMPTY_FILE: 'empty',
  MEDIA_UNREADABLE: 'unreadable',
  MEDIA_NO_FILE: 'unreadable',
  MEDIA_NO_FRAMES: 'unreadable',
  MEDIA_DECODE_FAILED: 'decode-failed',
  MEDIA_NO_TONE_MAP: 'hdr-unsupported',
}

/** Whether an error is about the file `path`, so that the run goes on without it. */
export function refusalOf(
  error: unknown,
  path: string,
): { reason: DropReason; detail: string } | undefined {
  if (!isCodedError(error)) return undefined
  const reason = refusals[error.code]
  // The record names the file already, and files of the same bytes share the text.
  const message = error.message.replaceAll(path, 'The file')
  return reason && { reason, detail: `${message} ${error.fix}` }
}

/** Probes and measures one file; a file that cannot be used gives the reason instead. */
export async function readFootage(
  footage: FootageFile,
  {
    salvage,
    threads,
    onProgress,
    ...context
  }: RunContext & {
    salvage: boolean
    threads?: number
    onProgress?: (seconds: number, duration: number) => void
  },
): Promise<StoredAnalysis> {
  const version = 0
  const refuse = (refusal: Pick<DroppedRecord, 'reason' | 'detail' | 'start' | 'end'>) =>
    ({ version, kind: 'refused', refusal }) as const
  try {
    const facts = await probe(footage.path, context)
    if (facts.truncated && !salvage) {
      const { promisedFrames, foundFrames } = facts.truncated
      return refuse({
        reason: 'truncated' satisfies DropReason,
        detail: `The header promises ${promisedFrames} frames, and the file ends after ${foundFrames}. Copy or download it again, or use what is there with --salvage.`,
      })
    }
    const analysis = await analyseVideo(footage.path, facts, {
      ...context,
      ...(threads === undefined ? {} : { threads }),
      ...(onProgress
        ? { onProgress: (seconds: number) => onProgress(seconds, facts.duration) }
        : {}),
    })
    const { shots } = detectShots(analysis, { detector: 'color-structure' })
    const pictures = await findPictureAreas(footage.path, facts, analysis, shots, context)
    return { version, kind: 'video', analysis, pictures }
  } catch (error) {
    context.signal?.throwIfAborted()
    const refusal = refusalOf(error, footage.path)
    if (!refusal) throw error
    return refuse(refusal)
  }
}
