export { createTape, type Root, type Tape, type TapeOptions } from './lib/autograd/tape.ts'
export type { OutputGrad } from './lib/autograd/rules.ts'
export { trainerErrors } from './lib/errors.ts'
