import { describe, expect, it } from 'vitest'
import { contactSheet } from './contact-sheet.ts'
import { psnr } from './psnr.ts'

const plain = (value: number) => ({
  width: 4,
  height: 2,
  data: new Uint8Array(4 * 2 * 3).fill(value),
})

describe('contactSheet', () => {
  it('shows the first and the last frame of each row, scaled up', () => {
    const frames = [10, 20, 30, 40, 50].map(plain)
    const block = { title: 'clip 1', rows: [{ label: 'before', frames }] }
    const sheet = contactSheet([block, block, block], { columns: 2, framesPerRow: 3, scale: 3 })
    expect(sheet.data).toHaveLength(sheet.width * sheet.height * 3)
    const count = (value: number): number => sheet.data.filter((sample) => sample === value).length
    for (const shown of [10, 30, 50]) expect(count(shown)).toBe(3 * 4 * 3 * 2 * 3 * 3)
    for (const left of [20, 40]) expect(count(left)).toBe(0)
  })
})

describe('psnr', () => {
  it('is 20 log10(255 / rms) over all frames together', () => {
    const a = [new Uint8Array([10, 20]), new Uint8Array([30, 40])]
    const b = [new Uint8Array([13, 20]), new Uint8Array([30, 44])]
    expect(psnr(a, b)).toBeCloseTo(20 * Math.log10(255 / Math.sqrt((9 + 16) / 4)), 10)
    expect(psnr(a, a)).toBe(Infinity)
    expect(() => psnr(a, [a[0]!])).toThrow('Cannot compare 2 frames with 1.')
  })
})
