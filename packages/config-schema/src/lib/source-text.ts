import { Lexer } from 'yaml'

// A job file before it is parsed: comments of JSON blanked out and `${VAR}` replaced, with every place still traceable to
// the text as the user has it.

/** A place in the user's file, both counted from 1. */
export interface Position {
  line: number
  column: number
}

/** The text to parse, and how to get from an offset in it to a place in the file. */
export interface SourceText {
  text: string
  position: (offset: number) => Position
  /** Variables that are not set, with the offset of each in the file. */
  unset: { name: string; position: Position }[]
}

const variable = /\$\{([A-Za-z_][A-Za-z0-9_]*)\}/g

/**
 * Replaces `${VAR}` by `env[VAR]` everywhere but in comments, and blanks out the comments of JSON.
 *
 * @param original the file as read
 * @param json true to accept `//` and block comments, as AI Toolkit's importer does
 */
export function prepareSource(
  original: string,
  json: boolean,
  env: Readonly<Record<string, string | undefined>>,
): SourceText {
  const source = json ? blankJsonComments(original) : original
  const comments = json ? [] : yamlComments(source)
  const lineStarts = [0]
  for (let index = source.indexOf('\n'); index >= 0; index = source.indexOf('\n', index + 1)) {
    lineStarts.push(index + 1)
  }
  const positionInFile = (offset: number): Position => {
    let low = 0
    let high = lineStarts.length - 1
    while (low < high) {
      const middle = Math.ceil((low + high) / 2)
      if (lineStarts[middle]! <= offset) low = middle
      else high = middle - 1
    }
    return { line: low + 1, column: offset - lineStarts[low]! + 1 }
  }

  const unset: SourceText['unset'] = []
  /** Where a replacement ends in the new text, and how far the file runs ahead of it from there on. */
  const shifts: { start: number; end: number; fileStart: number; fileEnd: number }[] = []
  let text = ''
  let done = 0
  for (const match of source.matchAll(variable)) {
    const name = match[1]!
    if (comments.some(([start, end]) => match.index >= start && match.index < end)) continue
    const value = env[name]
    if (value === undefined) {
      unset.push({ name, position: positionInFile(match.index) })
      continue
    }
    text += source.slice(done, match.index)
    const fileEnd = match.index + match[0].length
    shifts.push({
      start: text.length,
      end: text.length + value.length,
      fileStart: match.index,
      fileEnd,
    })
    text += value
    done = fileEnd
  }
  text += source.slice(done)

  const position = (offset: number): Position => {
    const shift = shifts.findLast(({ start }) => start <= offset)
    if (shift === undefined) return positionInFile(offset)
    return positionInFile(
      offset < shift.end ? shift.fileStart : shift.fileEnd + (offset - shift.end),
    )
  }
  return { text, position, unset }
}

/** Spaces in place of comments and of tabs (which YAML does not take), outside strings; line breaks stay. */
function blankJsonComments(text: string): string {
  return text.replaceAll(/"(?:[^"\\\n]|\\.)*"|\/\/[^\n]*|\/\*[^]*?\*\/|\t/g, (piece) =>
    piece.startsWith('"') ? piece : piece.replaceAll(/[^\n]/g, ' '),
  )
}

/** Ranges [start, end) of the comments of a YAML text. */
function yamlComments(text: string): [number, number][] {
  const comments: [number, number][] = []
  let offset = 0
  for (const token of new Lexer().lex(text)) {
    // The lexer marks documents, scalars and the end of flow collections with control characters that are not in the text.
    if (token === '\u0002' || token === '\u001f' || token === '\u0018') continue
    if (token.startsWith('#')) comments.push([offset, offset + token.length])
    offset += token.length
  }
  return comments
}
