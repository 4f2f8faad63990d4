/** Edits (insert, delete, replace, swap of neighbours) that lead from one word to the other. */
function editDistance(from: string, to: string): number {
  let before: number[] = []
  let previous = Array.from({ length: to.length + 1 }, (_, index) => index)
  for (let row = 1; row <= from.length; row++) {
    const current = [row]
    for (let column = 1; column <= to.length; column++) {
      const same = from[row - 1] === to[column - 1]
      let best = Math.min(
        previous[column]! + 1,
        current[column - 1]! + 1,
        previous[column - 1]! + (same ? 0 : 1),
      )
      if (
        row > 1 &&
        column > 1 &&
        from[row - 1] === to[column - 2] &&
        from[row - 2] === to[column - 1]
      ) {
        best = Math.min(best, before[column - 2]! + 1)
      }
      current.push(best)
    }
    before = previous
    previous = current
  }
  return previous[to.length]!
}

/** The known word that was probably meant, or undefined where none is near (a third of its letters, or a part of it). */
export function suggest(word: string, known: Iterable<string>): string | undefined {
  const plain = (text: string) => text.toLowerCase().replaceAll(/[-\s]/g, '_')
  let best: string | undefined
  let least = Infinity
  for (const candidate of known) {
    const contained =
      word.length > 3 &&
      (plain(candidate).includes(plain(word)) || plain(word).includes(plain(candidate)))
    const distance = editDistance(plain(word), plain(candidate))
    const limit = Math.max(1, Math.floor(Math.max(word.length, candidate.length) / 3))
    const score = distance <= limit ? distance : contained ? limit + 1 : Infinity
    if (score < least) {
      least = score
      best = candidate
    }
  }
  return best
}
