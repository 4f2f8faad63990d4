import { captionClipsIter, captionClipsOptions, type CaptionResult } from '@kinora/captioner'
import type { BinCommand } from '@kinora/stage/bin'

/** `kinora caption`: captioner. */
export const captionCommand: BinCommand = {
  summary: 'Writes a caption beside every clip that has none, from a template or a vision model.',
  options: captionClipsOptions,
  positionals: ['source'],
  run: captionClipsIter,
  report: ({ clips, counts }: CaptionResult) =>
    `${clips.length} clips: ${Object.entries(counts)
      .filter(([, count]) => count > 0)
      .map(([status, count]) => `${count} ${status}`)
      .join(', ')}.`,
}
