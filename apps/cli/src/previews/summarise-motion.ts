import { measureMotion } from '@kinora/clip-prep'
import type { MotionSummary } from '@kinora/config-schema'
import type { RgbImage } from '@kinora/media'

/** How frames move when they play at `fps`, without the curve over time; null for a single frame. */
export async function summariseMotion(
  frames: Iterable<RgbImage> | AsyncIterable<RgbImage>,
  fps: number,
): Promise<MotionSummary | null> {
  const motion = await measureMotion(frames, { fps })
  if (motion === null) return null
  const { camera, panPerSecond, tiltPerSecond, zoomPerSecond, rollPerSecond, subject } = motion
  return { camera, panPerSecond, tiltPerSecond, zoomPerSecond, rollPerSecond, subject }
}
