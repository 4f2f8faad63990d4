import { mkdir } from 'node:fs/promises'
import { dirname } from 'node:path'
import { numElements, type Device, type Tensor } from '@kinora/kernel-api'
import {
  openSafetensors,
  SafetensorsError,
  writeSafetensors,
  type TensorToWrite,
} from '@kinora/safetensors'
import { codeSystemError } from '@kinora/stage'
import { z } from 'zod'
import { recomputePlanSchema } from '../memory/recompute-plan.ts'
import { readTensors } from '../device-arrays.ts'
import { trainerErrors } from '../errors.ts'
import { experts } from '../noise/random-streams.ts'
import type { StateArray } from '../optim/optimizer.ts'

// All that a run must remember to go on as if it had never stopped. Random numbers need nothing: they are counted by the step.
//
//   state/training_state.safetensors   <expert>.<name> [n] f32, codes of 8-bit states u32: params, and each state of the optimiser
//                                      (m, v, …), every tensor of the LoRA one after another in the order of `parameters`
//                                      metadata.kinora: JSON of `trainingStateSchema`

const expertStateSchema = z.strictObject({
  /** Names and lengths of the LoRA's tensors, in the order in which they lie in the file. */
  parameters: z.array(z.tuple([z.string(), z.number().int().positive()])),
  rank: z.number().int().positive(),
  scale: z.number(),
  /** Names of the flat tensors beside `params`. */
  states: z.array(z.string()),
  optimizer: z.string(),
  numbers: z.record(z.string(), z.number()),
  lossScale: z.strictObject({ scale: z.number(), goodSteps: z.number().int() }),
})

const validationSchema = z.array(
  z.strictObject({ step: z.number().int().nonnegative(), loss: z.number() }),
)

export const trainingStateSchema = z.strictObject({
  version: z.literal(1),
  /** Steps done. */
  step: z.number().int().nonnegative(),
  seed: z.number().int().nonnegative(),
  checkpoint: z.string().describe('Fingerprint of the base model.'),
  boundary: z.number(),
  /** Settings that may change on resume, as they were; for telling what changed. */
  settings: z.record(z.string(), z.unknown()),
  /** What was kept of each block, by the latents' frames × rows × columns: a resumed run on the same adapter keeps the same. */
  recompute: z.record(z.string(), recomputePlanSchema).optional(),
  /** Each expert's losses on held-out clips so far. */
  validation: z.strictObject({
    high: validationSchema.optional(),
    low: validationSchema.optional(),
  }),
  experts: z.strictObject({
    high: expertStateSchema.optional(),
    low: expertStateSchema.optional(),
  }),
})

export type TrainingState = z.output<typeof trainingStateSchema>
export type ValidationHistory = z.output<typeof validationSchema>
export type ExpertState = z.output<typeof expertStateSchema>

/** Arrays of one expert to keep: `params` and the optimiser's, each list in one order. */
export type ExpertArrays = ReadonlyMap<string, readonly StateArray[]>

export const lengthOf = (array: StateArray): number =>
  array instanceof Float32Array ? array.length : numElements(array.shape)

/** Writes the state whole or not at all; the one before it stays until then. */
export async function writeTrainingState(
  file: string,
  device: Device,
  state: TrainingState,
  tensors: { readonly high?: ExpertArrays | undefined; readonly low?: ExpertArrays | undefined },
): Promise<void> {
  const entries: TensorToWrite[] = experts.flatMap((expert) =>
    [...(tensors[expert] ?? [])].map(([name, list]): TensorToWrite => {
      const length = list.reduce((sum, array) => sum + lengthOf(array), 0)
      return {
        name: `${expert}.${name}`,
        dtype: isWords(list) ? 'U32' : 'F32',
        shape: [length],
        data: () => partsOf(device, list),
      }
    }),
  )
  try {
    await mkdir(dirname(file), { recursive: true })
    await writeSafetensors(file, entries, { format: 'kinora', kinora: JSON.stringify(state) })
  } catch (error) {
    if (error instanceof SafetensorsError && error.cause) throw codeSystemError(error.cause, file)
    throw codeSystemError(error, file)
  }
}

/** Whether a list holds codes; all of a list have one dtype. */
const isWords = ([first]: readonly StateArray[]): boolean =>
  first !== undefined && !(first instanceof Float32Array) && first.dtype === 'u32'

/** A few tensors at a time, so that the host never holds the whole. */
async function* partsOf(
  device: Device,
  arrays: readonly StateArray[],
): AsyncGenerator<Float32Array | Uint32Array> {
  const perPart = 64
  for (let i = 0; i < arrays.length; i += perPart) {
    const part = arrays.slice(i, i + perPart)
    const tensors = part.filter((array): array is Tensor => !(array instanceof Float32Array))
    const read = await readTensors<Float32Array | Uint32Array>(device, tensors)
    for (const array of part) yield array instanceof Float32Array ? array : read.shift()!
  }
}

/** A state on disk. */
export interface SavedState {
  readonly state: TrainingState
  /** Reads `<expert>.<name>`, cut into arrays of these lengths. */
  read(
    expert: 'high' | 'low',
    name: string,
    lengths: readonly number[],
  ): Promise<(Float32Array | Uint32Array)[]>
  close(): Promise<void>
}

/** Opens a state; undefined where there is none. A damaged one is an error: going on from nothing must be asked for. */
export async function openTrainingState(file: string): Promise<SavedState | undefined> {
  let entry: Awaited<ReturnType<typeof openSafetensors>>
  try {
    entry = await openSafetensors(file)
  } catch (error) {
    if (
      error instanceof SafetensorsError &&
      (error.cause as NodeJS.ErrnoException)?.code === 'ENOENT'
    ) {
      return undefined
    }
    throw trainerErrors.STATE_UNREADABLE(file, (error as Error).message, { cause: error })
  }
  try {
    const parsed = trainingStateSchema.safeParse(JSON.parse(entry.metadata['kinora'] ?? 'null'))
    if (!parsed.success) {
      const issue = parsed.error.issues[0]!
      throw trainerErrors.STATE_UNREADABLE(file, `${issue.path.join('.')}: ${issue.message}`)
    }
    const state = parsed.data
    return {
      state,
      async read(expert, name, lengths) {
        const key = `${expert}.${name}`
        const flat =
          entry.tensors.get(key)?.dtype === 'U32'
            ? new Uint32Array((await entry.read(key)).slice().buffer)
            : await entry.readF32(key)
        const parts: (Float32Array | Uint32Array)[] = []
        let at = 0
        for (const length of lengths) {
          parts.push(flat.slice(at, at + length))
          at += length
        }
        if (at !== flat.length) {
          throw trainerErrors.STATE_UNREADABLE(
            file,
            `${expert}.${name} has ${flat.length} numbers, not ${at}`,
          )
        }
        return parts
      },
      close: () => entry.close(),
    }
  } catch (error) {
    await entry.close()
    if (error instanceof SyntaxError) throw trainerErrors.STATE_UNREADABLE(file, error.message)
    throw error
  }
}
