import type { BinDefinition } from '@kinora/stage/bin'
import { acceptDraftsIter, type AcceptResult } from './accept-drafts.ts'
import { captionClipsIter, type CaptionResult } from './caption-clips.ts'
import { formatLintResult, lintCaptionsIter, type LintResult } from './lint/lint-captions.ts'
import {
  acceptDraftsOptions,
  captionClipsOptions,
  lintCaptionsOptions,
  type LintCaptionsOptions,
} from './options.ts'

/**
 * The commands of the bin.
 *
 * @param onLint called with what lint found, for the exit code
 */
export function captionerCommands(onLint: (result: LintResult) => void): BinDefinition {
  return {
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
      accept: {
        summary: 'Turns the drafts of caption --review into captions.',
        options: acceptDraftsOptions,
        positionals: ['source'],
        run: acceptDraftsIter,
        report: ({ accepted, left }: AcceptResult) =>
          `${count(accepted.length, 'draft')} accepted, ${left.length} left.`,
      },
      lint: {
        summary: 'Checks captions; exits with 1 where it finds errors.',
        options: lintCaptionsOptions,
        positionals: ['source'],
        async *run(options: LintCaptionsOptions, context) {
          const result = yield* lintCaptionsIter(options, context)
          onLint(result)
          return result
        },
        report: formatLintResult,
      },
    },
  }
}

/** What a person is told at the end of captioning. */
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
  const lines = [`${count(clips.length, 'clip')}: ${parts.join(', ')}.`]
  if (usage.requests + usage.cached > 0) {
    const { requests, cached, inputTokens, outputTokens, cost, estimated } = usage
    const about = estimated ? 'about ' : ''
    const money = cost > 0 ? `, cost ${cost.toFixed(4)}` : ''
    lines.push(
      `${count(requests, 'request')}, ${count(cached, 'answer')} from the cache, ${about}${inputTokens} tokens in, ${outputTokens} out${money}.`,
    )
  }
  return lines.join('\n')
}

function count(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? '' : 's'}`
}
