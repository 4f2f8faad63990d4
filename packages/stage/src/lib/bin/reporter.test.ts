import { describe, expect, it } from 'vitest'
import { createReporter, formatSeconds } from './reporter.ts'

function reporterOf(isTTY: boolean) {
  let text = ''
  let at = 0
  const reporter = createReporter({
    stream: { isTTY, columns: 100, write: (more: string) => (text += more) },
    now: () => at,
    color: false,
  })
  return { reporter, wait: (ms: number) => (at += ms), text: () => text }
}

describe('createReporter', () => {
  it('prints one line an event when the output is no terminal', () => {
    const { reporter, wait, text } = reporterOf(false)
    reporter.report({ type: 'started', phase: 'train', total: 80 })
    wait(2000)
    reporter.report({
      type: 'progress',
      phase: 'train',
      done: 1,
      total: 80,
      values: { loss: 0.1234567 },
    })
    reporter.report({
      type: 'skipped',
      item: 'a.mp4',
      reason: 'unreadable',
      detail: 'no moov atom',
    })
    reporter.report({ type: 'warning', code: 'X_SLOW', message: 'It is slow.', fix: 'Wait.' })
    reporter.report({
      type: 'finding',
      severity: 'error',
      code: 'X_NONE',
      message: 'There is none.',
      fix: 'Make one.',
    })
    reporter.report({ type: 'note', message: 'Adapter: llvmpipe.' })
    reporter.report({ type: 'saved', file: 'a.safetensors' })
    expect(reporter.end()).toBe('train 1/80')
    expect(text().split('\n')).toEqual([
      'train: started, 80 to do',
      'train: 1/80  loss 0.1235  ETA 2 min 38 s',
      'skipped a.mp4: unreadable (no moov atom)',
      'warning X_SLOW: It is slow. Wait.',
      'error X_NONE: There is none. Make one.',
      'Adapter: llvmpipe.',
      'saved file="a.safetensors"',
      '',
    ])
  })

  it('draws a bar with an ETA on a terminal and leaves one line a phase behind', () => {
    const { reporter, wait, text } = reporterOf(true)
    reporter.report({ type: 'started', phase: 'cut', total: 4 })
    wait(1000)
    reporter.report({ type: 'progress', phase: 'cut', done: 1, total: 4, item: 'a.mp4' })
    expect(text()).toContain('█')
    expect(text()).toContain('1/4  ETA 3.0 s  a.mp4')
    wait(3000)
    reporter.report({ type: 'progress', phase: 'cut', done: 4, total: 4, item: 'd.mp4' })
    reporter.end()
    expect(text().endsWith('✓ cut 4/4 in 4.0 s\n')).toBe(true)
  })

  it('takes the pace of a resumed phase from what this run did', () => {
    const { reporter, wait, text } = reporterOf(false)
    reporter.report({ type: 'started', phase: 'train', total: 100 })
    wait(1000)
    reporter.report({ type: 'progress', phase: 'train', done: 90, total: 100 })
    wait(1000)
    reporter.report({ type: 'progress', phase: 'train', done: 91, total: 100 })
    reporter.end()
    expect(text()).toContain('train: 91/100  ETA 9.0 s')
  })
})

describe('formatSeconds', () => {
  it.each([
    [0.44, '0.4 s'],
    [59.4, '59 s'],
    [59.6, '1 min 00 s'],
    [185, '3 min 05 s'],
    [7620, '2 h 07 min'],
  ])('%d is %s', (seconds, text) => {
    expect(formatSeconds(seconds)).toBe(text)
  })
})
