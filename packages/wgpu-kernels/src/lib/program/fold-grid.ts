/**
 * Folds a number of workgroups into two dimensions of at most `limit` each. The product passes `groups` by less than the
 * second extent, so a kernel only has to guard against a few idle workgroups. Undefined when even two dimensions are short.
 */
export function foldGrid(
  groups: number,
  limit: number,
): readonly [x: number, y: number] | undefined {
  const y = Math.max(1, Math.ceil(groups / limit))
  return y > limit ? undefined : [Math.ceil(groups / y), y]
}
