import { describe, expect, it } from 'vitest'
import { readMetrics } from './run-metrics.ts'

const step = {
  type: 'step',
  step: 1,
  expert: 'high',
  expertStep: 1,
  loss: 0.5,
  gradNorm: 1,
  learningRate: 1e-4,
  timesteps: [950],
  lossScale: 1,
  seconds: { total: 1, load: 0.5 },
  memory: { liveMiB: 1, peakMiB: 2 },
}
const lines = (...values: unknown[]): string =>
  values.map((value) => `${JSON.stringify(value)}\n`).join('')
const read = (text: string) => readMetrics(text, { fileName: 'metrics.jsonl' })

describe('readMetrics', () => {
  it('reads every kind of entry and keeps keys that it does not know', () => {
    const entries = [
      { type: 'run', step: 0, totalSteps: 10, adapter: 'x' },
      { ...step, shape: [1, 16, 3, 8, 8] },
      {
        type: 'validation',
        step: 1,
        experts: { low: { loss: 0.25, bands: [{ from: 0, to: 450, loss: 0.25 }] } },
      },
      { type: 'preview', step: 1, files: [{ file: 'samples/0.mp4', change: 3 }] },
      { type: 'save', step: 1, files: ['a'] },
      { type: 'error', step: 2, code: 'TRAINER_NOT_FINITE', message: 'Step 2 is not finite.' },
    ]
    expect(read(lines(...entries))).toEqual(entries)
  })

  it('reads null, which JSON makes of NaN, as NaN', () => {
    expect(read(lines({ ...step, loss: Number.NaN }))[0]).toMatchObject({ loss: Number.NaN })
  })

  it('leaves out kinds of later versions, empty lines, and a last line cut off', () => {
    const text = `${lines(step, { type: 'weather', step: 1 })}\n{"type":"step","st`
    expect(read(text)).toEqual([step])
  })

  it('names the line that is wrong', () => {
    expect(() => read(`${lines(step)}not json\n`)).toThrow(
      expect.objectContaining({
        code: 'CONFIG_BAD_METRICS',
        message: 'metrics.jsonl:2 is not JSON.',
      }),
    )
    expect(() => read(lines({ ...step, step: -1 }))).toThrow(/metrics\.jsonl:1 has a wrong step/)
  })
})
