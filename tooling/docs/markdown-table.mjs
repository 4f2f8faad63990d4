/** A Markdown table with its columns aligned, as the formatter leaves it. */
export function markdownTable(head, rows) {
  const widths = head.map((text, column) =>
    Math.max(text.length, ...rows.map((row) => row[column].length)),
  )
  const line = (cells) => `| ${cells.map((cell, i) => cell.padEnd(widths[i])).join(' | ')} |`
  return [
    line(head),
    `| ${widths.map((width) => '-'.repeat(width)).join(' | ')} |`,
    ...rows.map(line),
  ].join('\n')
}
