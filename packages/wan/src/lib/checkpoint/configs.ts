import { z } from 'zod'
import { checkpointErrors } from '../errors.ts'

// The configuration files of the diffusers release in our own spelling. A key that is missing takes the value of the
// Wan 2.2 I2V A14B release; unknown keys are the exporter's notes and are ignored.

/** `transformer/config.json`. */
export interface TransformerConfig {
  /** [t, y, x]; t is 1. */
  patchSize: readonly [number, number, number]
  numHeads: number
  headDim: number
  inChannels: number
  outChannels: number
  textDim: number
  /** Length of the sinusoid of a timestep. */
  freqDim: number
  ffnDim: number
  numLayers: number
  eps: number
  /** Positions an axis of the rotary embedding has. */
  ropeMaxLength: number
}

/** `vae/config.json`. */
export interface VaeConfig {
  baseDim: number
  decoderBaseDim: number
  zDim: number
  dimMult: readonly number[]
  numResBlocks: number
  /** Per level but the last: whether it also halves the frame rate. */
  temporalDownsample: readonly boolean[]
  /** Per latent channel, of what the encoder gives. */
  latentsMean: readonly number[]
  latentsStd: readonly number[]
  /** Frames and pixels a latent stands for: 4 and 8 for the release. */
  temporalFactor: number
  spatialFactor: number
}

/** `text_encoder/config.json`. */
export interface TextEncoderConfig {
  vocabSize: number
  dim: number
  numHeads: number
  headDim: number
  ffnDim: number
  numLayers: number
  numBuckets: number
  maxDistance: number
  eps: number
}

/** `scheduler/scheduler_config.json`: what a sampler needs of it. */
export interface SchedulerConfig {
  className: string
  flowShift: number
  numTrainTimesteps: number
  solverOrder: number
  solverType: string
  lowerOrderFinal: boolean
  predictX0: boolean
  predictionType: string
  useFlowSigmas: boolean
  finalSigmasType: string
}

const count = z.int().positive()
const given = <T extends z.ZodType>(schema: T, otherwise: z.output<T>) =>
  schema.nullish().transform((value) => value ?? otherwise)

const transformerFile = z.looseObject({
  patch_size: given(z.tuple([z.literal(1), count, count]), [1, 2, 2]),
  num_attention_heads: given(count, 40),
  attention_head_dim: given(count.multipleOf(2), 128),
  in_channels: given(count, 36),
  out_channels: given(count, 16),
  text_dim: given(count, 4096),
  freq_dim: given(count.multipleOf(2), 256),
  ffn_dim: given(count, 13824),
  num_layers: given(count, 40),
  cross_attn_norm: given(z.literal(true), true),
  qk_norm: given(z.literal('rms_norm_across_heads'), 'rms_norm_across_heads'),
  eps: given(z.number().positive(), 1e-6),
  rope_max_seq_len: given(count, 1024),
})

/** The latent statistics of the Wan 2.1 VAE, which Wan 2.2 A14B uses. */
const releaseMean = [
  -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508, 0.4134, -0.0715, 0.5517,
  -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
]
const releaseStd = [
  2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743, 3.2687, 2.1526, 2.8652, 1.5579,
  1.6382, 1.1253, 2.8251, 1.916,
]

const vaeFile = z
  .looseObject({
    base_dim: given(count, 96),
    decoder_base_dim: z.nullish(count),
    z_dim: given(count, 16),
    dim_mult: given(z.array(count).min(2), [1, 2, 4, 4]),
    num_res_blocks: given(count, 2),
    attn_scales: given(z.array(z.number()).length(0), []),
    temperal_downsample: given(z.array(z.boolean()), [false, true, true]),
    latents_mean: given(z.array(z.number()), releaseMean),
    latents_std: given(z.array(z.number().positive()), releaseStd),
    is_residual: given(z.literal(false), false),
    in_channels: given(z.literal(3), 3),
    out_channels: given(z.literal(3), 3),
    patch_size: z.nullish(z.literal(1)),
  })
  .refine((c) => c.temperal_downsample.length === c.dim_mult.length - 1, {
    path: ['temperal_downsample'],
    message: 'must have one entry less than dim_mult',
  })
  .refine((c) => c.latents_mean.length === c.z_dim && c.latents_std.length === c.z_dim, {
    path: ['latents_mean'],
    message: 'latents_mean and latents_std must have z_dim entries',
  })

const textEncoderFile = z.looseObject({
  vocab_size: given(count, 256384),
  d_model: given(count, 4096),
  num_heads: given(count, 64),
  d_kv: given(count, 64),
  d_ff: given(count, 10240),
  num_layers: given(count, 24),
  relative_attention_num_buckets: given(count.multipleOf(4), 32),
  relative_attention_max_distance: given(count, 128),
  layer_norm_epsilon: given(z.number().positive(), 1e-6),
  feed_forward_proj: given(z.literal('gated-gelu'), 'gated-gelu'),
})

const schedulerFile = z.looseObject({
  _class_name: given(z.string(), 'UniPCMultistepScheduler'),
  flow_shift: given(z.number().positive(), 3),
  num_train_timesteps: given(count, 1000),
  solver_order: given(count, 2),
  solver_type: given(z.string(), 'bh2'),
  lower_order_final: given(z.boolean(), true),
  predict_x0: given(z.boolean(), true),
  prediction_type: given(z.string(), 'flow_prediction'),
  use_flow_sigmas: given(z.boolean(), true),
  final_sigmas_type: given(z.string(), 'zero'),
})

function parse<T extends z.ZodType>(schema: T, value: unknown, file: string): z.output<T> {
  const parsed = schema.safeParse(value)
  if (parsed.success) return parsed.data
  const problems = parsed.error.issues.map(
    (issue) => `${issue.path.join('.') || 'the file'}: ${issue.message}`,
  )
  throw checkpointErrors.BAD_CONFIG(file, problems.join('; '))
}

/** @param file name for errors */
export function parseTransformerConfig(
  json: unknown,
  file = 'transformer/config.json',
): TransformerConfig {
  const c = parse(transformerFile, json, file)
  return {
    patchSize: c.patch_size,
    numHeads: c.num_attention_heads,
    headDim: c.attention_head_dim,
    inChannels: c.in_channels,
    outChannels: c.out_channels,
    textDim: c.text_dim,
    freqDim: c.freq_dim,
    ffnDim: c.ffn_dim,
    numLayers: c.num_layers,
    eps: c.eps,
    ropeMaxLength: c.rope_max_seq_len,
  }
}

/** @param file name for errors */
export function parseVaeConfig(json: unknown, file = 'vae/config.json'): VaeConfig {
  const c = parse(vaeFile, json, file)
  return {
    baseDim: c.base_dim,
    decoderBaseDim: c.decoder_base_dim ?? c.base_dim,
    zDim: c.z_dim,
    dimMult: c.dim_mult,
    numResBlocks: c.num_res_blocks,
    temporalDownsample: c.temperal_downsample,
    latentsMean: c.latents_mean,
    latentsStd: c.latents_std,
    temporalFactor: 2 ** c.temperal_downsample.filter(Boolean).length,
    spatialFactor: 2 ** (c.dim_mult.length - 1),
  }
}

/** @param file name for errors */
export function parseTextEncoderConfig(
  json: unknown,
  file = 'text_encoder/config.json',
): TextEncoderConfig {
  const c = parse(textEncoderFile, json, file)
  return {
    vocabSize: c.vocab_size,
    dim: c.d_model,
    numHeads: c.num_heads,
    headDim: c.d_kv,
    ffnDim: c.d_ff,
    numLayers: c.num_layers,
    numBuckets: c.relative_attention_num_buckets,
    maxDistance: c.relative_attention_max_distance,
    eps: c.layer_norm_epsilon,
  }
}

/** @param file name for errors */
export function parseSchedulerConfig(
  json: unknown,
  file = 'scheduler/scheduler_config.json',
): SchedulerConfig {
  const c = parse(schedulerFile, json, file)
  return {
    className: c._class_name,
    flowShift: c.flow_shift,
    numTrainTimesteps: c.num_train_timesteps,
    solverOrder: c.solver_order,
    solverType: c.solver_type,
    lowerOrderFinal: c.lower_order_final,
    predictX0: c.predict_x0,
    predictionType: c.prediction_type,
    useFlowSigmas: c.use_flow_sigmas,
    finalSigmasType: c.final_sigmas_type,
  }
}
