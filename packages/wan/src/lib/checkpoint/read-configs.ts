import { readFile, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { checkpointErrors } from '../errors.ts'
import {
  parseSchedulerConfig,
  parseTextEncoderConfig,
  parseTransformerConfig,
  parseVaeConfig,
  type SchedulerConfig,
  type TextEncoderConfig,
  type TransformerConfig,
  type VaeConfig,
} from './configs.ts'
import { exists } from './weight-files.ts'

/** What the configuration files of a checkpoint say. */
export interface CheckpointConfigs {
  /** The high-noise expert takes timesteps from boundaryRatio · 1000 on. */
  boundaryRatio: number
  scheduler: SchedulerConfig
  /** Of both experts. */
  transformer: TransformerConfig
  vae: VaeConfig
  textEncoder: TextEncoderConfig
  /** Tokens a prompt is padded or cut to. */
  textLength: number
}

/** What the Wan pipelines ask of the tokenizer, whatever its own file says. */
const pipelineTextLength = 512

type Json = Record<string, unknown>

/** Reads and checks the configuration files in a folder; a model other than Wan 2.2 I2V is refused with the reason. */
export async function readConfigs(dir: string): Promise<CheckpointConfigs> {
  await refuseForeignFolder(dir)
  const index = join(dir, 'model_index.json')
  const file = {
    high: join(dir, 'transformer', 'config.json'),
    low: join(dir, 'transformer_2', 'config.json'),
    vae: join(dir, 'vae', 'config.json'),
    textEncoder: join(dir, 'text_encoder', 'config.json'),
    scheduler: join(dir, 'scheduler', 'scheduler_config.json'),
    tokenizer: join(dir, 'tokenizer', 'tokenizer_config.json'),
  }
  const pipeline = await readJson(index, 'the parts of the pipeline')
  const high = await readJson(file.high, 'the architecture of the high-noise expert')
  const vaeJson = await readJson(file.vae, 'the architecture of the VAE')
  recogniseModel(pipeline, index, high, file.high, vaeJson, file.vae)
  if (!(await exists(join(dir, 'transformer_2')))) throw checkpointErrors.ONE_EXPERT(dir)

  const transformer = parseTransformerConfig(high, file.high)
  const low = parseTransformerConfig(
    await readJson(file.low, 'the architecture of the low-noise expert'),
    file.low,
  )
  if (JSON.stringify(low) !== JSON.stringify(transformer)) {
    throw checkpointErrors.BAD_CONFIG(
      file.low,
      `the two experts must have one architecture, and ${file.high} has another`,
    )
  }
  const vae = parseVaeConfig(vaeJson, file.vae)
  const textEncoder = parseTextEncoderConfig(
    await readJson(file.textEncoder, 'the architecture of the text encoder'),
    file.textEncoder,
  )
  checkFit(transformer, vae, textEncoder, file)
  const boundaryRatio = pipeline['boundary_ratio'] ?? 0.9
  if (typeof boundaryRatio !== 'number' || !(boundaryRatio > 0 && boundaryRatio < 1)) {
    throw checkpointErrors.BAD_CONFIG(index, 'boundary_ratio must be a number between 0 and 1')
  }
  const tokenizer = (await exists(file.tokenizer)) ? await readJson(file.tokenizer, '') : {}
  return {
    boundaryRatio,
    scheduler: parseSchedulerConfig(
      (await exists(file.scheduler)) ? await readJson(file.scheduler, '') : {},
      file.scheduler,
    ),
    transformer,
    vae,
    textEncoder,
    textLength: textLengthOf(tokenizer),
  }
}

/** Transformers writes 10³⁰ where a tokenizer has no limit. */
function textLengthOf(tokenizer: Json): number {
  const limit = tokenizer['model_max_length']
  return typeof limit === 'number' &&
    Number.isInteger(limit) &&
    limit >= 1 &&
    limit < pipelineTextLength
    ? limit
    : pipelineTextLength
}

function recogniseModel(
  pipeline: Json,
  index: string,
  transformer: Json,
  transformerFile: string,
  vae: Json,
  vaeFile: string,
): void {
  const imageEncoder = pipeline['image_encoder']
  if (Array.isArray(imageEncoder) && imageEncoder.some((part) => part !== null)) {
    throw checkpointErrors.WAN_21(index, `it has an image encoder, ${imageEncoder.join('.')}`)
  }
  for (const key of ['image_dim', 'added_kv_proj_dim']) {
    const value = transformer[key]
    if (value !== undefined && value !== null) {
      throw checkpointErrors.WAN_21(transformerFile, `${key} is ${JSON.stringify(value)}`)
    }
  }
  if (pipeline['expand_timesteps'] === true) {
    throw checkpointErrors.WAN_22_5B(index, 'expand_timesteps is true')
  }
  if (vae['z_dim'] === 48) throw checkpointErrors.WAN_22_5B(vaeFile, 'z_dim is 48')
  if (vae['is_residual'] === true) throw checkpointErrors.WAN_22_5B(vaeFile, 'is_residual is true')
  if (transformer['in_channels'] === 48) {
    throw checkpointErrors.WAN_22_5B(transformerFile, 'in_channels is 48')
  }
  if (transformer['in_channels'] === 16) throw checkpointErrors.TEXT_TO_VIDEO(transformerFile)
  for (const [json, file, expected] of [
    [transformer, transformerFile, 'WanTransformer3DModel'],
    [vae, vaeFile, 'AutoencoderKLWan'],
    [pipeline, index, 'WanImageToVideoPipeline'],
  ] as const) {
    const found = json['_class_name']
    if (found !== undefined && found !== expected) {
      throw checkpointErrors.OTHER_MODEL(
        file,
        `_class_name ${JSON.stringify(found)}`,
        JSON.stringify(expected),
      )
    }
  }
}

function checkFit(
  transformer: TransformerConfig,
  vae: VaeConfig,
  textEncoder: TextEncoderConfig,
  file: { high: string; vae: string; textEncoder: string },
): void {
  const inChannels = 2 * vae.zDim + 4
  if (transformer.inChannels !== inChannels || transformer.outChannels !== vae.zDim) {
    throw checkpointErrors.BAD_CONFIG(
      file.high,
      `in_channels ${transformer.inChannels} and out_channels ${transformer.outChannels} do not fit the VAE, whose z_dim ${vae.zDim} asks for ${inChannels} (latents, 4 of mask, condition) and ${vae.zDim}`,
    )
  }
  if (transformer.textDim !== textEncoder.dim) {
    throw checkpointErrors.BAD_CONFIG(
      file.high,
      `text_dim ${transformer.textDim} does not fit the text encoder, whose d_model is ${textEncoder.dim}`,
    )
  }
}

/** Layouts that hold the same model in other files. */
export function recogniseLayout(where: string, names: readonly string[]): void {
  const has = (pattern: RegExp) => names.find((name) => pattern.test(name))
  if (has(/^model_index\.json$/)) return
  const original = has(/^(high|low)_noise_model(\/|$)/) ?? has(/^models_t5_umt5.*\.pth$/)
  if (original) throw checkpointErrors.ORIGINAL_LAYOUT(where, `it has ${original}`)
  const comfy =
    has(/^(split_files|diffusion_models)(\/|$)/) ??
    has(/^[^/]*(high|low)_?noise[^/]*\.(safetensors|gguf)$/i)
  if (comfy) throw checkpointErrors.COMFYUI_LAYOUT(where, `it has ${comfy}`)
}

async function refuseForeignFolder(dir: string): Promise<void> {
  recogniseLayout(dir, await readdir(dir))
}

async function readJson(file: string, role: string): Promise<Json> {
  let text: string
  try {
    text = await readFile(file, 'utf8')
  } catch (cause) {
    throw checkpointErrors.MISSING_FILE(file, role, { cause })
  }
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    throw checkpointErrors.BAD_CONFIG(file, `it is not valid JSON: ${(cause as Error).message}`, {
      cause,
    })
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw checkpointErrors.BAD_CONFIG(file, 'it is not a JSON object')
  }
  return value as Json
}
