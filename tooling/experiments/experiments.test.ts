import { readFile, stat } from 'node:fs/promises'
import { describe, expect, it } from 'vitest'
import {
  classify,
  classKept,
  colourDistance,
  colourStatistics,
  drift,
  summarise,
} from './measures.mjs'
import { experimentsPage, experimentsTable } from './page.mjs'
import { experiments, previewSets, runs } from './plan.mjs'

const docs = new URL('../../docs/', import.meta.url)

/** A clip of 2 × 1 pixels: the frame that is given, and one whose pixels are these. */
const clip = (...pixels: [number, number, number][]) => [
  { width: 2, height: 1, data: new Uint8Array(6) },
  { width: 2, height: 1, data: Uint8Array.from(pixels.flat()) },
]
const red: [number, number, number] = [200, 0, 0]
const green: [number, number, number] = [0, 200, 0]
const gray: [number, number, number] = [128, 128, 128]

describe('the measures', () => {
  it('mean with the error of a mean', () => {
    expect(summarise([1, 2, 3])).toEqual({ mean: 2, error: Math.sqrt(1 / 3) })
    expect(summarise([4])).toEqual({ mean: 4, error: 0 })
  })

  it('leave out the first frame, which is given', () => {
    const other = clip(red, green)
    other[0] = { width: 2, height: 1, data: new Uint8Array(6).fill(255) }
    expect(drift(clip(red, green), other)).toBe(0)
    expect(colourStatistics([other])).toEqual(colourStatistics([clip(red, green)]))
  })

  it('drift by the root mean square', () => {
    expect(drift(clip(red, gray), clip([200, 30, 0], gray))).toBeCloseTo(Math.sqrt(900 / 6), 12)
  })

  it('tell colour statistics apart by means and deviations', () => {
    const even = colourStatistics([clip(gray, gray)])
    expect(even).toEqual({ mean: [128, 128, 128], deviation: [0, 0, 0] })
    const spread = colourStatistics([clip([118, 128, 128], [138, 128, 128])])
    expect(spread).toEqual({ mean: [128, 128, 128], deviation: [10, 0, 0] })
    expect(colourDistance(even, spread)).toBe(10)
    expect(colourDistance(even, colourStatistics([clip([131, 132, 128], [131, 132, 128])]))).toBe(5)
  })

  it('count a pixel as the nearest colour in reach', () => {
    expect([...classify(clip([190, 10, 0], gray)[1]!, [red, green])]).toEqual([0, -1])
    expect([...classify(clip(green, [20, 180, 30])[1]!, [red, green])]).toEqual([1, 1])
  })

  it('tell colours that are kept from such that are kept in place', () => {
    const truth = clip(red, green)
    expect(classKept(truth, truth, [red, green])).toEqual({ area: 1, overlap: 1 })
    expect(classKept(clip(green, red), truth, [red, green])).toEqual({ area: 1, overlap: 0 })
    expect(classKept(clip(red, red), truth, [red, green])).toEqual({ area: 0.25, overlap: 0.25 })
    // What the true clip does not show does not count.
    expect(classKept(clip(red, green), clip(red, gray), [red, green])).toEqual({
      area: 1,
      overlap: 1,
    })
  })
})

describe('the plan', () => {
  it('compares previews that there are, of LoRAs that are trained', () => {
    for (const name of Object.values(experiments).flat()) expect(previewSets).toHaveProperty([name])
    const trained = Object.values(previewSets).flatMap(({ lora }) => (lora === null ? [] : [lora]))
    expect([...new Set(trained)].toSorted()).toEqual(Object.keys(runs).toSorted())
    const compared = new Set(Object.values(experiments).flat())
    expect([...compared].toSorted()).toEqual(Object.keys(previewSets).toSorted())
  })
})

describe('docs/experiments.md', () => {
  const results = async () =>
    JSON.parse(await readFile(new URL('experiments.json', docs), 'utf8')) as Parameters<
      typeof experimentsPage
    >[0]

  it('says what was measured', async () => {
    const page = await readFile(new URL('experiments.md', docs), 'utf8')
    expect(page).toBe(experimentsPage(await results()))
    expect(page).not.toMatch(/NaN|undefined|Infinity/)
  })

  it('shows pictures that there are, small ones', async () => {
    const page = await readFile(new URL('experiments.md', docs), 'utf8')
    const pictures = [...page.matchAll(/!\[[^\]]+\]\(([^)]+)\)/g)].map(([, path]) => path!)
    expect(pictures).toHaveLength(5)
    let bytes = 0
    for (const path of pictures) bytes += (await stat(new URL(path, docs))).size
    expect(bytes).toBeLessThan(300 * 1024)
  })

  it('calls a difference one where it is twice its error, and a bad one bad', async () => {
    const base = await results()
    const verdictOf = (difference: number, error: number): string => {
      const motion = { ...base.measured.motion }
      motion.psnr = { ...motion.psnr, difference, error }
      const table: string = experimentsTable({ ...base, measured: { motion } })
      return table.split('\n')[2]!.split('|').at(-2)!.trim()
    }
    expect([verdictOf(1, 0.4), verdictOf(-1, 0.4), verdictOf(1, 0.6)]).toEqual([
      'better',
      'worse',
      'not told apart',
    ])
  })
})
