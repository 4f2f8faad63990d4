// Which frames of a clip make a sample. F is the number of frames of the clip, n that of the sample; indices count from 0.

/** Python's round: halves go to the even neighbour. */
function roundHalfEven(value: number): number {
  const floor = Math.floor(value)
  const rest = value - floor
  if (rest < 0.5) return floor
  if (rest > 0.5) return floor + 1
  return floor % 2 === 0 ? floor : floor + 1
}

/** The longest length of the form 4n+1 that is not above `numFrames` (at least 1). */
export function snapNumFrames(numFrames: number): number {
  return 4 * Math.floor((numFrames - 1) / 4) + 1
}

/**
 * The whole clip squeezed (or stretched) into n frames, first and last included: AI Toolkit's default,
 * index_i = min(round(i·(F−1)/(n−1)), F−1) with halves to even.
 */
export function uniformFrameIndices(clipFrames: number, numFrames: number): number[] {
  if (numFrames === 1) return [0]
  return Array.from({ length: numFrames }, (_, i) =>
    Math.min(roundHalfEven((i * (clipFrames - 1)) / (numFrames - 1)), clipFrames - 1),
  )
}

/**
 * Frames at the true speed: the i-th is the one nearest to i/fps seconds after `firstFrame` (a half goes up, so that a
 * 24 fps clip sampled at 16 fps keeps the even beat 2, 1, 2, 1).
 *
 * @param ratio frames of the clip a frame of the sample: clip fps / sample fps
 */
export function realTimeFrameIndices(
  firstFrame: number,
  numFrames: number,
  ratio: number,
): number[] {
  return Array.from({ length: numFrames }, (_, i) => firstFrame + roundHalfUp(i * ratio))
}

/** Frames of the clip from the first to the last of a real-time window, both counted. */
export function realTimeSpan(numFrames: number, ratio: number): number {
  return roundHalfUp((numFrames - 1) * ratio) + 1
}

/** The longest real-time window of 4n+1 frames that the clip holds; 1 for a single frame. */
export function longestNumFrames(clipFrames: number, ratio: number): number {
  // The last index, round(k·ratio), stays at or below F−1 while k·ratio < F − 1/2.
  let numFrames = snapNumFrames(Math.max(1, Math.ceil((clipFrames - 0.5) / ratio)))
  while (numFrames > 1 && realTimeSpan(numFrames, ratio) > clipFrames) numFrames -= 4
  return numFrames
}

/**
 * AI Toolkit with `shrink_video_to_frames: false`: every step-th frame from a random start, step = max(1, round(video
 * fps / fps)). Too short a clip falls back to the uniform rule.
 *
 * @param unit in [0, 1): stands for the random draw
 */
export function strideFrameIndices(
  clipFrames: number,
  numFrames: number,
  ratio: number,
  unit: number,
): number[] {
  const step = Math.max(1, roundHalfEven(ratio))
  if (Math.floor(clipFrames / step) < numFrames) return uniformFrameIndices(clipFrames, numFrames)
  const lastStart = clipFrames - 1 - (numFrames - 1) * step
  const start = Math.floor(unit * (lastStart + 1))
  return Array.from({ length: numFrames }, (_, i) => start + i * step)
}

/** AI Toolkit's `auto_frame_count`: frames of a clip that lasts `duration` seconds. `trim` drops the tail, else it is squeezed in. */
export function autoNumFrames(duration: number, fps: number, trim: boolean): number {
  const frames = Math.floor(duration * fps)
  return Math.max(1, 4 * Math.floor((trim ? frames - 1 : frames) / 4) + 1)
}

/** AI Toolkit's frames for a trimmed automatic count: round(i·video fps / fps) from the start, halves to even. */
export function headFrameIndices(clipFrames: number, numFrames: number, ratio: number): number[] {
  return Array.from({ length: numFrames }, (_, i) =>
    Math.min(roundHalfEven(i * ratio), clipFrames - 1),
  )
}

function roundHalfUp(value: number): number {
  return Math.floor(value + 0.5)
}
