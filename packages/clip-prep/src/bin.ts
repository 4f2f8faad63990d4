#!/usr/bin/env node
import { runBin } from '@kinora/stage/bin'
import { mergeShardsIter } from './lib/merge-shards.ts'
import { mergeShardsOptions, prepareClipsOptions } from './lib/options.ts'
import { prepareClipsIter } from './lib/prepare-clips.ts'

const [word, ...rest] = process.argv.slice(2)

process.exitCode =
  word === 'merge'
    ? await runBin(
        {
          name: 'clip-prep merge',
          summary: 'Join what runs with --shard left in one folder into one manifest and report.',
          options: mergeShardsOptions,
          positionals: ['out'],
          run: mergeShardsIter,
        },
        { args: rest },
      )
    : await runBin({
        name: 'clip-prep',
        summary:
          'Cut footage into clips for training. (clip-prep merge OUT joins the results of --shard.)',
        options: prepareClipsOptions,
        positionals: ['source'],
        run: prepareClipsIter,
      })
