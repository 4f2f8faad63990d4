import { defineErrors } from '@kinora/stage'
import { snapNumFrames } from './frame-times.ts'

/** Every expected failure of bucketer. Wrong options are `BUCKETER_BAD_OPTIONS`, which names each field. */
export const bucketerErrors = defineErrors('BUCKETER', {
  NO_SOURCE: {
    message: () => 'No dataset is given.',
    fix: 'Name a manifest.jsonl or a folder of clips as source, or list several under datasets in the config file.',
  },
  NO_CLIPS: {
    message: (source: string) => `${source} holds no clips.`,
    fix: 'Run clip-prep on the footage first; if the manifest is there, look at its dropped records for the reasons.',
  },
  TOO_MANY_SKIPPED: {
    message: (skipped: number, allowed: number) =>
      `${skipped} files are missing or unreadable, and ${allowed} may be.`,
    fix: 'Mend or remove the files named above, or raise maxSkipped.',
  },
  NO_PROBE: {
    message: (source: string) =>
      `${source} has no manifest.jsonl, and there is nothing here that can look into video files.`,
    fix: 'Run clip-prep on the folder first, or install @kinora/media beside bucketer (from code: pass probe in the context).',
  },
  NUM_FRAMES_NOT_4N_PLUS_1: {
    message: (numFrames: number) =>
      `numFrames ${numFrames} is not one more than a multiple of 4, which the VAE needs.`,
    fix: (numFrames: number) => {
      const lower = snapNumFrames(numFrames)
      return `Use ${lower} or ${lower + 4}, or drop strict to have it snapped down to ${lower}.`
    },
  },
  SIZE_NOT_MULTIPLE: {
    message: (width: number, height: number, divisor: number) =>
      `The size ${width}x${height} is not a multiple of ${divisor} on both sides.`,
    fix: (width: number, height: number, divisor: number) => {
      const snap = (side: number) => Math.max(divisor, Math.round(side / divisor) * divisor)
      return `The nearest size that works is ${snap(width)}x${snap(height)}.`
    },
  },
  NO_BUCKET_FITS: {
    message: (numClips: number, reasons: string) =>
      `None of the ${numClips} clips fits a bucket: ${reasons}.`,
    fix: 'Lower numFrames or resolutions (or sizes), set shortClips to snap, allow upscale, or prepare longer and larger clips.',
  },
})
