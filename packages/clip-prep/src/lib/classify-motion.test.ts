import { describe, expect, it } from 'vitest'
import { renderScene, type Camera } from '../../test/scene.ts'
import { classifyMotion } from './classify-motion.ts'
import { buildPyramid } from './luma-pyramid.ts'
import { measureStep, type MotionStep } from './motion-step.ts'

const width = 160
const height = 90
const numSteps = 8
const stepSeconds = 1 / 13

/** What is measured of a camera whose place at time `t` (0 to 1) is given. */
function stepsOf(camera: (t: number) => Camera, noise = 0): MotionStep[] {
  let state = 1
  const random = () => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0
    return state / 2 ** 32 - 0.5
  }
  const pyramids = Array.from({ length: numSteps + 1 }, (_, index) => {
    const picture = renderScene(camera(index / numSteps), width, height)
    if (noise > 0)
      for (let at = 0; at < picture.length; at++)
        picture[at] = Math.max(0, Math.min(255, picture[at]! + noise * (random() + random())))
    return buildPyramid(picture, width, height)
  })
  return pyramids.slice(1).map((pyramid, index) =>
    measureStep(pyramids[index]!, pyramid, {
      from: index * stepSeconds,
      to: (index + 1) * stepSeconds,
    }),
  )
}

const ahead = (angle: number, tilt = 0): Camera => ({
  eye: [0, 1.2, 9],
  target: [9 * Math.sin(angle), 1.2 + 9 * Math.sin(tilt), 9 - 9 * Math.cos(angle)],
})
const around = (angle: number, radius: number, eyeHeight: number): Camera => ({
  eye: [radius * Math.sin(angle), eyeHeight, radius * Math.cos(angle)],
  target: [0, 0.8, 0],
})

describe('classifyMotion', () => {
  it.each([
    ['static', () => ahead(0)],
    ['pan-right', (t: number) => ahead(0.15 * t)],
    ['pan-left', (t: number) => ahead(-0.15 * t)],
    ['tilt-up', (t: number) => ahead(0, 0.1 * t)],
    ['tilt-down', (t: number) => ahead(0, -0.1 * t)],
    ['zoom-in', (t: number) => ({ ...ahead(0), eye: [0, 1.2, 9 - 1.5 * t] as const })],
    ['zoom-out', (t: number) => ({ ...ahead(0), eye: [0, 1.2, 8 + 1.5 * t] as const })],
    ['zoom-in', (t: number) => ({ ...ahead(0), fieldOfView: (Math.PI / 3) * (1 - 0.15 * t) })],
    ['roll', (t: number) => ({ ...ahead(0), roll: 0.2 * t })],
    ['orbit', (t: number) => around(0.25 * t, 6, 1.6)],
    ['orbit', (t: number) => around(-0.25 * t, 6, 1.6)],
    ['orbit', (t: number) => around(0.25 * t, 4, 5)],
  ] as const)('sees %s', (expected, camera) => {
    expect(classifyMotion(stepsOf(camera))?.camera).toBe(expected)
  })

  it.each([
    ['roll', (t: number) => ({ ...ahead(0), roll: 0.2 * t })],
    ['pan-right', (t: number) => ahead(0.15 * t)],
    ['static', () => ahead(0)],
  ] as const)('sees %s under noise', (expected, camera) => {
    expect(classifyMotion(stepsOf(camera, 20))?.camera).toBe(expected)
  })

  it('measures the speed of a pan and of a zoom', () => {
    const seconds = numSteps * stepSeconds
    const pan = classifyMotion(stepsOf((t) => ahead(0.15 * t)))!
    // At the centre of a picture 60° wide, an angle moves the content by its tangent over twice that of 30°.
    const widths = Math.tan(0.15) / (2 * Math.tan(Math.PI / 6))
    expect(pan.panPerSecond).toBeCloseTo(widths / seconds, 1)
    const zoom = classifyMotion(
      stepsOf((t) => ({
        ...ahead(0),
        fieldOfView: 2 * Math.atan(Math.tan(Math.PI / 6) * Math.exp(-0.2 * t)),
      })),
    )!
    expect(zoom.zoomPerSecond).toBeCloseTo(0.2 / seconds, 2)
  })

  it('has nothing to say of no steps', () => {
    expect(classifyMotion([])).toBeNull()
  })
})
