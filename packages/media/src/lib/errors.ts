import { defineErrors } from '@kinora/stage'

/** Every expected failure of this package. */
export const mediaErrors = defineErrors('MEDIA', {
  NO_FFMPEG: {
    message: (program: string) => `${program} was not found on this machine.`,
    fix: 'Install ffmpeg 5.1 or newer (apt install ffmpeg, brew install ffmpeg, winget install ffmpeg), or name the programs in FFMPEG_PATH and FFPROBE_PATH.',
  },
  FFMPEG_TOO_OLD: {
    message: (version: string) => `ffmpeg ${version} is too old: 5.1 or newer is needed.`,
    fix: 'Install a newer ffmpeg, or name one in FFMPEG_PATH and FFPROBE_PATH.',
  },
  NO_ENCODER: {
    message: (encoder: string) => `This ffmpeg was built without the encoder ${encoder}.`,
    fix: (encoder: string) =>
      `Install a full build of ffmpeg: \`ffmpeg -encoders\` must list ${encoder}.`,
  },
  NO_TONE_MAP: {
    message: (file: string, transfer: string) =>
      `${file} is HDR (${transfer}), and this ffmpeg has no zscale and tonemap filters to bring it to SDR.`,
    fix: 'Install an ffmpeg built with libzimg (`ffmpeg -filters` must list zscale), or convert the file to SDR first.',
  },
  NO_ALPHA: {
    message: (file: string, pixFmt: string) => `${file} has no alpha channel (${pixFmt}).`,
    fix: 'Write it in a format that keeps alpha, such as ProRes 4444 or PNG in MOV, or give a folder of masks.',
  },
  NO_FILE: {
    message: (file: string) => `${file} does not exist or cannot be opened.`,
    fix: 'Check the path and the permissions.',
  },
  EMPTY_FILE: {
    message: (file: string) => `${file} has no bytes.`,
    fix: 'Copy or download the file again, or remove it.',
  },
  UNREADABLE: {
    message: (file: string, detail: string) =>
      `${file} cannot be read as video or image: ${detail}`,
    fix: 'Play the file to see whether it is whole. A download or recording that was cut off loses its index: fetch it again.',
  },
  IS_IMAGE: {
    message: (file: string, codec: string) => `${file} is a still image (${codec}), not a video.`,
    fix: 'Leave images out of folders of footage, or name the file by its true type.',
  },
  IS_ANIMATION: {
    message: (file: string, codec: string) =>
      `${file} is an animated picture (${codec}), which has too few colours or frames to train on.`,
    fix: 'Find the video that it was made from. To use it anyway, convert it: ffmpeg -i in.gif out.mp4.',
  },
  AUDIO_ONLY: {
    message: (file: string) => `${file} has sound but no video stream.`,
    fix: 'Export the file again with its picture, or remove it.',
  },
  NOT_AN_IMAGE: {
    message: (file: string, detail: string) => `${file} cannot be read as an image: ${detail}`,
    fix: 'Give a png, jpeg, webp, avif or tiff file that opens in an image viewer.',
  },
  NO_FRAMES: {
    message: (file: string, range: string) => `${file} gave no frame${range}.`,
    fix: 'Choose a range inside the duration of the file.',
  },
  FRAME_SIZE: {
    message: (file: string, index: number, got: string, wanted: string) =>
      `Frame ${index} for ${file} is ${got}, but the first one was ${wanted}.`,
    fix: 'Give frames of one size, with 3 bytes a pixel (or 1 for gray).',
  },
  BAD_RANGE: {
    message: (what: string) => `The picture asked for is impossible: ${what}.`,
    fix: 'Keep start before end, the crop inside the picture as shown, and every size above zero.',
  },
  IMAGE_TYPE: {
    message: (file: string) => `${file} has no ending that names an image type.`,
    fix: 'End the name with .png, .jpg, .jpeg or .webp.',
  },
  DISK_FULL: {
    message: (file: string) => `The disk filled up while ${file} was written.`,
    fix: 'Free some space and run again: what was finished before is kept.',
  },
  WRITE_FAILED: {
    message: (file: string, detail: string) => `${file} could not be written: ${detail}`,
    fix: 'Check that the folder exists and may be written to.',
  },
  DECODE_FAILED: {
    message: (file: string, detail: string) => `ffmpeg failed on ${file}: ${detail}`,
    fix: 'Play the file to see whether it is whole, and try a newer ffmpeg.',
  },
})
