import { wordsOf } from '../check-answer.ts'

/**
 * Groups of captions that say nearly the same: those whose sets of words have at least `threshold` in common (of all words
 * of both), and whatever is linked through such pairs.
 *
 * @param captions by file
 * @param ignore words that do not count, such as the trigger
 * @returns files of each group of two or more, in the order given
 */
export function nearIdentical(
  captions: ReadonlyMap<string, string>,
  threshold: number,
  ignore: readonly string[] = [],
): string[][] {
  const ignored = new Set(ignore.flatMap(wordsOf))
  // Captions from a template are the same by the hundred: each wording is compared once.
  const wordings = new Map<string, { files: string[]; words: ReadonlySet<string> }>()
  for (const [file, caption] of captions) {
    const words = new Set(wordsOf(caption).filter((word) => !ignored.has(word)))
    if (words.size === 0) continue
    const key = [...words].toSorted().join(' ')
    const wording = wordings.get(key) ?? { files: [], words }
    wording.files.push(file)
    wordings.set(key, wording)
  }
  const list = [...wordings.values()]
  const parent = list.map((_, index) => index)
  const rootOf = (index: number): number => {
    let at = index
    while (parent[at] !== at) at = parent[at] = parent[parent[at]!]!
    return at
  }
  for (let i = 0; i < list.length; i++) {
    for (let j = i + 1; j < list.length; j++) {
      if (share(list[i]!.words, list[j]!.words, threshold) >= threshold)
        parent[rootOf(j)] = rootOf(i)
    }
  }
  const groups = new Map<number, string[]>()
  list.forEach(({ files }, index) => {
    const root = rootOf(index)
    groups.set(root, [...(groups.get(root) ?? []), ...files])
  })
  const order = [...captions.keys()]
  const place = new Map(order.map((file, index) => [file, index]))
  return [...groups.values()]
    .filter((files) => files.length > 1)
    .map((files) => files.toSorted((a, b) => place.get(a)! - place.get(b)!))
}

/** Words in common, of all words of both; 0 at once where the sizes alone rule the threshold out. */
function share(a: ReadonlySet<string>, b: ReadonlySet<string>, threshold: number): number {
  const [small, large] = a.size < b.size ? [a, b] : [b, a]
  if (small.size < threshold * large.size) return 0
  let common = 0
  for (const word of small) if (large.has(word)) common++
  return common / (a.size + b.size - common)
}
