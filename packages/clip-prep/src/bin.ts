#!/usr/bin/env node
import { runBin } from '@kinora/stage/bin'
import { prepareClipsOptions } from './lib/options.ts'
import { prepareClipsIter } from './lib/prepare-clips.ts'

process.exitCode = await runBin({
  name: 'clip-prep',
  summary: 'Cut footage into clips for training.',
  options: prepareClipsOptions,
  positionals: ['source'],
  run: prepareClipsIter,
})
