import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Device } from '@kinora/kernel-api'
import { checkpointErrors } from '../errors.ts'
import { createUmt5 } from '../text-encoder/umt5.ts'
import { createTextEncoder, type WanTextEncoder } from '../text-encoder/text-encoder.ts'
import { createTokenizer, type WanTokenizer } from '../tokenizer/tokenizer.ts'
import {
  createTransformer,
  type TransformerOptions,
  type WanTransformer,
} from '../transformer/transformer.ts'
import { createVae, type WanVae } from '../vae/vae.ts'
import type { WanCheckpoint } from './open-checkpoint.ts'
import { SafetensorsWeights } from './safetensors-weights.ts'

/** How a network is loaded. */
export interface LoadOptions {
  signal?: AbortSignal | undefined
}

/** Brings one expert to a device: `high` for the noisy timesteps, `low` for the rest. */
export async function loadTransformer(
  checkpoint: WanCheckpoint,
  expert: 'high' | 'low',
  device: Device,
  options: TransformerOptions,
): Promise<WanTransformer> {
  await using files = await checkpoint.openWeights(
    expert === 'high' ? 'transformer' : 'transformer_2',
  )
  return await createTransformer(
    checkpoint.transformer,
    new SafetensorsWeights(files.byTensor),
    device,
    options,
  )
}

/** Brings the VAE to a device, in f32. */
export async function loadVae(
  checkpoint: WanCheckpoint,
  device: Device,
  options: LoadOptions = {},
): Promise<WanVae> {
  await using files = await checkpoint.openWeights('vae')
  return await createVae(checkpoint.vae, new SafetensorsWeights(files.byTensor), device, options)
}

/**
 * Brings the text encoder to a device, with its tokenizer.
 *
 * @param options.compute dtype of the linears; `f32` unless given
 */
export async function loadTextEncoder(
  checkpoint: WanCheckpoint,
  device: Device,
  { compute = 'f32', signal }: LoadOptions & { compute?: 'f32' | 'f16' | undefined } = {},
): Promise<WanTextEncoder> {
  const tokenizer = await loadTokenizer(checkpoint)
  await using files = await checkpoint.openWeights('text_encoder')
  const umt5 = await createUmt5(
    checkpoint.textEncoder,
    new SafetensorsWeights(files.byTensor),
    device,
    { compute, signal },
  )
  return createTextEncoder(umt5, tokenizer, device)
}

/** Reads the tokenizer of a checkpoint. */
export async function loadTokenizer(checkpoint: WanCheckpoint): Promise<WanTokenizer> {
  const file = join(checkpoint.dir, 'tokenizer', 'tokenizer.json')
  const config = join(checkpoint.dir, 'tokenizer', 'tokenizer_config.json')
  const json = await readObject(file)
  return createTokenizer(
    json,
    await readObject(config).catch(() => ({})),
    checkpoint.textLength,
    file,
  )
}

async function readObject(file: string): Promise<object> {
  try {
    const value: unknown = JSON.parse(await readFile(file, 'utf8'))
    if (typeof value === 'object' && value !== null) return value
  } catch (cause) {
    throw checkpointErrors.BAD_TOKENIZER(file, (cause as Error).message, { cause })
  }
  throw checkpointErrors.BAD_TOKENIZER(file, 'it is not a JSON object')
}
