import { hasWord, tidy } from '../compose-caption.ts'
import type { LintSettings } from '../options.ts'
import type { DatasetClip } from '../read-dataset.ts'
import type { LintFinding, LintRule, LintSeverity } from './finding.ts'
import type { CaptionTokenizer } from './load-tokenizer.ts'
import { lookWords } from './look-words.ts'
import { captionClaims, contradiction, nameClaims, type MotionClaim } from './motion-words.ts'

/** A caption and all that its rules look at. */
export interface LintSubject {
  clip: DatasetClip
  /** The caption file, relative to the dataset’s folder. */
  file: string
  /** Null where there is no file. */
  text: string | null
  hasDraft: boolean
  flips: { x: boolean; y: boolean }
}

type LintOptions = Pick<LintSettings, 'goal' | 'trigger' | 'textLength' | 'allow'>

/** Words a model reads as about one and a third tokens each; only a rough length is known without the tokenizer. */
const tokensPerWord = 4 / 3

/** All that is wrong with one caption by itself. Pure. */
export function lintCaption(
  subject: LintSubject,
  options: LintOptions,
  tokenizer?: CaptionTokenizer,
): LintFinding[] {
  const { file, text } = subject
  const findings: LintFinding[] = []
  const add = (
    rule: LintRule,
    severity: LintSeverity,
    message: string,
    fix: string,
    fixable: 'no' | 'yes' = 'no',
  ): void => void findings.push({ rule, severity, file, message, fix, fixable })

  if (text === null) {
    const fix = subject.hasDraft
      ? 'A draft is there: look at it and run captioner accept.'
      : 'Write one, or run captioner caption.'
    add('missing-caption', 'error', 'There is no caption.', fix)
    return findings
  }
  if (tidy(text) === '') {
    add('empty', 'error', 'The caption is blank.', 'Write one, or run captioner caption.')
    return findings
  }
  if (tidy(text) !== text.replace(/\r?\n$/, '')) {
    const message = 'The caption has stray blank space.'
    add('untidy', 'info', message, 'Run captioner lint --fix.', 'yes')
  }
  lintTrigger(text, options.trigger, add)
  lintPlaceholders(text, add)

  const allowed = new Set(options.allow.map((word) => word.toLowerCase()))
  if (options.goal === 'motion') {
    const looks = lookWords(text).filter((word) => !allowed.has(word))
    if (looks.length > 0) {
      const message = `The caption describes the look: ${looks.join(', ')}.`
      const fix = 'Take it out, or the motion is tied to that look.'
      add('look-in-motion-caption', 'warning', message, fix)
    }
  }
  lintMotion(subject, text, allowed, add)
  lintFlips(subject, text, add)
  lintTokens(text, options.textLength, tokenizer, add)
  return findings
}

/**
 * A caption with what is safe to mend mended: blank space, and a trigger that is missing as a word put in front. The text
 * itself where nothing is to do.
 */
export function fixCaption(text: string, trigger: string | undefined): string {
  const fixed = tidy(text)
  if (fixed === '' || trigger === undefined) return fixed
  return hasWord(fixed, trigger) || hasPlaceholder(fixed) ? fixed : `${trigger}, ${fixed}`
}

function hasPlaceholder(text: string): boolean {
  return /\[(trigger|name)\]/.test(text)
}

type Add = (
  rule: LintRule,
  severity: LintSeverity,
  message: string,
  fix: string,
  fixable?: 'no' | 'yes',
) => void

function lintTrigger(text: string, trigger: string | undefined, add: Add): void {
  if (trigger === undefined || hasWord(text, trigger) || hasPlaceholder(text)) return
  if (text.includes(trigger)) {
    const inside = text.match(/\S+/g)?.find((word) => word.includes(trigger)) ?? text
    add(
      'trigger-inside-word',
      'error',
      `The trigger ${trigger} stands inside "${inside}" only, which a trainer takes for the trigger.`,
      'Put it in front as a word of its own (--fix does).',
      'yes',
    )
    return
  }
  const other = new RegExp(escape(trigger), 'i').exec(text)?.[0]
  add(
    'missing-trigger',
    'warning',
    other === undefined
      ? `The trigger ${trigger} is missing.`
      : `The trigger ${trigger} is missing; it is there as ${other}, which are other tokens.`,
    'Put it in front (--fix does).',
    'yes',
  )
}

function lintPlaceholders(text: string, add: Add): void {
  const open = text.match(/\[(motion|look|class)\]/g)
  if (open) {
    const message = `The caption has ${open.join(', ')} in it, which nothing fills in.`
    add('unfilled-placeholder', 'error', message, 'Write the words in its place.')
  }
}

const measuredWords = {
  static: 'the camera is still',
  subject: 'the camera is still, the subject moves',
  'pan-left': 'a pan left',
  'pan-right': 'a pan right',
  'tilt-up': 'a tilt up',
  'tilt-down': 'a tilt down',
  'zoom-in': 'a move in',
  'zoom-out': 'a move out',
  roll: 'a roll',
  orbit: 'an orbit',
  mixed: 'several motions at once',
} as const

function lintMotion(
  { clip }: LintSubject,
  text: string,
  allowed: ReadonlySet<string>,
  add: Add,
): void {
  const motion = clip.record?.motion
  if (!motion) return
  const measured = `measured: ${measuredWords[motion.camera]}`
  const disagreeing = (claims: readonly MotionClaim[]) =>
    claims
      .filter((claim) => !allowed.has(claim))
      .map((claim) => ({ claim, why: contradiction(claim, motion) }))
      .filter(({ why }) => why !== undefined)
  for (const { claim, why } of disagreeing(captionClaims(text))) {
    const message = `The caption says ${claim} but ${why} (${measured}).`
    add(
      'motion-mismatch',
      'warning',
      message,
      'Look at the clip; correct the caption or drop the clip.',
    )
  }
  const name = clip.name
    .split('/')
    .at(-1)!
    .replace(/\.[^.]*$/, '')
  for (const { claim, why } of disagreeing(nameClaims(name))) {
    const message = `This clip is called ${claim} (${name}) but ${why} (${measured}).`
    add(
      'motion-mismatch',
      'info',
      message,
      'Look at the clip: it may be the wrong part of the footage.',
    )
  }
}

function lintFlips({ flips }: LintSubject, text: string, add: Add): void {
  const sides = /\b(left|right)(wards?|hand|most)?\b/i.exec(text)
  if (flips.x && sides) {
    add(
      'left-right-with-flip',
      'error',
      `The caption says "${sides[0]}", and the clip is also shown mirrored.`,
      'Turn flipX off for this dataset, or take the word out.',
    )
  }
  const heights = /\b(up|down)(wards?)?\b|\b(above|below|top|bottom)\b/i.exec(text)
  if (flips.y && heights) {
    add(
      'up-down-with-flip',
      'error',
      `The caption says "${heights[0]}", and the clip is also shown upside down.`,
      'Turn flipY off for this dataset, or take the word out.',
    )
  }
}

function lintTokens(
  text: string,
  textLength: number,
  tokenizer: CaptionTokenizer | undefined,
  add: Add,
): void {
  const clean = tidy(text)
  const dropped = tokenizer ? tokenizer.droppedCharacters(clean) : likelyDropped(clean)
  if (dropped.length > 0) {
    const verb = tokenizer ? 'drops' : 'probably drops'
    const list = dropped.map(describeCharacter).join(', ')
    const message = `The tokenizer ${verb} ${list}.`
    add('dropped-characters', 'warning', message, 'Write it in plain letters, or leave it out.')
  }
  const tokens = tokenizer
    ? tokenizer.encode(clean).length
    : Math.ceil((clean.match(/\S+/g) ?? []).length * tokensPerWord)
  if (tokens > textLength) {
    const about = tokenizer ? '' : 'about '
    const message = `The caption has ${about}${tokens} tokens, and the model reads ${textLength}.`
    add('too-long', 'error', message, 'Shorten it: the end is cut off.')
  }
}

/** Without a tokenizer: emoji, marks that are not seen, and broken characters. Letters of any script are kept. */
function likelyDropped(text: string): string[] {
  // Digits and # are Extended_Pictographic too, being the base of key-cap emoji.
  const found = text.match(/[\p{Extended_Pictographic}\p{Cc}\p{Cf}\p{Co}\uFFFD]/gu) ?? []
  return [...new Set(found)].filter((character) => character.codePointAt(0)! > 0x7f)
}

function describeCharacter(character: string): string {
  const code = `U+${character.codePointAt(0)!.toString(16).toUpperCase().padStart(4, '0')}`
  return /[\p{Cc}\p{Cf}\p{Co}]/u.test(character) ? code : `"${character}" (${code})`
}

function escape(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
}
