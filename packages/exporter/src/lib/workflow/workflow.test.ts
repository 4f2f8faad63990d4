import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { exportWorkflowOptions } from '../options.ts'
import { comfyuiNodes } from './comfyui-nodes.ts'
import { exportWorkflow, imageToVideoGraph, numHighNoiseSteps } from './export-workflow.ts'
import { checkGraph, isLink, toUiForm, type GraphNode, type WorkflowGraph } from './graph.ts'

const folder = await mkdtemp(join(tmpdir(), 'kinora-workflow-'))
afterAll(() => rm(folder, { recursive: true }))

const options = (more: object = {}) =>
  exportWorkflowOptions.parse({
    out: 'w.json',
    high: 'a_high_noise.safetensors',
    low: 'a_low_noise.safetensors',
    ...more,
  })

interface ApiNode {
  class_type: string
  inputs: Record<string, unknown>
}
interface UiNode {
  id: number
  type: string
  inputs: { name: string; type: string; link: number | null }[]
  outputs: { type: string; links: number[] }[]
  widgets_values: unknown[]
}

describe('the boundary as steps', () => {
  // wan22-architecture.md 6.5 counts them for the official schedule.
  it.each([
    [40, 5, 0.9, 15],
    [40, 5, 0.875, 17],
    [20, 5, 0.9, 8],
    [20, 5, 0.875, 9],
    [4, 5, 0.9, 2],
    [40, 3, 0.9, 11],
  ])('%i steps, shift %f, boundary %f: %i at high noise', (steps, shift, boundary, high) =>
    expect(numHighNoiseSteps(steps, shift, boundary)).toBe(high),
  )

  it('counts a sigma that is the boundary itself to the high-noise expert', () => {
    // Unshifted, step 1 of 10 is sigma 0.9.
    expect(numHighNoiseSteps(10, 1, 0.9)).toBe(2)
  })

  it('refuses one that leaves an expert without a step', async () => {
    await expect(
      exportWorkflow({ out: join(folder, 'x.json'), steps: 2, boundary: 0.3 }),
    ).rejects.toMatchObject({
      code: 'EXPORTER_BAD_BOUNDARY_STEPS',
    })
  })
})

describe('the workflow', () => {
  it('fits the nodes of ComfyUI, with both LoRAs, one, or none', () => {
    for (const more of [{}, { low: undefined }, { high: undefined, low: undefined }]) {
      expect(checkGraph(imageToVideoGraph(options(more), 8))).toEqual([])
    }
  })

  it('runs the first steps with the high-noise model and the rest with the low-noise one', async () => {
    const out = join(folder, 'api.json')
    const result = await exportWorkflow({
      out,
      format: 'api',
      high: 'a_high_noise.safetensors',
      low: 'a_low_noise.safetensors',
      strengthLow: 0.8,
      steps: 20,
      guidance: 3.5,
      guidanceLow: 3,
      seed: 7,
    })
    expect(result).toMatchObject({ highNoiseSteps: 8, steps: 20 })
    const api = JSON.parse(await readFile(out, 'utf8')) as Record<string, ApiNode>
    const follow = (value: unknown): ApiNode => api[(value as [string, number])[0]]!
    const samplers = Object.values(api).filter((node) => node.class_type === 'KSamplerAdvanced')
    const [high, low] = samplers as [ApiNode, ApiNode]
    expect(high.inputs).toMatchObject({
      add_noise: 'enable',
      start_at_step: 0,
      end_at_step: 8,
      return_with_leftover_noise: 'enable',
      cfg: 3.5,
      noise_seed: 7,
    })
    expect(low.inputs).toMatchObject({
      add_noise: 'disable',
      start_at_step: 8,
      return_with_leftover_noise: 'disable',
      cfg: 3,
    })
    for (const [sampler, lora, model, strength] of [
      [high, 'a_high_noise.safetensors', 'wan2.2_i2v_high_noise_14B_fp16.safetensors', 1],
      [low, 'a_low_noise.safetensors', 'wan2.2_i2v_low_noise_14B_fp16.safetensors', 0.8],
    ] as const) {
      const shift = follow(sampler.inputs['model'])
      expect(shift).toMatchObject({ class_type: 'ModelSamplingSD3', inputs: { shift: 5 } })
      const loader = follow(shift.inputs['model'])
      expect(loader.inputs).toMatchObject({ lora_name: lora, strength_model: strength })
      expect(follow(loader.inputs['model']).inputs).toMatchObject({ unet_name: model })
    }
    expect(follow(low.inputs['latent_image'])).toBe(high)
  })

  it('has in the editor’s form a link for every linked input, on both sides, and a value for every widget', () => {
    const ui = toUiForm(imageToVideoGraph(options(), 8)) as {
      nodes: UiNode[]
      links: [number, number, number, number, number, string][]
      last_node_id: number
      last_link_id: number
    }
    expect(ui.last_node_id).toBe(ui.nodes.length)
    expect(ui.last_link_id).toBe(ui.links.length)
    const node = (id: number) => ui.nodes.find((one) => one.id === id)!
    for (const [id, from, fromSlot, to, toSlot, type] of ui.links) {
      expect(node(to).inputs[toSlot]).toMatchObject({ link: id, type })
      expect(node(from).outputs[fromSlot]).toMatchObject({ type })
      expect(node(from).outputs[fromSlot]?.links).toContain(id)
    }
    for (const { type, widgets_values: values, inputs } of ui.nodes) {
      const definition = Object.values(comfyuiNodes[type]!.inputs)
      const widgets = definition.filter((input) => !isLink(input))
      const extra = widgets.filter(
        (input) => !isLink(input) && (input.isSeed === true || input.isUpload === true),
      )
      expect(values).toHaveLength(widgets.length + extra.length)
      expect(values.every((value) => value !== undefined)).toBe(true)
      expect(inputs).toHaveLength(definition.length - widgets.length)
    }
    const sampler = ui.nodes.find((one) => one.type === 'KSamplerAdvanced')
    expect(sampler?.widgets_values).toEqual([
      'enable',
      42,
      'fixed',
      20,
      3.5,
      'euler',
      'simple',
      0,
      8,
      'enable',
    ])
  })
})

describe('the check', () => {
  const graph = imageToVideoGraph(options(), 8)
  const change = (
    id: string,
    inputs: Partial<Record<string, GraphNode['inputs'][string] | null>>,
  ): WorkflowGraph => {
    const node = graph[id]!
    const merged = Object.entries({ ...node.inputs, ...inputs }).filter(
      ([, value]) => value !== null,
    )
    return {
      ...graph,
      [id]: { ...node, inputs: Object.fromEntries(merged) as GraphNode['inputs'] },
    }
  }
  it.each<[string, WorkflowGraph, RegExp]>([
    [
      'a node that is unknown',
      { ...graph, x: { type: 'Nope', title: '', position: [0, 0], inputs: {} } },
      /x \(Nope\) is no known node/,
    ],
    ['a missing input', change('decode', { vae: null }), /decode \(VAEDecode\) lacks vae/],
    ['an input there is none', change('decode', { tiles: 4 }), /no input tiles/],
    [
      'a link of another type',
      change('decode', { vae: { from: 'prompt', slot: 0 } }),
      /vae takes VAE, and prompt gives CONDITIONING/,
    ],
    [
      'a slot that is not there',
      change('decode', { samples: { from: 'vae', slot: 3 } }),
      /output 3, which is not there/,
    ],
    ['a value in place of a link', change('decode', { samples: 5 }), /samples is linked/],
    [
      'a link in place of a value',
      change('save', { format: { from: 'video', slot: 0 } }),
      /format is typed in/,
    ],
    [
      'a choice there is none',
      change('high_noise_steps', { scheduler: 'cosine' }),
      /scheduler is cosine, not one of simple/,
    ],
    ['a number out of range', change('high_shift', { shift: 1000 }), /shift is 1000, above 100/],
    [
      'a size off the grid',
      change('condition', { width: 500 }),
      /width is 500, not in steps of 16/,
    ],
    ['half a step', change('low_noise_steps', { steps: 2.5 }), /whole number/],
    [
      'a loop',
      change('high_noise_steps', { latent_image: { from: 'low_noise_steps', slot: 0 } }),
      /depends on itself/,
    ],
  ])('finds %s', (_, bad, words) => {
    expect(checkGraph(bad).join(' ')).toMatch(words)
  })
})
