import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Device } from '@kinora/kernel-api'
import { readLora } from '@kinora/lora-files'
import { checkpointErrors } from '../errors.ts'
import { recoveryFile } from '../quantize/packing.ts'
import type { QuantizeScheme } from '../quantize/schemes.ts'
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
import { exists, packingOf } from './weight-files.ts'

/** How a network is loaded. */
export interface LoadOptions {
  signal?: AbortSignal | undefined
}

/**
 * Brings one expert to a device: `high` for the noisy timesteps, `low` for the rest. One that is stored packed stays as it is, with
 * the recovery adapter beside it; asking for another scheme is an error.
 */
export async function loadTransformer(
  checkpoint: WanCheckpoint,
  expert: 'high' | 'low',
  device: Device,
  options: TransformerOptions,
): Promise<WanTransformer> {
  const part = expert === 'high' ? 'transformer' : 'transformer_2'
  await using files = await checkpoint.openWeights(part)
  const packing = packingOf(files)
  expectScheme(files.folder, packing?.scheme, options.quantize)
  const own = packing && join(files.folder, recoveryFile)
  const recovery =
    options.recovery ?? (own && (await exists(own)) ? await readLora(own) : undefined)
  return await createTransformer(
    checkpoint.transformer,
    new SafetensorsWeights(files.byTensor),
    device,
    { ...options, recovery },
  )
}

/** Scheme that the experts of a checkpoint are stored in; undefined for dense ones. */
export async function storedPacking(
  checkpoint: WanCheckpoint,
): Promise<QuantizeScheme | undefined> {
  await using files = await checkpoint.openWeights('transformer')
  return packingOf(files)?.scheme
}

/** What is packed already cannot be packed in another way. */
function expectScheme(
  folder: string,
  found: QuantizeScheme | undefined,
  wanted: QuantizeScheme | undefined,
): void {
  if (found && wanted && found !== wanted) {
    throw checkpointErrors.PACKED_OTHERWISE(folder, found, wanted)
  }
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

/** How the text encoder is loaded. */
export interface TextEncoderOptions extends LoadOptions {
  /** Dtype of the linears; `f32` unless given. */
  compute?: 'f32' | 'f16' | undefined
  /** Packs the linears of each layer, as AI Toolkit does. */
  quantize?: QuantizeScheme | undefined
}

/**
 * Opens the text encoder, with its tokenizer. Its layers come to the device one at a time while it encodes, so at full size it
 * takes less than 1 GiB there, and up to 1 GiB of states where it is given many texts. Release it when done.
 */
export async function loadTextEncoder(
  checkpoint: WanCheckpoint,
  device: Device,
  { compute = 'f32', quantize, signal }: TextEncoderOptions = {},
): Promise<WanTextEncoder> {
  const tokenizer = await loadTokenizer(checkpoint)
  const files = await checkpoint.openWeights('text_encoder')
  try {
    expectScheme(files.folder, packingOf(files)?.scheme, quantize)
    const umt5 = createUmt5(
      checkpoint.textEncoder,
      new SafetensorsWeights(files.byTensor),
      device,
      {
        compute,
        quantize,
        signal,
      },
    )
    return createTextEncoder(umt5, tokenizer, device, () => files.close())
  } catch (error) {
    await files.close()
    throw error
  }
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
