import { readFile } from 'node:fs/promises'
import { openDevice } from '@kinora/cpu-kernels'
import { train } from '../../src/lib/train.ts'
import type { TrainOptions } from '../../src/lib/train-options.ts'

// Trains the options in a JSON file, on the processor: what the test kills.
const options = JSON.parse(await readFile(process.argv[2]!, 'utf8')) as TrainOptions
await train(options, { device: await openDevice() })
