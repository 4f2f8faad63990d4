#!/usr/bin/env node
import { runBin } from '@kinora/stage/bin'
import { captionerCommands } from './lib/captioner-commands.ts'

let foundErrors = false
const code = await runBin(
  captionerCommands(({ counts }) => {
    foundErrors = counts.error > 0
  }),
)
process.exitCode = code === 0 && foundErrors ? 1 : code
