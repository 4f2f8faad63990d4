import { encodeImage, probe, readFrames } from '@kinora/media'
import type { VisionSettings } from './options.ts'
import type { DatasetClip } from './read-dataset.ts'

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

/** Reads the frames of a clip that a model is shown. Throws media’s coded errors for a clip that cannot be read. */
export async function selectFrames(
  clip: DatasetClip,
  { frames, frameSize }: Pick<VisionSettings, 'frames' | 'frameSize'>,
  signal: AbortSignal,
): Promise<SelectedFrame[]> {
  const facts = await probe(clip.file, { signal })
  const times = frameTimes(facts.numFrames, facts.fps, frames)
  const scale = Math.min(1, frameSize / Math.max(facts.width, facts.height))
  const size = {
    width: Math.max(1, Math.round(facts.width * scale)),
    height: Math.max(1, Math.round(facts.height * scale)),
  }
  const step = times.length > 1 ? times[1]! - times[0]! : undefined
  const selected: SelectedFrame[] = []
  const stream = readFrames(
    clip.file,
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
