import { styleText } from 'node:util'
import type { StageEvent } from '../stage-event.ts'

/** Where a reporter writes: a terminal gets a bar, anything else one line an event. */
export interface ReporterStream {
  write(text: string): unknown
  isTTY?: boolean
  columns?: number
}

/** How a reporter is made. */
export interface ReporterOptions {
  stream: ReporterStream
  /** Milliseconds, rising. */
  now?: () => number
  /** Colours; by default on a terminal unless NO_COLOR is set. */
  color?: boolean
}

/** Shows a run's events to a human. */
export interface Reporter {
  /** Shows one event. Events beyond the common ones are shown by their `message`, or as `key=value`. */
  report(event: unknown): void
  /** Prints a line without disturbing the bar. */
  line(text: string): void
  /** Closes the bar. Returns what the last phase had done, such as `train 34/80`. */
  end(): string | undefined
}

interface Phase {
  name: string
  startedAt: number
  done: number
  total: number | undefined
  item: string | undefined
  values: Record<string, number> | undefined
  /** Recent (time, done) pairs: the pace of the last events, so that a resumed phase has a right ETA. */
  recent: { at: number; done: number }[]
}

const redrawMs = 100
const recentEvents = 32

/** Draws events for a human. */
export function createReporter({ stream, now = Date.now, color }: ReporterOptions): Reporter {
  const tty = stream.isTTY === true
  const colored = color ?? (tty && !process.env['NO_COLOR'])
  const paint = (style: 'red' | 'yellow' | 'green' | 'cyan' | 'dim', text: string): string =>
    colored ? styleText(style, text) : text

  let phase: Phase | undefined
  let barShown = false
  let drawnAt = -Infinity
  let timer: NodeJS.Timeout | undefined

  function clearBar(): void {
    if (!barShown) return
    stream.write('\r\u001B[2K')
    barShown = false
  }

  function draw(): void {
    if (!phase || !tty) return
    drawnAt = now()
    stream.write(`\r\u001B[2K${barText(phase, drawnAt, stream.columns ?? 80, paint)}`)
    barShown = true
  }

  function line(text: string): void {
    clearBar()
    stream.write(`${text}\n`)
  }

  function closePhase(): string | undefined {
    clearInterval(timer)
    timer = undefined
    if (!phase) return undefined
    const { name, done, total, startedAt } = phase
    const numDone = formatCount(done)
    const count = total === undefined ? (done > 0 ? ` ${numDone}` : '') : ` ${numDone}/${total}`
    if (tty) {
      const complete = total === undefined || done >= total
      const mark = complete ? paint('green', '✓') : paint('yellow', '·')
      line(
        `${mark} ${name}${count} ${paint('dim', `in ${formatSeconds((now() - startedAt) / 1000)}`)}`,
      )
    }
    phase = undefined
    return `${name}${count}`
  }

  function openPhase(name: string, total: number | undefined): void {
    closePhase()
    const startedAt = now()
    phase = {
      name,
      startedAt,
      total,
      done: 0,
      item: undefined,
      values: undefined,
      recent: [{ at: startedAt, done: 0 }],
    }
    if (tty) {
      draw()
      // Steps can take longer than a glance: the clock moves on between events.
      timer = setInterval(draw, 500)
      timer.unref()
    } else {
      line(`${name}: started${total === undefined ? '' : `, ${total} to do`}`)
    }
  }

  function progress(event: Extract<StageEvent, { type: 'progress' }>): void {
    if (phase?.name !== event.phase) openPhase(event.phase, event.total)
    const current = phase!
    const at = now()
    // A phase that resumes begins with work already done, which says nothing about the pace.
    if (current.done === 0 && event.done > 1) current.recent = []
    current.recent.push({ at, done: event.done })
    if (current.recent.length > recentEvents) current.recent.shift()
    current.done = event.done
    current.total = event.total ?? current.total
    current.item = event.item
    current.values = event.values
    if (tty) {
      if (at - drawnAt >= redrawMs) draw()
    } else {
      line(progressLine(current, at))
    }
  }

  function report(event: unknown): void {
    const known = event as StageEvent
    switch (known.type) {
      case 'started':
        return openPhase(known.phase, known.total)
      case 'progress':
        return progress(known)
      case 'skipped':
        return line(
          `${paint('yellow', 'skipped')} ${known.item}: ${known.reason}${known.detail ? ` (${known.detail})` : ''}`,
        )
      case 'warning':
        return line(`${paint('yellow', 'warning')} ${known.code}: ${known.message} ${known.fix}`)
      case 'finding':
        return line(
          `${paint(known.severity === 'error' ? 'red' : 'yellow', known.severity)} ${known.code}: ${known.message} ${known.fix}`,
        )
      case 'note':
        return line(known.message)
      default:
        return other(known as { type?: unknown; message?: unknown })
    }
  }

  function other(event: { type?: unknown; message?: unknown }): void {
    if (typeof event.message === 'string') return line(event.message)
    if (tty) return
    const { type, ...rest } = event
    const fields = Object.entries(rest).map(([key, value]) => `${key}=${JSON.stringify(value)}`)
    line([String(type), ...fields].join(' '))
  }

  return { report, line, end: closePhase }
}

function barText(
  phase: Phase,
  at: number,
  columns: number,
  paint: (style: 'cyan' | 'dim', text: string) => string,
): string {
  const { name, done, total, item } = phase
  const values = formatValues(phase.values)
  const elapsed = formatSeconds((at - phase.startedAt) / 1000)
  if (total === undefined || total === 0) {
    return clip([name, done > 0 ? formatCount(done) : '', elapsed, item ?? ''], columns)
  }
  const left = secondsLeft(phase, at)
  const share = Math.min(1, done / total)
  const barWidth = Math.max(8, Math.min(28, Math.floor(columns / 4)))
  const filled = Math.round(share * barWidth)
  const bar = paint('cyan', '█'.repeat(filled)) + paint('dim', '░'.repeat(barWidth - filled))
  const tail = [
    `${formatCount(done)}/${total}`,
    left === undefined ? elapsed : `ETA ${formatSeconds(left)}`,
    values,
    item ?? '',
  ]
  return `${name} ${bar} ${clip(tail, columns - name.length - barWidth - 3)}`
}

function clip(parts: readonly string[], columns: number): string {
  const text = parts.filter((part) => part !== '').join('  ')
  return text.length < columns ? text : `${text.slice(0, Math.max(0, columns - 2))}…`
}

function progressLine(phase: Phase, at: number): string {
  const left = secondsLeft(phase, at)
  return [
    `${phase.name}: ${formatCount(phase.done)}${phase.total === undefined ? '' : `/${phase.total}`}`,
    phase.item ?? '',
    formatValues(phase.values),
    left === undefined || left === 0 ? '' : `ETA ${formatSeconds(left)}`,
  ]
    .filter((part) => part !== '')
    .join('  ')
}

function secondsLeft({ recent, done, total }: Phase, at: number): number | undefined {
  const first = recent[0]
  const last = recent.at(-1)
  if (!first || !last || total === undefined || last.done <= first.done) return undefined
  const msPerItem = (last.at - first.at) / (last.done - first.done)
  return Math.max(0, (msPerItem * (total - done) - (at - last.at)) / 1000)
}

/** Parts of an item count too: a file that is half read. */
function formatCount(done: number): string {
  return Number.isInteger(done) ? String(done) : done.toFixed(1)
}

function formatValues(values: Record<string, number> | undefined): string {
  if (!values) return ''
  return Object.entries(values)
    .map(([name, value]) => `${name} ${Number.isInteger(value) ? value : value.toPrecision(4)}`)
    .join('  ')
}

/** `0.4 s`, `12 s`, `3 min 05 s`, `2 h 07 min`. */
export function formatSeconds(seconds: number): string {
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`
  const whole = Math.round(seconds)
  if (whole < 60) return `${whole} s`
  const pad = (value: number): string => String(value).padStart(2, '0')
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${pad(whole % 60)} s`
  return `${Math.floor(whole / 3600)} h ${pad(Math.floor((whole % 3600) / 60))} min`
}
