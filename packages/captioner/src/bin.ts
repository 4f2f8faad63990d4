#!/usr/bin/env node
import { runBin } from '@kinora/stage/bin'
import { captionerCommands } from './lib/captioner-commands.ts'

process.exitCode = await runBin(captionerCommands)
