import type { AnswerProblem } from './errors.ts'
import { tidy } from './compose-caption.ts'

export interface AnswerRules {
  /** Instruction that was sent; an answer that repeats it is no caption. */
  prompt: string
  /** Words asked for at most. An answer may have twice as many, as models count badly. */
  maxWords: number
  script: 'latin' | 'any'
}

/** Words in a row that an answer may share with the instruction: shorter runs are common English. */
const echoWords = 10

/** An answer made ready as a caption, or what is wrong with it. */
export type CheckedAnswer = { text: string } | { problem: AnswerProblem; detail: string }

/**
 * Strips what models put around a caption (thinking, code fences, markdown, quotation marks, `Caption:`), and refuses what
 * is none. Nothing is cut: a caption cut off in a sentence teaches worse than none.
 */
export function checkAnswer(answer: string, rules: AnswerRules): CheckedAnswer {
  const text = stripWrapping(answer)
  const bad = (problem: AnswerProblem, detail: string): CheckedAnswer => ({ problem, detail })
  if (text === '') return bad('empty', 'The answer has no text.')
  if (/^\s*<(!doctype|html|head|body|\?xml)/i.test(text) || /<\/(html|body|div|p)>/i.test(text)) {
    return bad('html', `The answer is a web page: ${excerpt(text)}`)
  }
  if (isRefusal(text)) return bad('refusal', `The model refused: ${excerpt(text)}`)
  const letters = text.match(/\p{L}/gu) ?? []
  if (letters.length < 3) return bad('garbage', `The answer has no words: ${excerpt(text)}`)
  const foreign = letters.filter((letter) => !/\p{Script=Latin}/u.test(letter)).length
  if (rules.script === 'latin' && foreign > letters.length * 0.2) {
    return bad('other-script', `The answer is mostly in other letters: ${excerpt(text)}`)
  }
  const words = wordsOf(text)
  const garbage = garbageIn(text, words)
  if (garbage !== undefined) return bad('garbage', `${garbage}: ${excerpt(text)}`)
  if (echoes(words, wordsOf(rules.prompt))) {
    return bad('prompt-echo', `The answer repeats the instruction: ${excerpt(text)}`)
  }
  if (words.length > rules.maxWords * 2) {
    return bad(
      'too-long',
      `The answer has ${words.length} words; ${rules.maxWords} were asked for.`,
    )
  }
  return { text }
}

function stripWrapping(answer: string): string {
  let text = answer
    // An opening tag may be missing: some templates put it in the prompt.
    .replace(/^[\s\S]*<\/think(ing)?>/i, '')
    .replace(/<think(ing)?>[\s\S]*$/i, '')
    .replace(/^\s*```\w*\n([\s\S]*?)\n?```\s*$/, '$1')
    .replace(/\*\*|__|^#+\s+/gm, '')
  text = tidy(text)
  text = text.replace(
    /^(here (is|'s) (a|the|your) .{0,40}?:|(sure|certainly|of course)[^:]{0,60}:|(the )?(video )?(caption|description)\s*:)\s*/i,
    '',
  )
  const quoted = /^(["'“‘«])(.*)(["'”’»])$/.exec(text)
  if (quoted && !quoted[2]!.includes(quoted[1]!)) text = quoted[2]!
  return text.trim()
}

function isRefusal(text: string): boolean {
  const start = text.slice(0, 160).replaceAll('’', "'")
  return (
    /^(i'?m|i am|we'?re) (very )?(sorry|afraid|unable|not able)\b/i.test(start) ||
    /^(sorry|apologies|unfortunately)\b/i.test(start) ||
    /\bas an? (ai|language model|assistant)\b/i.test(start) ||
    /^(i|we) (can'?t|cannot|can not|won'?t|don'?t|do not|couldn'?t|could not|am unable)\b/i.test(
      start,
    ) ||
    /\b(content|usage|safety) policy\b/i.test(start) ||
    /^(no|the) (image|images|frames?|video) (was|were|is|are) (not )?(provided|attached|visible|given)/i.test(
      start,
    )
  )
}

function garbageIn(text: string, words: readonly string[]): string | undefined {
  if (/[\uFFFD\p{Cc}\p{Co}]/u.test(text)) return 'The answer has broken characters'
  if (/^[[{]/.test(text) && /[\]}]$/.test(text)) return 'The answer is data, not a sentence'
  if (words.some((word) => word.length > 40)) return 'The answer has a word of over 40 letters'
  // A loop: the same three words over and over, or few words at all.
  const triples = new Map<string, number>()
  for (let i = 0; i + 2 < words.length; i++) {
    const triple = words.slice(i, i + 3).join(' ')
    triples.set(triple, (triples.get(triple) ?? 0) + 1)
  }
  if (Math.max(0, ...triples.values()) >= 4) return 'The answer repeats itself'
  if (words.length >= 12 && new Set(words).size < words.length * 0.3) {
    return 'The answer repeats itself'
  }
  return undefined
}

function echoes(words: readonly string[], prompt: readonly string[]): boolean {
  const asked = ` ${prompt.join(' ')} `
  for (let i = 0; i + echoWords <= words.length; i++) {
    if (asked.includes(` ${words.slice(i, i + echoWords).join(' ')} `)) return true
  }
  return false
}

/** Lower-case words without punctuation. */
export function wordsOf(text: string): string[] {
  return text.toLowerCase().match(/[\p{L}\p{N}]+(?:['’][\p{L}]+)?/gu) ?? []
}

function excerpt(text: string): string {
  const line = tidy(text)
  return JSON.stringify(line.length > 80 ? `${line.slice(0, 80)}…` : line)
}
