/**
 * Runs `work` over the items, up to `concurrency` at once, and yields results as they are ready. The first error ends it:
 * the signal given to the others is aborted, they are waited for, and the error is thrown. Leaving the loop early does the
 * same.
 */
export async function* inParallel<Item, Result>(
  items: readonly Item[],
  concurrency: number,
  work: (item: Item, signal: AbortSignal) => Promise<Result>,
  outer: AbortSignal | undefined,
): AsyncGenerator<Result, void> {
  const inner = new AbortController()
  const signal = outer ? AbortSignal.any([outer, inner.signal]) : inner.signal
  const running = new Map<number, Promise<{ key: number; result: Result }>>()
  let next = 0
  try {
    for (;;) {
      signal.throwIfAborted()
      while (next < items.length && running.size < concurrency) {
        const key = next++
        running.set(
          key,
          work(items[key]!, signal).then((result) => ({ key, result })),
        )
      }
      if (running.size === 0) return
      const { key, result } = await Promise.race(running.values())
      running.delete(key)
      yield result
    }
  } finally {
    inner.abort(new DOMException('Another part of the run ended it.', 'AbortError'))
    await Promise.allSettled(running.values())
  }
}
