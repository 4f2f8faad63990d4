// Captions as files and as text: one clip, one caption file beside it. What AI Toolkit does with the text is in
// `resolveCaption`, and holds for the trainer, the captioner and the editor alike.

/** The caption file of a clip: `clips/a.mp4` → `clips/a.txt`. */
export function captionFile(clip: string, extension = '.txt'): string {
  return clip.replace(/\.[^./\\]*$/, '') + extension
}

/** The comma-separated parts of a caption, trimmed. */
export function captionTags(caption: string): string[] {
  return caption.split(',').map((tag) => tag.trim())
}

/**
 * The text that is trained on: tags joined by `, `, `[trigger]` and `[name]` replaced by the trigger word (removed where
 * there is none), and the trigger put in front, with a space, where it does not occur. A regularisation set is given no
 * trigger in front. As in AI Toolkit, "occurs" means anywhere, also inside a word.
 */
export function resolveCaption(
  caption: string,
  {
    trigger,
    regularisation = false,
  }: { trigger?: string | null | undefined; regularisation?: boolean | undefined } = {},
): string {
  const text = captionTags(caption)
    .join(', ')
    .replace(/\[(trigger|name)\]/g, () => trigger ?? '')
  return trigger && !regularisation && !text.includes(trigger) ? `${trigger} ${text}` : text
}

/**
 * The tags of a caption in another order, the first `keepTokens` staying where they are (Fisher–Yates).
 *
 * @param random a number in [0, 1) at each call
 */
export function shuffleTags(
  caption: string,
  { keepTokens = 0, random }: { keepTokens?: number | undefined; random: () => number },
): string {
  const tags = captionTags(caption)
  for (let i = tags.length - 1; i > keepTokens; i--) {
    const j = keepTokens + Math.floor(random() * (i - keepTokens + 1))
    ;[tags[i], tags[j]] = [tags[j]!, tags[i]!]
  }
  return tags.join(', ')
}
