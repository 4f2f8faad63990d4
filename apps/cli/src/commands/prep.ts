import { prepareClipsIter, prepareClipsOptions } from '@kinora/clip-prep'
import type { DatasetManifest } from '@kinora/config-schema'
import type { BinCommand } from '@kinora/stage/bin'

/** `kinora prep`: clip-prep. */
export const prepCommand: BinCommand = {
  summary: 'Footage to clips: shots, still heads and tails, crop, 16 frames a second.',
  options: prepareClipsOptions,
  positionals: ['source', 'out'],
  run: prepareClipsIter,
  report: ({ clips, dropped }: DatasetManifest) =>
    `${clips.length} clips, ${clips.reduce((sum, { duration }) => sum + duration, 0).toFixed(1)} s; ${dropped.length} pieces of footage left out, each with its reason in manifest.jsonl.`,
}
