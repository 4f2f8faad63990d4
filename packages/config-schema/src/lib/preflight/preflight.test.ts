import { describe, expect, it } from 'vitest'
import { readFileSync } from 'node:fs'
import { parse as parseYaml, stringify } from 'yaml'
import type { BucketPlan } from '../bucket-plan.ts'
import { parseTrainJob } from '../parse-train-job.ts'
import { recipe } from '../recipe.ts'
import { preflight, preflightRules } from './preflight.ts'
import type { DatasetFacts, PreflightFacts } from './rule.ts'

type Change = Record<string, unknown>

const dataset: DatasetFacts = {
  numClips: 20,
  medianSeconds: 3,
  maxPixels: 1280 * 720,
  captions: ['m0tion, the camera rises', 'm0tion, the camera sinks'],
}
const facts: PreflightFacts = {
  datasets: [dataset],
  checkpoint: { boundaryRatio: 0.9, expertParameters: 14_288_901_184 },
  device: { memoryBytes: 24e9, hasF16: true },
  missingFiles: [],
}

/** The motion recipe on 24 GB with some of its settings changed, `a.b.c` by path below the process. */
function changed(changes: Change) {
  const file = parseYaml(recipe('motion', 24)) as { config: { process: [Record<string, unknown>] } }
  for (const [path, value] of Object.entries(changes)) {
    const keys = path.split('.')
    let holder: Record<string, unknown> = file.config.process[0]
    for (const key of keys.slice(0, -1)) {
      holder[key] ??= {}
      holder = holder[key] as Record<string, unknown>
    }
    holder[keys.at(-1)!] = value
  }
  return parseTrainJob(stringify(file), { fileName: 'job.yaml' })
}

const plan = (numItems: number, batchSize: number, speedUp: number): BucketPlan => ({
  version: 1,
  tool: 'test',
  fps: 16,
  options: {},
  buckets: [
    {
      width: 512,
      height: 512,
      numFrames: 5,
      resolution: 512,
      batchSize,
      items: Array.from({ length: numItems }, (_, index) => ({
        clip: `${index}.mp4`,
        dataset: 0,
        frameIndices: [0, 1, 2, 3, 4],
        speedUp,
        resize: { width: 512, height: 512 },
        crop: { x: 0, y: 0, width: 512, height: 512 },
        flip: false,
        weight: 1,
        regularisation: false,
      })),
    },
  ],
  skipped: [],
})

const withSet = (more: Partial<DatasetFacts>): PreflightFacts => ({
  ...facts,
  datasets: [{ ...dataset, ...more }],
})

// code, what sets it off, words of the finding, and (first of all) nothing else is said
const cases: [string, Change, PreflightFacts, RegExp][] = [
  ['NO_CLIPS', {}, withSet({ numClips: 0 }), /data\/clips holds no clip/],
  [
    'TOO_FEW_CLIPS',
    { 'train.steps': 1000, 'save.max_step_saves_to_keep': 4 },
    withSet({ numClips: 4 }),
    /4 clips.*8 or more/,
  ],
  ['IMAGE_ONLY', { 'datasets.0.num_frames': 1, 'sample.num_frames': 1 }, facts, /single frames/],
  ['FEW_FRAMES', { 'datasets.0.num_frames': 9, 'sample.num_frames': 9 }, facts, /9 frames, 0\.6 s/],
  [
    'SPED_UP',
    { 'kinora.frame_mode': null },
    withSet({ medianSeconds: 6 }),
    /6\.0 s in 41 frames play 2\.3 times/,
  ],
  ['SPED_UP', {}, { ...facts, plan: plan(3, 1, 2.5) }, /3 of 3 samples.*2\.5 times/],
  ['SHORT_CLIPS', {}, withSet({ medianSeconds: 1 }), /1\.0 s, and 41 frames are 2\.6 s/],
  [
    'RESOLUTION_UNUSED',
    { 'datasets.0.resolution': [512, 1024] },
    withSet({ maxPixels: 640 * 360 }),
    /1024 is above the 480²/,
  ],
  [
    'BATCH_UNFILLED',
    {},
    { ...facts, plan: plan(1, 2, 1) },
    /512×512×5 has 1 samples for batches of 2/,
  ],
  ['NO_TRIGGER', { trigger_word: null, 'kinora.goal': 'character' }, facts, /no trigger word/],
  ['TRIGGER_IN_WORD', { trigger_word: 'cam' }, facts, /"cam" stands inside.*2 captions/],
  ['CAPTIONS_MISSING', {}, withSet({ captions: ['a', null, ' '] }), /2 of 3 clips/],
  [
    'CAPTIONS_UNREAD',
    { 'train.unload_text_encoder': true, 'train.cache_text_embeddings': false },
    facts,
    /not read/,
  ],
  ['DROPOUT_HIGH', { 'datasets.0.caption_dropout_rate': 0.5 }, facts, /50 %/],
  [
    'FLIP_DIRECTION',
    { 'datasets.0.flip_x': true },
    withSet({ captions: ['m0tion to the left'] }),
    /1 captions name a direction/,
  ],
  ['FLIP_DIRECTION', { 'datasets.0.flip_x': true }, facts, /one to the right as well/],
  ['FLIP_UPSIDE_DOWN', { 'datasets.0.flip_y': true }, facts, /on their head/],
  [
    'REGULARISATION_HEAVY',
    { 'datasets.1': { folder_path: 'reg', is_reg: true, num_frames: 41 }, 'train.reg_weight': 2 },
    facts,
    /reg_weight 2/,
  ],
  [
    'WEIGHTS_EXCEED_MEMORY',
    { 'model.quantize': false },
    facts,
    /One expert takes 26\.6 GiB.*22\.4 GiB/,
  ],
  [
    'WEIGHTS_EXCEED_MEMORY',
    { 'model.low_vram': false, 'model.qtype': 'qfloat8' },
    facts,
    /Both experts take 26\.6 GiB/,
  ],
  ['SWITCH_LOW_VRAM', { 'train.switch_boundary_every': 1 }, facts, /every 1 steps/],
  ['SWITCH_LONG', { 'train.switch_boundary_every': 500 }, facts, /Turns of 500/],
  ['SWITCH_SPLITS_STEP', { 'train.gradient_accumulation': 4 }, facts, /a step has 4/],
  ['ONE_EXPERT', { 'model.model_kwargs.train_high_noise': false }, facts, /Only the low-noise/],
  [
    'EXPERT_STARVED',
    { 'kinora.high_noise_share': 0.9 },
    facts,
    /low-noise expert gets 250 of 2500/,
  ],
  ['BIAS_AGAINST_GOAL', { 'train.content_or_style': 'style' }, facts, /clean end/],
  ['SIGMOID_TAIL', { 'train.timestep_type': 'sigmoid' }, facts, /sigmoid/],
  ['BOUNDARY_DIFFERS', { 'kinora.boundary': 0.875 }, facts, /0\.875.*0\.9/],
  ['LR_HIGH', { 'train.lr': 1e-3 }, facts, /0\.001 is high/],
  ['LR_LOW', { 'train.lr': 1e-6 }, facts, /next to nothing/],
  ['LR_PRODIGY', { 'train.optimizer': 'prodigy' }, facts, /prodigy/],
  ['NETWORK_WITHOUT_DIFFUSERS', { 'network.type': 'lokr' }, facts, /lokr.*diffusers/],
  ['WEIGHT_DECAY_HIGH', { 'train.optimizer_params.weight_decay': 0.5 }, facts, /0\.5/],
  ['RANK_HIGH', { 'network.linear': 128, 'network.linear_alpha': 128 }, facts, /Rank 128.*1227 MB/],
  ['RANK_LOW', { 'network.linear': 4, 'network.linear_alpha': 4 }, facts, /Rank 4/],
  ['ALPHA_IGNORED', { 'network.linear_alpha': 8 }, facts, /linear_alpha 8 with rank 16/],
  [
    'TOO_FEW_STEPS',
    { 'train.steps': 300, 'train.switch_boundary_every': 10 },
    facts,
    /150 updates/,
  ],
  [
    'TOO_MANY_STEPS',
    { 'train.steps': 10_000, 'save.max_step_saves_to_keep': 0 },
    withSet({ numClips: 10 }),
    /500 times/,
  ],
  ['DIFFERENTIAL_GUIDANCE_INERT', { 'train.do_differential_guidance': true }, facts, /no effect/],
  [
    'EMA_SLOW',
    { 'train.ema_config.use_ema': true },
    facts,
    /1000 updates, and an expert gets 1250/,
  ],
  ['SAVES_RARE', { 'save.save_every': 0 }, facts, /no save before step 2500/],
  ['SAVES_PRUNED', { 'save.max_step_saves_to_keep': 2 }, facts, /last 500 of 2500/],
  ['COMPUTE_SLOW', { 'train.dtype': 'fp32' }, facts, /f32/],
  ['VALIDATION_EMPTY', { 'kinora.validation.fraction': 0.01 }, facts, /0 clips/],
  ['SAMPLE_NO_CONTROL', { 'kinora.sample.auto_control': false }, facts, /Sample 1.*no ctrl_img/],
  ['FILE_MISSING', {}, { ...facts, missingFiles: ['first.png'] }, /first\.png/],
  ['NO_SAMPLES', { 'sample.samples': [] }, facts, /no sample prompts/],
  ['SAMPLE_FRAMES_FAR', { 'sample.num_frames': 121 }, facts, /121 frames, and training 41/],
  [
    'SAMPLE_SIZE_FAR',
    { 'sample.width': 1024, 'sample.height': 1024 },
    facts,
    /1024×1024.*512 squared/,
  ],
  ['TRIGGER_NOT_SAMPLED', { 'sample.samples': [{ prompt: 'a boat' }] }, facts, /No sample prompt/],
  ['SAMPLE_GUIDANCE_HIGH', { 'sample.guidance_scale': 7 }, facts, /7 is high/],
  ['SAMPLE_STEPS_FEW', { 'sample.sample_steps': 8 }, facts, /8 sample steps/],
  ['SAMPLE_COST', { 'sample.sample_every': 10 }, facts, /1\.7 times the 10 steps/],
]

describe('preflight', () => {
  it('has nothing to say of a sound job, with facts or without', () => {
    expect(preflight(changed({}), facts)).toEqual([])
    expect(preflight(changed({}))).toEqual([])
  })

  it.each(cases)('%s speaks up for %j', (code, changes, known, words) => {
    const findings = preflight(changed(changes), known)
    expect(findings.map((finding) => finding.code)).toEqual([`PREFLIGHT_${code}`])
    expect(findings[0]?.message).toMatch(words)
    expect(findings[0]?.fix).toMatch(/^[A-Z].*\.$/)
    expect(findings[0]?.severity).toBe(
      preflightRules.find((rule) => rule.code === findings[0]?.code)?.severity,
    )
  })

  it('has a case for every rule, and codes that differ', () => {
    const codes = preflightRules.map((rule) => rule.code)
    expect(new Set(codes).size).toBe(codes.length)
    expect(new Set(cases.map(([code]) => `PREFLIGHT_${code}`))).toEqual(new Set(codes))
  })

  it('is silent about previews where there are none', () => {
    const job = changed({
      'train.disable_sampling': true,
      'kinora.sample.auto_control': false,
      'sample.guidance_scale': 9,
    })
    expect(preflight(job, facts)).toEqual([])
  })

  it('names errors before warnings', () => {
    const job = changed({ 'train.lr': 1, 'kinora.sample.auto_control': false })
    expect(preflight(job, facts).map((finding) => finding.severity)).toEqual(['error', 'warning'])
  })

  it('has a table of its rules in the README', () => {
    // The formatter pads the cells.
    const readme = readFileSync(new URL('../../../README.md', import.meta.url), 'utf8').replaceAll(
      / +/g,
      ' ',
    )
    for (const { code, severity, about } of preflightRules) {
      expect(readme).toContain(`| \`${code}\` | ${severity} | ${about} |`)
    }
  })
})
