import { isAlias, isMap, isPair, isScalar, isSeq, type Document, type Node } from 'yaml'

/** Offset of a key or its value in the parsed text; of the nearest thing around it where it is not written there. */
export function locateNode(
  document: Document,
  path: readonly PropertyKey[],
  of: 'key' | 'value',
): number {
  let node = document.contents as Node | null
  let offset = node?.range?.[0] ?? 0
  for (const [depth, key] of path.entries()) {
    if (isAlias(node)) node = node.resolve(document) ?? null
    const last = depth === path.length - 1
    if (isMap(node)) {
      const pair = node.items.find(
        (item) => isPair(item) && isScalar(item.key) && item.key.value === key,
      )
      if (pair === undefined) return offset
      const keyNode = pair.key as Node
      const valueNode = pair.value as Node | null
      const keyOffset = keyNode.range?.[0] ?? offset
      if (last && of === 'key') return keyOffset
      offset = valueNode?.range?.[0] ?? keyOffset
      // A block mapping begins at its first key; its own key says better where it is.
      if (last && (isMap(valueNode) || isSeq(valueNode))) return keyOffset
      node = valueNode
    } else if (isSeq(node)) {
      const item = node.items[Number(key)] as Node | undefined
      if (item === undefined) return offset
      offset = item.range?.[0] ?? offset
      node = item
    } else return offset
  }
  return offset
}
