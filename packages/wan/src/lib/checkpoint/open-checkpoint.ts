import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { TensorTable } from './tensor-table.ts'
import { checkpointErrors } from '../errors.ts'
import { embeddingNames, umt5Tensors } from '../text-encoder/umt5.ts'
import { transformerTensors } from '../transformer/transformer-tensors.ts'
import { vaeTensors } from '../vae/vae-layout.ts'
import { fingerprintFiles } from './fingerprint.ts'
import { fetchFromHub, isHubId, type HubOptions } from './hub-snapshot.ts'
import { readConfigs, type CheckpointConfigs } from './read-configs.ts'
import {
  checkTensors,
  exists,
  openFile,
  openWeightFiles,
  recogniseForeign,
  type WeightFiles,
} from './weight-files.ts'

/** The folders of a checkpoint that have content of their own. */
export type CheckpointPart = 'transformer' | 'transformer_2' | 'vae' | 'text_encoder' | 'tokenizer'

/** A checked Wan 2.2 I2V checkpoint on the disk. No weights are loaded and no file is open. */
export interface WanCheckpoint extends CheckpointConfigs {
  /** What it was opened by: a folder or a Hub id. */
  readonly source: string
  /** Where its files are. */
  readonly dir: string
  /**
   * Identity of a part's files, for cache keys: 64 hexadecimal digits over names, sizes and content, sampled for large files
   * (see `fingerprintFiles`). Computed once.
   */
  fingerprint(part: CheckpointPart): Promise<string>
  /** Opens the weights of a part, headers read. The caller closes them. */
  openWeights(part: Exclude<CheckpointPart, 'tokenizer'>): Promise<WeightFiles>
}

/** For a source on the Hub; a folder needs none. */
export interface OpenCheckpointOptions extends HubOptions {}

const stems = {
  transformer: 'diffusion_pytorch_model',
  transformer_2: 'diffusion_pytorch_model',
  vae: 'diffusion_pytorch_model',
  text_encoder: 'model',
} as const

/**
 * Opens a checkpoint in the diffusers layout and checks all of it that can be checked without loading: its configuration files,
 * and from the headers every tensor's presence, shape and dtype. The architecture comes from the configuration alone.
 *
 * @param source a folder, or a Hub id `owner/name`, whose files are downloaded to a cache folder first
 * @throws `CHECKPOINT_…` naming the file and the tensor
 */
export async function openCheckpoint(
  source: string,
  options: OpenCheckpointOptions = {},
): Promise<WanCheckpoint> {
  const dir = await locate(source, options)
  const configs = await readConfigs(dir)
  const tokenizer = join(dir, 'tokenizer', 'tokenizer.json')
  if (!(await exists(tokenizer))) throw checkpointErrors.MISSING_FILE(tokenizer, 'the tokenizer')

  const openWeights: WanCheckpoint['openWeights'] = (part) =>
    openWeightFiles(join(dir, part), stems[part])
  const tables: Record<keyof typeof stems, TensorTable> = {
    transformer: transformerTensors(configs.transformer),
    transformer_2: transformerTensors(configs.transformer),
    vae: vaeTensors(configs.vae),
    text_encoder: umt5Tensors(configs.textEncoder),
  }
  const { vocabSize, dim } = configs.textEncoder
  for (const part of Object.keys(stems) as (keyof typeof stems)[]) {
    options.signal?.throwIfAborted()
    await using weights = await openWeights(part)
    checkTensors(
      weights,
      tables[part],
      part === 'text_encoder' ? [{ names: embeddingNames, shape: [vocabSize, dim] }] : [],
    )
  }

  const fingerprints = new Map<CheckpointPart, Promise<string>>()
  return {
    ...configs,
    source,
    dir,
    openWeights,
    fingerprint(part) {
      let known = fingerprints.get(part)
      if (!known) {
        known = filesOf(join(dir, part)).then((files) => fingerprintFiles(dir, files))
        fingerprints.set(part, known)
      }
      return known
    },
  }
}

async function filesOf(folder: string): Promise<string[]> {
  const names = await readdir(folder)
  return names
    .filter((name) => /\.(json|safetensors)$/.test(name) && !name.startsWith('.'))
    .map((name) => join(folder, name))
}

async function locate(source: string, options: HubOptions): Promise<string> {
  const found = await stat(source).catch(() => undefined)
  if (found?.isDirectory()) return source
  if (found) return refuseFile(source)
  if (!isHubId(source)) throw checkpointErrors.NOT_FOUND(source)
  return fetchFromHub(source, options)
}

/** A single file is a model for ComfyUI, or no model at all. */
async function refuseFile(file: string): Promise<never> {
  if (file.endsWith('.safetensors')) {
    const opened = await openFile(file)
    await opened.close()
    recogniseForeign({
      byTensor: new Map([...opened.tensors.keys()].map((name) => [name, opened])),
    })
  }
  throw checkpointErrors.COMFYUI_LAYOUT(file, 'it is a single file')
}
