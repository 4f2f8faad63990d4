#!/usr/bin/env node
import { runBin } from '@kinora/stage/bin'
import { kinora } from './lib/kinora.ts'

process.exitCode = await runBin(kinora)
