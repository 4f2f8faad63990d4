import { describe, expect, it } from 'vitest'
import { motion } from '../../../test/make-dataset.ts'
import { describeMotion } from '../describe-motion.ts'
import { captionClaims, contradiction, nameClaims } from './motion-words.ts'

it.each([
  ['the camera orbits around the statue', ['orbit']],
  ['an orbit of the temple', ['orbit']],
  ['the camera slowly pans left', ['pan-left']],
  ['panning to the right over the city', ['pan-right']],
  ['the camera pans over the city', ['pan']],
  ['the camera pans right, tilts up and moves in', ['pan-right', 'tilt-up', 'zoom-in']],
  ['the shot pushes in on her face', ['zoom-in']],
  ['pulling back to show the valley', ['zoom-out']],
  ['the camera is still while the dog runs to the left', ['static']],
  ['a static shot of a dog', ['static']],
  ['the camera rises over the roofs', ['tilt-up']],
  // About the subject, not the camera.
  ['the dog moves left and looks up', []],
  ['a ball rolls down the hill', []],
  ['she tilts her head up', []],
  ['he rises from the chair while the camera follows', []],
  ['the woman stays still', []],
  // Negated.
  ['a wide shot without zooming in', []],
  ['the camera shows a square, no panning', []],
] as const)('%j claims %j', (caption, claims) => {
  expect(captionClaims(caption)).toEqual(claims)
})

it('is fooled by a false friend that only grammar could tell', () => {
  expect(captionClaims('she cooks in a pan left on the stove')).toEqual(['pan-left'])
})

it.each([
  ['orbit-figure', ['orbit']],
  ['03_pan_left', ['pan-left']],
  ['dolly in 2', ['zoom-in']],
  ['static-tripod', ['static']],
  ['city-tilt-zoom-pan-60fps', []],
  ['panda', []],
  ['clip-0001', []],
] as const)('the name %j claims %j', (name, claims) => {
  expect(nameClaims(name)).toEqual(claims)
})

describe('contradiction', () => {
  const still = motion()
  const panLeft = motion({ camera: 'pan-left', panPerSecond: -0.3 })
  const crane = motion({
    camera: 'mixed',
    panPerSecond: 0.2,
    tiltPerSecond: 0.25,
    zoomPerSecond: 0.4,
  })
  it.each([
    ['orbit', still, 'nothing turns'],
    ['orbit', panLeft, 'nothing turns'],
    ['orbit', motion({ camera: 'orbit', parallax: 0.4 }), undefined],
    ['orbit', motion({ camera: 'mixed', parallax: 0.4 }), undefined],
    ['pan-left', panLeft, undefined],
    ['pan-right', panLeft, 'it pans left'],
    ['pan', panLeft, undefined],
    ['pan', still, 'nothing pans'],
    ['pan-left', motion({ camera: 'orbit', parallax: 0.4 }), undefined],
    ['static', panLeft, 'the camera moves'],
    ['static', motion({ camera: 'subject', subject: 0.3 }), undefined],
    ['zoom-in', crane, undefined],
    ['tilt-up', crane, undefined],
    ['pan-right', crane, undefined],
    ['zoom-out', crane, 'it moves in'],
    // A wobble of a tenth of the motion is no zoom.
    [
      'zoom-in',
      motion({ camera: 'pan-left', panPerSecond: -0.5, zoomPerSecond: 0.1 }),
      'nothing moves in',
    ],
    ['roll', motion({ camera: 'roll', rollPerSecond: -20 }), undefined],
  ] as const)('%s against %j: %j', (claim, measured, why) => {
    expect(contradiction(claim, measured)).toBe(why)
  })

  it('doubts no caption on an unsure measurement', () => {
    expect(contradiction('orbit', motion({ confidence: 0.3 }))).toBeUndefined()
  })

  it('never holds between a measured motion and the words made from it', () => {
    const speeds = [-0.6, -0.2, -0.05, 0, 0.05, 0.2, 0.6]
    const cameras = ['mixed', 'orbit', 'static', 'subject'] as const
    for (const camera of cameras) {
      for (const panPerSecond of speeds) {
        for (const tiltPerSecond of speeds) {
          for (const zoomPerSecond of speeds) {
            const measured = motion({
              camera,
              ...(camera === 'mixed' && { panPerSecond, tiltPerSecond, zoomPerSecond }),
            })
            for (const claim of captionClaims(describeMotion(measured)!)) {
              expect([claim, contradiction(claim, measured)]).toEqual([claim, undefined])
            }
          }
        }
      }
    }
  })
})
