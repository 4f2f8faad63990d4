import { openSafetensors, writeSafetensors } from '@kinora/safetensors'
import { samplerErrors } from './errors.ts'
import type { GeneratedClip } from './pipeline.ts'

/** The tensor that holds the initial noise, as in the reference files of this repository. */
const noiseName = 'in.latents'

/**
 * Reads initial noise: the tensor `in.latents`, or the only one there is. Throws `SAMPLER_NO_LATENTS`.
 *
 * @returns its numbers and its shape as the file has it
 */
export async function readLatents(
  file: string,
): Promise<{ data: Float32Array; shape: readonly number[] }> {
  await using opened = await openSafetensors(file)
  const names = [...opened.tensors.keys()]
  const name = opened.tensors.has(noiseName) ? noiseName : names.length === 1 ? names[0] : undefined
  if (name === undefined) {
    const found = names.slice(0, 5).join(', ')
    throw samplerErrors.NO_LATENTS(file, names.length > 5 ? `${found} and more` : found || 'none')
  }
  return { data: await opened.readF32(name), shape: opened.tensors.get(name)!.shape }
}

/** Writes the noise of a clip and what became of it, for `readLatents` or another program. */
export async function writeLatents(
  file: string,
  { latentShape, initialLatents, finalLatents }: GeneratedClip,
  metadata: Readonly<Record<string, string>>,
): Promise<void> {
  const tensor = (name: string, data: Float32Array) =>
    ({ name, dtype: 'F32', shape: latentShape, data }) as const
  await writeSafetensors(
    file,
    [tensor(noiseName, initialLatents), tensor('out.latents', finalLatents)],
    metadata,
  )
}
