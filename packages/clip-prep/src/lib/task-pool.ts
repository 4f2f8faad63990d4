/**
 * Runs `work` on every item, at most `limit` at once, and yields what the tasks say as they say it. The first failure stops
 * the others' starting, waits for those under way, and is thrown.
 */
export async function* runPool<Item, Said>(
  items: readonly Item[],
  limit: number,
  work: (item: Item, say: (said: Said) => void) => Promise<void>,
): AsyncGenerator<Said, void> {
  const queue: Said[] = []
  let wake: (() => void) | undefined
  const say = (said: Said) => {
    queue.push(said)
    wake?.()
  }
  let failed: { error: unknown } | undefined
  let next = 0
  let running = 0
  const start = () => {
    while (!failed && running < limit && next < items.length) {
      const item = items[next++]!
      running++
      work(item, say)
        .catch((error: unknown) => {
          failed ??= { error }
        })
        .finally(() => {
          running--
          start()
          wake?.()
        })
    }
  }
  try {
    start()
    for (;;) {
      while (queue.length > 0) yield queue.shift()!
      if (running === 0) break
      await new Promise<void>((resolve) => {
        wake = resolve
        if (queue.length > 0 || running === 0) resolve()
      })
      wake = undefined
    }
    if (failed) throw failed.error
  } finally {
    // A consumer that leaves early must not leave work behind it.
    failed ??= { error: undefined }
    while (running > 0) {
      await new Promise<void>((resolve) => {
        wake = resolve
      })
    }
  }
}
