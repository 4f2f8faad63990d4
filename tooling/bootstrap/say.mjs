// How the set-up speaks: plain lines, and a bar with an ETA on a terminal.

export class SetupError extends Error {
  constructor(code, message, fix, options) {
    super(message, options)
    this.code = code
    this.fix = fix
  }
}

export function say(text) {
  console.error(text)
}

export function formatSeconds(seconds) {
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`
  const whole = Math.round(seconds)
  return whole < 60
    ? `${whole} s`
    : `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, '0')} s`
}

/**
 * A step whose share done is known. `set(share, item)` moves the bar, `end(text)` leaves one line. Without a terminal only
 * the first and the last line are printed.
 */
export function startProgress(title) {
  const startedAt = performance.now()
  const tty = process.stderr.isTTY
  let share = 0
  let item = ''
  const seconds = () => (performance.now() - startedAt) / 1000
  const draw = () => {
    const width = 24
    const filled = Math.round(share * width)
    const eta =
      share > 0.02
        ? `ETA ${formatSeconds((seconds() / share) * (1 - share))}`
        : formatSeconds(seconds())
    const tail = `${Math.round(share * 100)} %  ${eta}  ${item}`
    const room = Math.max(10, (process.stderr.columns ?? 80) - title.length - width - 4)
    process.stderr.write(
      `\r\u001B[2K${title} ${'█'.repeat(filled)}${'░'.repeat(width - filled)} ${tail.slice(0, room)}`,
    )
  }
  const timer = tty ? setInterval(draw, 250) : undefined
  if (tty) draw()
  else say(`${title} …`)
  return {
    set(newShare, newItem = '') {
      share = Math.min(1, Math.max(share, newShare))
      item = newItem
    },
    end(failed = false) {
      clearInterval(timer)
      if (tty) process.stderr.write('\r\u001B[2K')
      say(`${title}: ${failed ? 'failed' : 'done'} in ${formatSeconds(seconds())}`)
    },
  }
}
