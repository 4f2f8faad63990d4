import type { MotionStep } from '../src/lib/motion-step.ts'

/** A step in which nothing moves, but for what is said. */
export function motionStep(
  said: Pick<MotionStep, 'from' | 'to'> & Partial<MotionStep>,
): MotionStep {
  return {
    x: 0,
    y: 0,
    zoom: 0,
    roll: 0,
    agreement: 1,
    numPoints: 60,
    energy: 0,
    subject: 0,
    expansion: 0,
    parallax: 0,
    turnX: 0,
    turnY: 0,
    counterflow: 0,
    ...said,
  }
}
