/**
 * Runs an event generator to its end and returns its result.
 *
 * @param onEvent called with each event, in order
 */
export async function drain<Event, Result>(
  iterator: AsyncGenerator<Event, Result>,
  onEvent?: (event: Event) => void,
): Promise<Result> {
  for (;;) {
    const next = await iterator.next()
    if (next.done) return next.value
    onEvent?.(next.value)
  }
}
