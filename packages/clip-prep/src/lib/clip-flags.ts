/** What can be wrong with a clip, by permanent word, and what to do about it. Shown in the report and the README. */
export const clipFlags = {
  blurry: {
    meaning: 'Few fine details at a fixed size: out of focus, upscaled, or shaken.',
    fix: 'Leave it out with --drop blurry, unless the look is meant.',
  },
  dark: {
    meaning: 'Very dark as a whole, or more than 15 % of the pixels crushed to black.',
    fix: 'Grade the footage brighter, or leave it out with --drop dark.',
  },
  overexposed: {
    meaning: 'More than 15 % of the pixels are blown out to white.',
    fix: 'Grade the footage, or leave it out with --drop overexposed.',
  },
  'black-bars': {
    meaning: 'Black bars remain in the picture.',
    fix: 'Run with --crop bars to cut them off.',
  },
  'near-duplicate': {
    meaning: 'Another clip shows nearly the same; the better one is not flagged.',
    fix: 'Leave it out with --drop near-duplicate, or the set leans towards it.',
  },
  'static-overlay': {
    meaning: 'Something stays in one place while the picture moves: text, a logo, a watermark.',
    fix: 'Crop it off with --crop WxH+X+Y, or leave it out with --drop static-overlay: it will be learnt.',
  },
  frozen: {
    meaning: 'The picture stands still for half a second or more in the midst of motion.',
    fix: 'Find a better copy of the footage, or leave it out with --drop frozen.',
  },
  judder: {
    meaning: 'Frames repeat in a pattern: footage of a lower rate in a faster file.',
    fix: 'Usually harmless at 16 fps. Find the original rate where motion looks jerky.',
  },
  shaky: {
    meaning: 'The camera shakes more than it moves.',
    fix: 'Stabilise the footage, or leave it out with --drop shaky.',
  },
  'low-motion': {
    meaning: 'Hardly anything moves.',
    fix: 'A motion LoRA learns little from it: leave it out with --drop low-motion.',
  },
  'name-disagrees': {
    meaning: 'The file is named after a camera motion that was not measured.',
    fix: 'Look at the clip: rename the file, or caption what it shows.',
  },
  'decode-errors': {
    meaning: 'The decoder met damaged data in this footage.',
    fix: 'Look at the clip, and find a better copy if it shows blocks.',
  },
  'few-frames': {
    meaning: 'The footage has fewer pictures a second than the clip: pictures repeat.',
    fix: 'Use a lower --fps, or find footage of a higher rate.',
  },
} as const satisfies Record<string, { meaning: string; fix: string }>

export type ClipFlag = keyof typeof clipFlags

/** Why a file or a part of it was left out, by permanent word. */
export const dropReasons = {
  image: 'A still image.',
  animation: 'An animated picture (GIF, APNG).',
  'audio-only': 'Sound without picture.',
  empty: 'A file of no bytes.',
  'same-bytes': 'The same bytes as another file.',
  unreadable: 'ffmpeg cannot read it.',
  truncated: 'The file ends before its header says.',
  'decode-failed': 'ffmpeg gave up while reading it.',
  'hdr-unsupported': 'HDR footage, and this ffmpeg cannot map it to SDR.',
  still: 'A shot in which nothing moves.',
  short: 'Too short after trimming.',
  blank: 'Nothing but one colour.',
  transition: 'A dissolve or fade between shots.',
  static: 'Stillness trimmed off a shot.',
} as const satisfies Record<string, string>

export type DropReason = keyof typeof dropReasons | ClipFlag
