import {
  drain,
  parseOptions,
  writeFileAtomic,
  type RunContext,
  type StageEvent,
} from '@kinora/stage'
import type { z } from 'zod'
import { exporterErrors } from '../errors.ts'
import { exportWorkflowOptions, type ExportWorkflowOptions } from '../options.ts'
import {
  checkGraph,
  toApiForm,
  toUiForm,
  type GraphNode,
  type NodeOutput,
  type WorkflowGraph,
} from './graph.ts'

/** What was written. */
export interface ExportedWorkflow {
  file: string
  format: 'ui' | 'api'
  /** First steps, which the high-noise expert takes. */
  highNoiseSteps: number
  steps: number
}

/**
 * Writes a ComfyUI workflow: image to video with both experts, a LoRA on each that has one, and the boundary as the step at
 * which the second sampler takes over.
 */
export async function* exportWorkflowIter(
  options: ExportWorkflowOptions,
  { signal }: RunContext = {},
): AsyncGenerator<StageEvent, ExportedWorkflow> {
  const resolved = parseOptions('EXPORTER', exportWorkflowOptions, options)
  signal?.throwIfAborted()
  const { steps, boundary, shift, format, out } = resolved
  const highNoiseSteps = numHighNoiseSteps(steps, shift, boundary)
  if (highNoiseSteps === 0 || highNoiseSteps === steps) {
    throw exporterErrors.BAD_BOUNDARY_STEPS(steps, boundary, highNoiseSteps)
  }
  const graph = imageToVideoGraph(resolved, highNoiseSteps)
  const problems = checkGraph(graph)
  if (problems.length > 0) throw exporterErrors.BAD_WORKFLOW(problems)
  const workflow = format === 'ui' ? toUiForm(graph) : toApiForm(graph)
  await writeFileAtomic(out, `${JSON.stringify(workflow, null, 2)}\n`)
  yield {
    type: 'note',
    message: `The workflow is in ${out}: steps 0 to ${highNoiseSteps - 1} at high noise, ${highNoiseSteps} to ${steps - 1} at low noise.`,
  }
  return { file: out, format, highNoiseSteps, steps }
}

/** `exportWorkflowIter` run to its end. */
export function exportWorkflow(
  options: ExportWorkflowOptions,
  context?: RunContext,
): Promise<ExportedWorkflow> {
  return drain(exportWorkflowIter(options, context))
}

/**
 * Steps whose sigma is at or above the boundary, under ComfyUI's `simple` schedule: step i takes entry 1000 − ⌊1000 i / steps⌋
 * of a table of 1000 sigmas u/1000, shifted as s u / (1 + (s − 1) u).
 */
export function numHighNoiseSteps(steps: number, shift: number, boundary: number): number {
  let count = 0
  for (let i = 0; i < steps; i++) {
    const u = (1000 - Math.floor((1000 * i) / steps)) / 1000
    const sigma = (shift * u) / (1 + (shift - 1) * u)
    // A sigma that is the boundary is of the high-noise expert; rounding must not move it.
    if (sigma >= boundary - 1e-9) count++
  }
  return count
}

/** The nodes of image to video with two experts. */
export function imageToVideoGraph(
  options: z.output<typeof exportWorkflowOptions>,
  highNoiseSteps: number,
): WorkflowGraph {
  const graph: Record<string, GraphNode> = {}
  const add = (id: string, node: GraphNode) => {
    graph[id] = node
    return (slot = 0): NodeOutput => ({ from: id, slot })
  }
  const model = (expert: 'high' | 'low', row: number) => {
    const lora = options[expert]
    const title = `${expert === 'high' ? 'High' : 'Low'} noise`
    let output = add(`${expert}_model`, {
      type: 'UNETLoader',
      title: `${title} model`,
      position: [0, row],
      inputs: {
        unet_name: expert === 'high' ? options.modelHigh : options.modelLow,
        weight_dtype: 'default',
      },
    })()
    if (lora !== undefined) {
      output = add(`${expert}_lora`, {
        type: 'LoraLoaderModelOnly',
        title: `${title} LoRA`,
        position: [380, row],
        inputs: {
          model: output,
          lora_name: lora,
          strength_model: expert === 'high' ? options.strengthHigh : options.strengthLow,
        },
      })()
    }
    return add(`${expert}_shift`, {
      type: 'ModelSamplingSD3',
      title: `${title} shift`,
      position: [760, row],
      inputs: { model: output, shift: options.shift },
    })()
  }
  const high = model('high', 0)
  const low = model('low', 180)
  const clip = add('text_encoder', {
    type: 'CLIPLoader',
    title: 'Text encoder',
    position: [0, 380],
    inputs: { clip_name: options.textEncoder, type: 'wan', device: 'default' },
  })()
  const text = (id: string, title: string, prompt: string, row: number) =>
    add(id, {
      type: 'CLIPTextEncode',
      title,
      position: [380, row],
      inputs: { text: prompt, clip },
    })()
  const positive = text('prompt', 'Prompt', options.prompt, 380)
  const negative = text('negative_prompt', 'Negative prompt', options.negativePrompt, 540)
  const vae = add('vae', {
    type: 'VAELoader',
    title: 'VAE',
    position: [0, 540],
    inputs: { vae_name: options.vae },
  })()
  const image = add('first_frame', {
    type: 'LoadImage',
    title: 'First frame',
    position: [0, 680],
    inputs: { image: options.image },
  })()
  const condition = add('condition', {
    type: 'WanImageToVideo',
    title: 'Image to video',
    position: [760, 380],
    inputs: {
      positive,
      negative,
      vae,
      width: options.width,
      height: options.height,
      length: options.numFrames,
      batch_size: 1,
      start_image: image,
    },
  })
  const sampler = {
    sampler_name: options.sampler,
    scheduler: 'simple',
    steps: options.steps,
  } as const
  const noisy = add('high_noise_steps', {
    type: 'KSamplerAdvanced',
    title: 'High noise steps',
    position: [1140, 0],
    inputs: {
      model: high,
      add_noise: 'enable',
      noise_seed: options.seed,
      ...sampler,
      cfg: options.guidance,
      positive: condition(0),
      negative: condition(1),
      latent_image: condition(2),
      start_at_step: 0,
      end_at_step: highNoiseSteps,
      return_with_leftover_noise: 'enable',
    },
  })()
  const latents = add('low_noise_steps', {
    type: 'KSamplerAdvanced',
    title: 'Low noise steps',
    position: [1520, 0],
    inputs: {
      model: low,
      add_noise: 'disable',
      noise_seed: options.seed,
      ...sampler,
      cfg: options.guidanceLow ?? options.guidance,
      positive: condition(0),
      negative: condition(1),
      latent_image: noisy,
      start_at_step: highNoiseSteps,
      // Past the last step: to the end.
      end_at_step: 10000,
      return_with_leftover_noise: 'disable',
    },
  })()
  const frames = add('decode', {
    type: 'VAEDecode',
    title: 'Decode',
    position: [1900, 0],
    inputs: { samples: latents, vae },
  })()
  const video = add('video', {
    type: 'CreateVideo',
    title: 'Video',
    position: [1900, 140],
    inputs: { images: frames, fps: options.fps },
  })()
  add('save', {
    type: 'SaveVideo',
    title: 'Save',
    position: [2280, 0],
    inputs: { video, filename_prefix: 'video/kinora', format: 'auto', codec: 'auto' },
  })
  return graph
}
