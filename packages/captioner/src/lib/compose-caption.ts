import { shuffleTags } from '@kinora/config-schema'
import { createHash } from 'node:crypto'
import { describeMotion } from './describe-motion.ts'
import type { CaptionSettings } from './options.ts'
import type { DatasetClip } from './read-dataset.ts'

/** Words of a clip that stand in a template: `[motion]`, `[look]`, `[class]`; `[trigger]` and `[name]` are the trigger. */
type TemplateWords = Readonly<Record<'motion' | 'look' | 'class', string | undefined>>

function templateWords(clip: DatasetClip, settings: CaptionSettings): TemplateWords {
  const measured = clip.record?.motion ? describeMotion(clip.record.motion) : undefined
  return {
    motion: settings.motionName ?? measured,
    look: settings.look,
    class: settings.className,
  }
}

/**
 * The caption of a clip without a model: the default caption where there is one, else what the goal calls for. A motion
 * LoRA is told the motion, a style LoRA the look, a character LoRA the trigger with its class. Undefined where that comes
 * to nothing.
 */
export function templateCaption(clip: DatasetClip, settings: CaptionSettings): string | undefined {
  const words = templateWords(clip, settings)
  if (settings.defaultCaption !== undefined) {
    return fillTemplate(settings.defaultCaption, words) || undefined
  }
  const { trigger } = settings
  switch (settings.goal) {
    case 'motion':
      return joinTags([trigger, words.motion])
    case 'style':
      return joinTags([trigger, words.look])
    case 'character':
      return joinTags([[trigger, words.class].filter(Boolean).join(' ')])
    default:
      return settings.goal satisfies never
  }
}

/** Fills in the placeholders; a comma-separated part whose placeholder has no word is left out. */
function fillTemplate(template: string, words: TemplateWords): string {
  const pattern = /\[(motion|look|class)\]/g
  return template
    .split(',')
    .filter((part) =>
      [...part.matchAll(pattern)].every(([, key]) => words[key as keyof TemplateWords]),
    )
    .join(',')
    .replace(pattern, (_, key: keyof TemplateWords) => words[key]!)
    .trim()
}

function joinTags(tags: readonly (string | undefined)[]): string | undefined {
  return tags.filter((tag) => tag !== undefined && tag !== '').join(', ') || undefined
}

/**
 * A caption as it is written: prefix and suffix around it, `[trigger]` and `[name]` replaced, the trigger put in front
 * where it is not a word of the caption, tags shuffled behind those that are kept, blank space tidied. Without a trigger
 * the placeholders stay for the trainer.
 */
export function composeCaption(body: string, clip: DatasetClip, settings: CaptionSettings): string {
  const { prefix, suffix, trigger, shuffle, keepTokens, seed } = settings
  let text = tidy([prefix, body, suffix].join(' '))
  if (trigger !== undefined) {
    text = text.replace(/\[(trigger|name)\]/g, () => trigger)
    if (!hasWord(text, trigger)) text = `${trigger}, ${text}`
  }
  if (!shuffle) return text
  return shuffleTags(text, { keepTokens, random: drawFrom(`${seed} ${clip.name}`) })
}

/** One line, single spaces, no space before a comma or full stop. */
export function tidy(text: string): string {
  return text
    .replace(/[\s\uFEFF\u200B]+/g, ' ')
    .replace(/ ([,.;:!?])/g, '$1')
    .trim()
}

/** True where `word` stands in `text` on its own: no letter or digit on either side. */
export function hasWord(text: string, word: string): boolean {
  const escaped = word.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
  return new RegExp(`(?<![\\p{L}\\p{N}])${escaped}(?![\\p{L}\\p{N}])`, 'u').test(text)
}

/** Numbers in [0, 1) that follow from a text. */
function drawFrom(text: string): () => number {
  let count = 0
  return () => {
    const digest = createHash('sha256').update(`${text} ${count++}`).digest()
    return digest.readUIntBE(0, 6) / 2 ** 48
  }
}
