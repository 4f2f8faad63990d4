import { expect, it } from 'vitest'

import { mergeAxes } from './strided-copy.ts'

it('axes that lie behind one another in both tensors become one', () => {
  expect(
    mergeAxes([
      { extent: 2, src: 12, dst: 12 },
      { extent: 3, src: 4, dst: 4 },
      { extent: 4, src: 1, dst: 1 },
    ]),
  ).toEqual([{ extent: 24, src: 1, dst: 1 }])
})

it('axes of extent 1 vanish, and axes that move apart stay', () => {
  expect(
    mergeAxes([
      { extent: 1, src: 99, dst: 7 },
      { extent: 3, src: 1, dst: 2 },
      { extent: 2, src: 3, dst: 1 },
    ]),
  ).toEqual([
    { extent: 3, src: 1, dst: 2 },
    { extent: 2, src: 3, dst: 1 },
  ])
})

it('a scalar is one element', () => {
  expect(mergeAxes([])).toEqual([{ extent: 1, src: 1, dst: 1 }])
})
