import { defineErrors } from '@kinora/stage'

/** Every expected failure of this package. A file that cannot be used is no failure as long as another can: it is `dropped` in the manifest. */
export const clipPrepErrors = defineErrors('CLIP_PREP', {
  NO_SOURCE: {
    message: (source: string) => `${source} is no folder of footage and no video file.`,
    fix: 'Give the folder that holds the videos, or one video file.',
  },
  NO_FOOTAGE: {
    message: (source: string) => `${source} holds no file that could be footage.`,
    fix: 'Put videos (mp4, mov, mkv, webm, avi, …) into it, or give another folder.',
  },
  TOO_MANY_SKIPPED: {
    message: (skipped: number, total: number, limit: number) =>
      `${skipped} of ${total} files were left out, more than --max-skipped ${limit} allows.`,
    fix: 'The manifest names each file with its reason. Mend or remove them, or raise --max-skipped.',
  },
  NOTHING_USABLE: {
    message: (total: number) =>
      total === 1
        ? 'The only file could not be used.'
        : `None of the ${total} files could be used.`,
    fix: 'Each is named above with its reason, and in the manifest. Mend them, or give another folder.',
  },
  OUT_IN_SOURCE: {
    message: (out: string, source: string) => `${out} is the footage folder ${source} itself.`,
    fix: 'Choose another output folder; one inside the footage folder is fine.',
  },
  NO_SHARDS: {
    message: (out: string) => `${out} has no manifests of shards to join.`,
    fix: 'Run clip-prep with --shard 1/n … n/n into this folder first.',
  },
  MISSING_SHARDS: {
    message: (out: string, missing: string) => `${out} lacks the manifests of shards ${missing}.`,
    fix: 'Run the missing shards, or wait until their machines are done, and merge again.',
  },
  SHARDS_DISAGREE: {
    message: (a: string, b: string) =>
      `${a} and ${b} were made with different options or numbers of shards.`,
    fix: 'Remove the manifests of older runs, and run every shard with the same options: finished clips that still fit are kept.',
  },
  MISSING_CLIP: {
    message: (clip: string, file: string) =>
      `${clip}, cut from ${file}, is in the manifest of a shard but not in the folder, or was changed.`,
    fix: 'Run the shard that has this file again: only what is missing is cut.',
  },
})
