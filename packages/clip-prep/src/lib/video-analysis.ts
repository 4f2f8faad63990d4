import type { MediaProbe } from '@kinora/media'
import type { GradualWindow } from './gradual-scan.ts'
import type { MotionStep } from './motion-step.ts'

/** What was measured on every frame of a video: one entry a frame in each list. Times in seconds from the first frame. */
export interface FrameMeasures {
  time: number[]
  /** Difference from the frame before: by colour, by structure (0 to 1), and PySceneDetect's content value (0 to 255). */
  color: number[]
  structure: number[]
  content: number[]
  /**
   * For a frame that differs much from the one before: how many frames later the picture before it is back, within a quarter
   * of a second. 1 after a flash of one frame; 0 where it does not come back.
   */
  backAfter: number[]
  /** Mean change of luma from the frame before, in gray levels. */
  change: number[]
  /** Mean and standard deviation of luma, in gray levels. */
  mean: number[]
  deviation: number[]
  /** Shares of pixels crushed to black and blown out to white. */
  black: number[]
  white: number[]
}

/** How deep black reaches in from each side, in rows and columns of the small picture. */
export interface DarkBorder {
  top: number
  bottom: number
  left: number
  right: number
}

/** Everything that one pass over a video measures. Plans are made from it without reading the video again. */
export interface VideoAnalysis {
  version: 1
  probe: Omit<MediaProbe, 'file'>
  /** Size of the small pictures that were measured. */
  width: number
  height: number
  frames: FrameMeasures
  steps: MotionStep[]
  /** Least depth of the dark border over the frames of each step; same order as `steps`. */
  borders: DarkBorder[]
  gradual: GradualWindow[]
  /** Complaints of the decoder that did not stop it; 0 for a sound file. */
  numDecodeErrors: number
}
