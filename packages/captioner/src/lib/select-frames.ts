import { encodeImage, probe, readFrames } from '@kinora/media'

/** A frame as it is sent: JPEG bytes and its moment in the clip, in seconds. */
export interface SelectedFrame {
  time: number
  jpeg: Uint8Array
}

/** JPEG quality of frames: models see no difference above, and the request doubles by 95. */
const quality = 85

/** Moments of the frames shown to a model: spread evenly over the clip, its first and last frame included. */
export function frameTimes(numFrames: number, fps: number, count: number): number[] {
  const last = (numFrames - 1) / fps
  const wanted = Math.min(count, numFrames)
  if (wanted === 1) return [last / 2]
  return Array.from({ length: wanted }, (_, i) => (i * last) / (wanted - 1))
}

/**
 * Reads frames of a clip, spread over it.
 *
 * @param file the clip
 * @param options how many frames, and their longer side in pixels
 */
export type SelectFrames = (
  file: string,
  options: { frames: number; frameSize: number },
  signal: AbortSignal,
) => Promise<SelectedFrame[]>

/** Frames by the system's ffmpeg. Throws media’s coded errors for a clip that cannot be read. */
export const selectFrames: SelectFrames = async (file, { frames, frameSize }, signal) => {
  const facts = await probe(file, { signal })
  const times = frameTimes(facts.numFrames, facts.fps, frames)
  const scale = Math.min(1, frameSize / Math.max(facts.width, facts.height))
  const size = {
    width: Math.max(1, Math.round(facts.width * scale)),
    height: Math.max(1, Math.round(facts.height * scale)),
  }
  const step = times.length > 1 ? times[1]! - times[0]! : undefined
  const selected: SelectedFrame[] = []
  const stream = readFrames(
    file,
    {
      ...size,
      probe: facts,
      start: step === undefined ? times[0]! : 0,
      ...(step !== undefined && { fps: 1 / step }),
    },
    { signal },
  )
  for await (const frame of stream) {
    selected.push({ time: frame.time, jpeg: await encodeImage(frame, 'jpeg', { quality }) })
    if (selected.length === times.length) break
  }
  return selected
}
