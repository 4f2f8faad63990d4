#!/usr/bin/env node
import { runBin } from '@kinora/stage/bin'
import { exporterProgram } from './lib/exporter-commands.ts'

process.exitCode = await runBin(exporterProgram)
