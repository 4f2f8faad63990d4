#!/usr/bin/env node
import { runBin } from '@kinora/stage/bin'
import { samplerCommand } from './lib/sampler-command.ts'

process.exitCode = await runBin(samplerCommand)
