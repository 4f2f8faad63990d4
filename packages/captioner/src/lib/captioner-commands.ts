import type { BinDefinition } from '@kinora/stage/bin'
import { captionClipsIter, type CaptionResult } from './caption-clips.ts'
import { captionClipsOptions } from './options.ts'

/** The commands of the bin. */
export const captionerCommands: BinDefinition = {
  name: 'captioner',
  summary: 'Captions clips for training, and checks captions.',
  options: {
    caption: {
      summary:
        'Writes a caption beside every clip that has none, from a template or a vision model.',
      options: captionClipsOptions,
      positionals: ['source'],
      run: captionClipsIter,
      report: formatCaptionResult,
    },
  },
}

/** What a person is told at the end. */
export function formatCaptionResult({ clips, counts, usage }: CaptionResult): string {
  const words = {
    written: 'written',
    unchanged: 'said so already',
    kept: 'kept as someone wrote them',
    failed: 'without a caption',
    planned: 'planned',
  } as const
  const parts = Object.entries(words)
    .filter(([status]) => counts[status as keyof typeof counts] > 0)
    .map(([status, text]) => `${counts[status as keyof typeof counts]} ${text}`)
  const lines = [`${clips.length} clips: ${parts.join(', ')}.`]
  if (usage.requests + usage.cached > 0) {
    const { requests, cached, inputTokens, outputTokens, cost, estimated } = usage
    const about = estimated ? 'about ' : ''
    const money = cost > 0 ? `, cost ${cost.toFixed(4)}` : ''
    lines.push(
      `${requests} requests, ${cached} answers from the cache, ${about}${inputTokens} tokens in, ${outputTokens} out${money}.`,
    )
  }
  return lines.join('\n')
}
