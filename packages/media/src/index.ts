export { probe, type MediaProbe } from './lib/probe.ts'
export {
  readFrames,
  type FrameFormat,
  type ReadFramesOptions,
  type VideoFrame,
} from './lib/frame-source.ts'
export { countResampled, nearestFrames } from './lib/frame-times.ts'
export type { CropRectangle, PictureOptions } from './lib/picture-filters.ts'
export { cutVideo, type CutPreview, type CutVideoOptions } from './lib/cut-video.ts'
export {
  checkVideoOutput,
  writeVideo,
  writeWebp,
  type FrameSequence,
  type VideoEnding,
  type WriteVideoOptions,
  type WriteWebpOptions,
  type X264Preset,
} from './lib/write-video.ts'
export {
  encodeImage,
  isImageFile,
  readImage,
  writeImage,
  type ImageFormat,
  type ReadImageOptions,
  type RgbImage,
} from './lib/image.ts'
export { replaceFile } from './lib/atomic-file.ts'
export { checkFfmpeg, type FfmpegInfo } from './lib/ffmpeg.ts'
export { mediaErrors } from './lib/errors.ts'
