import { readFileSync, readdirSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { ConfigError, type ConfigIssue } from './errors.ts'
import { keyRules } from './key-policy.ts'
import { parseTrainJob, type ParseTrainJobOptions } from './parse-train-job.ts'
import { recipe, recipeMemories } from './recipe.ts'
import { schemaAt } from './schema-walk.ts'
import { goals, trainJobSchema } from './train-job-schema.ts'

const examples = new URL('../../examples/', import.meta.url)

/** The smallest job, with lines put into its sections. */
function jobText(
  parts: Partial<Record<'config' | 'process' | 'train' | 'model' | 'dataset' | 'top', string>> = {},
): string {
  const indent = (text: string | undefined, spaces: number) =>
    text === undefined
      ? ''
      : text
          .split('\n')
          .map((line) => `\n${' '.repeat(spaces)}${line}`)
          .join('')
  return `job: extension${indent(parts.top, 0)}
config:
  name: test${indent(parts.config, 2)}
  process:
    - type: diffusion_trainer${indent(parts.process, 6)}
      datasets:
        - folder_path: clips${indent(parts.dataset, 10)}
      model:
        name_or_path: checkpoint
        arch: wan22_14b_i2v${indent(parts.model, 8)}${parts.train === undefined ? '' : `\n      train:${indent(parts.train, 8)}`}
`
}

const parse = (text: string, options: Partial<ParseTrainJobOptions> = {}) =>
  parseTrainJob(text, { fileName: 'job.yaml', ...options })

function issuesOf(
  text: string,
  options: Partial<ParseTrainJobOptions> = {},
): readonly ConfigIssue[] {
  try {
    parse(text, options)
  } catch (error) {
    if (error instanceof ConfigError) return error.issues
    throw error
  }
  return []
}

describe('examples', () => {
  it('hold every recipe as it is (pnpm --filter @kinora/config-schema generate)', () => {
    for (const goal of goals) {
      for (const memory of recipeMemories) {
        expect(readFileSync(new URL(`${goal}-${memory}gb.yaml`, examples), 'utf8')).toBe(
          recipe(goal, memory),
        )
      }
    }
  })

  it.each(readdirSync(examples).filter((name) => /\.(yaml|json)$/.test(name)))(
    '%s parses',
    (name) => {
      const job = parseTrainJob(readFileSync(new URL(name, examples), 'utf8'), { fileName: name })
      expect(job.config.process[0].model.arch).toBe('wan22_14b_i2v')
    },
  )

  it('reads the reference config of AI Toolkit to the values it names', () => {
    const job = parse(readFileSync(new URL('ai-toolkit-24gb.yaml', examples), 'utf8'))
    const [process] = job.config.process
    expect(process.network).toMatchObject({ type: 'lora', linear: 32, linear_alpha: 32 })
    expect(process.save).toMatchObject({
      dtype: 'fp16',
      save_every: 250,
      max_step_saves_to_keep: 4,
    })
    expect(process.train).toMatchObject({
      lr: 1e-4,
      steps: 2000,
      switch_boundary_every: 10,
      dtype: 'bf16',
    })
    expect(process.train.optimizer_params).toEqual({
      weight_decay: 1e-4,
      betas: [0.9, 0.999],
      eps: 1e-6,
    })
    expect(process.model).toMatchObject({
      qtype: 'uint4',
      accuracy_recovery_adapter:
        'ostris/accuracy_recovery_adapters/wan22_14b_i2v_torchao_uint4.safetensors',
      layer_offloading: false,
    })
    expect(process.datasets[0]).toMatchObject({
      caption_ext: '.txt',
      resolution: [512, 768, 1024],
      num_frames: 41,
    })
    expect(process.sample.samples.map((sample) => sample.seed)).toEqual([42, 43])
    expect(process.sample.format).toBe('webp')
    expect(job.meta).toEqual({ name: 'my_first_wan22_i2v_lora', version: '1.0' })
    expect(
      job.warnings.map((warning) => [warning.code, warning.path.split('.').at(-1), warning.line]),
    ).toEqual([['CONFIG_NO_EFFECT', 'device', 8]])
  })

  it('warns by name of what the web form writes to no effect', () => {
    const name = 'ai-toolkit-web-form.json'
    const job = parseTrainJob(readFileSync(new URL(name, examples), 'utf8'), { fileName: name })
    const quiet = job.warnings.filter((warning) => warning.code === 'CONFIG_NO_EFFECT')
    expect(quiet.map((warning) => warning.path.split('.').at(-1))).toEqual([
      'sqlite_db_path',
      'device',
      'performance_log_every',
      'conv',
      'conv_alpha',
      'do_i2v',
      'bypass_guidance_embedding',
      'use_ui_logger',
    ])
    expect(job.config.process[0].sample.samples[0]).toMatchObject({
      prompt: '0rbit the camera orbits the subject',
      network_multiplier: 1,
    })
  })
})

describe('the dialect', () => {
  it('fills in every default of the code of AI Toolkit', () => {
    const [process] = parse(jobText()).config.process
    expect(process.train).toMatchObject({
      steps: 1000,
      batch_size: 1,
      gradient_accumulation: 1,
      lr: 1e-6,
      optimizer: 'adamw',
      lr_scheduler: 'constant',
      max_grad_norm: 1,
      dtype: 'fp32',
      timestep_type: 'sigmoid',
      content_or_style: 'balanced',
      content_or_style_reg: 'balanced',
      switch_boundary_every: 1,
      loss_type: 'mse',
    })
    expect(process.train.optimizer_params).toEqual({
      weight_decay: 0.01,
      betas: [0.9, 0.999],
      eps: 1e-6,
    })
    expect(process.network).toMatchObject({
      type: 'lora',
      linear: 4,
      linear_alpha: 4,
      split_multistage_loras: true,
    })
    expect(process.save).toMatchObject({
      dtype: 'fp16',
      save_every: 1000,
      max_step_saves_to_keep: 5,
    })
    expect(process.datasets[0]).toMatchObject({
      resolution: [512],
      num_frames: 1,
      fps: 24,
      trigger_word: null,
    })
    expect(process.sample).toMatchObject({
      width: 512,
      seed: 0,
      guidance_scale: 7,
      samples: [],
      format: 'jpg',
    })
    expect(process.first_sample).toBeNull()
    expect(process.kinora).toMatchObject({ boundary: null, compute: 'auto', accumulation: 'mean' })
  })

  it.each([
    ['1e-4', 1e-4],
    ['1E-04', 1e-4],
    ['.5', 0.5],
    ['5.', 5],
    ['1.0e-4', 1e-4],
    ['1', 1],
  ])('reads lr: %s as a number', (text, value) => {
    expect(parse(jobText({ train: `lr: ${text}` })).config.process[0].train.lr).toBe(value)
  })

  it('resolves older names', () => {
    const job = parse(
      jobText({
        process:
          'network:\n  linear: 8\n  rank: 16\n  alpha: 4\nsample:\n  prompts: [one, two]\n  walk_seed: true\n  seed: 5',
        train: 'gradient_accumulation_steps: 3\ntimestep_type: flux_shift',
        model: 'auto_memory: false\nquantize: false',
        dataset: 'caption_type: caption',
      }),
    )
    const [process] = job.config.process
    expect(process.network).toMatchObject({ linear: 16, linear_alpha: 4 })
    expect(process.network).not.toHaveProperty('rank')
    expect(process.train.gradient_accumulation).toBe(3)
    expect(process.train.timestep_type).toBe('shift')
    expect(process.datasets[0]?.caption_ext).toBe('.caption')
    expect(process.sample.samples.map(({ prompt, seed }) => [prompt, seed])).toEqual([
      ['one', 5],
      ['two', 6],
    ])
  })

  it('drops the suffix of the architecture', () => {
    const text = jobText().replace('wan22_14b_i2v', 'wan22_14b_i2v:14b')
    expect(parse(text).config.process[0].model.arch).toBe('wan22_14b_i2v')
  })

  it('takes null as not set, in the process and below it', () => {
    const job = parse(
      jobText({
        process: 'trigger_word: null\nnetwork: null\nsave:\n  save_every: null',
        train: 'lr: ~\nmax_loss: null',
      }),
    )
    const [process] = job.config.process
    expect(process.trigger_word).toBeNull()
    expect(process.network.linear).toBe(4)
    expect(process.save.save_every).toBe(1000)
    expect(process.train).toMatchObject({ lr: 1e-6, max_loss: null })
  })

  it('takes yes, no, on and off as booleans where booleans are wanted, and nowhere else', () => {
    const job = parse(
      jobText({
        model: 'low_vram: yes',
        dataset: 'flip_x: Off\ndefault_caption: no',
        train: 'train_unet: on',
      }),
    )
    const [process] = job.config.process
    expect(process.model.low_vram).toBe(true)
    expect(process.datasets[0]).toMatchObject({ flip_x: false, default_caption: 'no' })
  })

  it('replaces ${VAR} and [name], also through a name override', () => {
    const text = jobText({
      process: 'training_folder: ${ROOT}/[name]',
      train: 'lr: ${LR}',
      top: 'meta: {name: "[name]"}',
    })
    const job = parse(text, { env: { ROOT: 'out', LR: '2e-4' }, name: 'other' })
    expect(job.config.name).toBe('other')
    expect(job.config.process[0].training_folder).toBe('out/other')
    expect(job.config.process[0].train.lr).toBe(2e-4)
    expect(job.meta).toEqual({ name: 'other' })
  })

  it('does not ask for variables that stand in comments', () => {
    expect(
      parse(jobText({ train: 'lr: 1e-4 # was ${OLD_LR}\n# ${ALSO}' })).config.process[0].train.lr,
    ).toBe(1e-4)
  })

  it('gives places in the file as it is, not as it is after ${VAR} is replaced', () => {
    const [issue] = issuesOf(
      jobText({ process: 'training_folder: ${A}\ntrigger_word: {a: ${A}, b: 1}' }),
      {
        env: { A: 'a long value\\, longer than its name' },
      },
    )
    expect(issue).toMatchObject({ line: 7, column: 7, path: 'config.process[0].trigger_word' })
    const [sameLine] = issuesOf(jobText({ process: 'kinora: {cache_dir: "${A}", bounday: 1}' }), {
      env: { A: 'x'.repeat(50) },
    })
    expect(sameLine).toMatchObject({ line: 6, column: 35 })
  })

  it('reads JSON with tabs and comments, and says where in it', () => {
    const text = `{
\t// the job
\t"job": "extension", /* of this
\tkind */ "config": {
\t\t"name": "job", "process": [{
\t\t\t"type": "sd_trainer", "datasets": [{"folder_path": "// /* c */"}],
\t\t\t"model": {"name_or_path": "m", "arch": "wan22_14b_i2v"},
\t\t\t"train": {"steps": 5, "lrr": 1},
\t\t}]
\t}
}`
    expect(issuesOf(text, { fileName: 'job.jsonc' })).toMatchObject([{ line: 8, column: 26 }])
    const job = parse(text.replace(', "lrr": 1', ''), { fileName: 'job.jsonc' })
    expect(job.config.process[0].datasets[0]?.folder_path).toBe('// /* c */')
  })

  it('follows anchors and merge keys', () => {
    const job = parse(
      `
base: &set {folder_path: a, num_frames: 41}
`.replace(
        'base: &set {folder_path: a, num_frames: 41}',
        jobText({ dataset: 'num_frames: 41' })
          .replace('- folder_path', '- &first\n          folder_path')
          .replace(
            '      model:',
            '        - <<: *first\n          folder_path: more\n      model:',
          ),
      ),
    )
    expect(job.config.process[0].datasets.map((set) => [set.folder_path, set.num_frames])).toEqual([
      ['clips', 41],
      ['more', 41],
    ])
  })

  it('takes settings out of prompts, and leaves a dash pair in prose alone', () => {
    const job = parse(
      jobText({
        process:
          'sample:\n  width: 640\n  prompts:\n    - "a boat -- slowly -- sails --w 320 --seed 7 --n blurry, grey --m 0.5"',
      }),
    )
    expect(job.config.process[0].sample.samples).toMatchObject([
      {
        prompt: 'a boat -- slowly -- sails',
        width: 320,
        height: 512,
        seed: 7,
        neg: 'blurry, grey',
        network_multiplier: 0.5,
      },
    ])
  })

  it('snaps sizes and frame counts, once for each place they are written', () => {
    const job = parse(
      jobText({
        dataset: 'num_frames: 40',
        process:
          'sample:\n  width: 500\n  num_frames: 43\n  samples:\n    - prompt: a\n    - {prompt: b, height: 1000}',
      }),
    )
    expect(job.config.process[0].datasets[0]?.num_frames).toBe(37)
    expect(job.config.process[0].sample.samples).toMatchObject([
      { width: 496, height: 512, num_frames: 41 },
      { width: 496, height: 992, num_frames: 41 },
    ])
    expect(
      job.warnings.map(({ code, path }) => [code, path.replace('config.process[0].', '')]),
    ).toEqual([
      ['CONFIG_SNAPPED', 'sample.width'],
      ['CONFIG_SNAPPED', 'sample.num_frames'],
      ['CONFIG_SNAPPED', 'sample.samples[1].height'],
      ['CONFIG_SNAPPED', 'datasets[0].num_frames'],
    ])
  })
})

describe('bad input', () => {
  // parts, code, line, column, words of the message and the fix
  it.each<[Parameters<typeof jobText>[0], string, number, number, RegExp]>([
    [{ train: 'stpes: 5' }, 'UNKNOWN_KEY', 12, 9, /"stpes" in train.*mean "steps"/],
    [
      { train: 'learning_rate: 1e-4' },
      'UNKNOWN_KEY',
      12,
      9,
      /"learning_rate".*Known keys here: steps/,
    ],
    [{ train: 'rank: 16' }, 'UNKNOWN_KEY', 12, 9, /belongs under network/],
    [{ config: 'naem: x' }, 'UNKNOWN_KEY', 4, 3, /"naem" in config.*"name"/],
    [{ top: 'confg: 1' }, 'UNKNOWN_KEY', 2, 1, /"confg" in the job.*"config"/],
    [
      { dataset: 'num_frame: 41' },
      'UNKNOWN_KEY',
      8,
      11,
      /"num_frame" in datasets\[0\].*"num_frames"/,
    ],
    [{ train: 'optimizer_params: {weight_deacy: 1}' }, 'UNKNOWN_KEY', 12, 28, /weight_decay/],
    [{ process: 'kinora:\n  bundary: 0.9' }, 'UNKNOWN_KEY', 7, 9, /boundary/],
    [{ train: 'steps: many' }, 'BAD_VALUE', 12, 16, /"steps" cannot be "many".*a number/],
    [{ train: 'steps: 1.5' }, 'BAD_VALUE', 12, 16, /whole number/],
    [{ train: 'steps: 0' }, 'BAD_VALUE', 12, 16, /above 0/],
    [{ train: 'steps: [1]' }, 'BAD_VALUE', 12, 9, /a number/],
    [{ train: 'lr: -1e-4' }, 'BAD_VALUE', 12, 13, /above 0/],
    [{ train: 'optimizer: adamw16bit' }, 'BAD_VALUE', 12, 20, /mean "adamw8bit"/],
    [{ train: 'optimizer: automagic' }, 'REFUSED', 12, 20, /automagic.*prodigy/],
    [{ train: 'timestep_type: one_step' }, 'REFUSED', 12, 24, /bands/],
    [{ train: 'noise_scheduler: ddpm' }, 'REFUSED', 12, 26, /flowmatch/],
    [{ train: 'loss_type: wavelet' }, 'REFUSED', 12, 20, /video latents/],
    [{ train: 'min_snr_gamma: 5' }, 'REFUSED', 12, 9, /DDPM/],
    [{ train: 'noise_offset: 0.1' }, 'REFUSED', 12, 9, /video latents/],
    [{ train: 'diff_output_preservation: true' }, 'CONFLICT', 12, 9, /trigger word/],
    [
      { process: 'network: {type: dora, network_kwargs: {rank_dropout: 0.1}}' },
      'CONFLICT',
      6,
      46,
      /dora.*module_dropout/,
    ],
    [{ process: 'network: {transformer_only: false}' }, 'REFUSED', 6, 17, /outside the blocks/],
    [{ dataset: 'dataset_path: captions.json' }, 'BAD_VALUE', 8, 25, /caption file beside/],
    [{ train: 'ema_config: {use_feedback: true}' }, 'REFUSED', 12, 22, /experiment/],
    [{ train: 'train_text_encoder: true' }, 'BAD_VALUE', 12, 29, /false/],
    [
      { train: 'gradient_accumulation: 2\ngradient_accumulation_steps: 2' },
      'CONFLICT',
      13,
      9,
      /exclude/,
    ],
    [
      { train: 'unload_text_encoder: true\ncache_text_embeddings: true' },
      'CONFLICT',
      12,
      9,
      /exclude/,
    ],
    [
      { model: 'model_kwargs: {train_high_noise: false, train_low_noise: false}' },
      'CONFLICT',
      11,
      9,
      /Neither expert/,
    ],
    [{ model: 'qtype: int3' }, 'BAD_VALUE', 11, 16, /"qtype" cannot be "int3"/],
    [{ model: 'lora_path: x.safetensors' }, 'REFUSED', 11, 9, /refuses/],
    [{ dataset: 'control_path: c' }, 'REFUSED', 8, 11, /first frame/],
    [{ dataset: 'type: video' }, 'BAD_VALUE', 8, 17, /image/],
    [{ dataset: 'resolution: [512, big]' }, 'BAD_VALUE', 8, 29, /resolution\[1\].*number/],
    [{ dataset: 'caption_dropout_rate: 5' }, 'BAD_VALUE', 8, 33, /at most 1/],
    [{ dataset: 'is_reg: true' }, 'CONFLICT', 6, 7, /nothing to learn/],
    [{ process: 'network: {type: locon}' }, 'REFUSED', 6, 23, /convolutions/],
    [{ process: 'network: {type: lokr, dropout: 0.1}' }, 'CONFLICT', 6, 29, /lokr.*module_dropout/],
    [{ process: 'network: {type: locon}' }, 'REFUSED', 6, 23, /convolution/],
    [{ process: 'save: {dtype: float8}' }, 'REFUSED', 6, 21, /8 bits/],
    [{ process: 'logging: {use_wandb: true}' }, 'REFUSED', 6, 17, /no service/],
    [{ process: 'sample: {prompts: [a boat --gr 5]}' }, 'BAD_VALUE', 6, 26, /--gr/],
    [{ process: 'sample: {samples: [{ctrl_img: a.png}]}' }, 'MISSING_KEY', 6, 26, /lacks "prompt"/],
    [{ process: 'kinora: {boundary: 875}' }, 'BAD_VALUE', 6, 26, /below 1/],
    [{ train: 'lr: ${LR}' }, 'UNSET_VARIABLE', 12, 13, /LR.*environment/],
    [{ train: 'lr: 1\nlr: 2' }, 'SYNTAX', 13, 9, /unique/],
    [{ train: 'lr: [1' }, 'SYNTAX', 13, 1, /./],
  ])('%j is %s at %i:%i', (parts, code, line, column, words) => {
    const issues = issuesOf(jobText(parts))
    expect(issues).toHaveLength(1)
    expect(issues[0]).toMatchObject({ code: `CONFIG_${code}`, file: 'job.yaml', line, column })
    expect(`${issues[0]?.message} ${issues[0]?.fix}`).toMatch(words)
  })

  it.each([
    ['', 'NOT_A_JOB'],
    ['- a', 'NOT_A_JOB'],
    ['job: train\nconfig: {}', 'BAD_VALUE'],
    [jobText().replace('wan22_14b_i2v', 'flux'), 'OTHER_ARCHITECTURE'],
    [jobText().replace('wan22_14b_i2v', 'wan22_14b:t2v'), 'OTHER_ARCHITECTURE'],
    [jobText().replace('diffusion_trainer', 'concept_slider'), 'REFUSED'],
    [jobText().replace('name: test', 'name: a/b'), 'BAD_VALUE'],
    [jobText().replace('folder_path: clips', 'caption_ext: txt'), 'MISSING_KEY'],
  ])('refuses %j', (text, code) => {
    expect(issuesOf(text).map((issue) => issue.code)).toContain(`CONFIG_${code}`)
  })

  it('refuses a second process', () => {
    const text = jobText()
      .replace('      datasets:', '      datasets:')
      .concat('    - type: sd_trainer\n')
    const issues = issuesOf(text)
    expect(issues).toHaveLength(1)
    expect(issues[0]?.message).toMatch(/exactly one process, and has 2/)
  })

  it('names every problem at once, in the order of the file', () => {
    const text = jobText({
      process: 'trigger: x\nnetwork: {linear: 0}',
      train: 'stpes: 5\nlr: fast\nsnr_gamma: 1',
    })
    const issues = issuesOf(text)
    expect(issues.map(({ line, code }) => [line, code.replace('CONFIG_', '')])).toEqual([
      [6, 'UNKNOWN_KEY'],
      [7, 'BAD_VALUE'],
      [14, 'UNKNOWN_KEY'],
      [15, 'BAD_VALUE'],
      [16, 'REFUSED'],
    ])
    expect(() => parse(text)).toThrow(
      /job\.yaml:14:9: Unknown key "stpes" in train\. Did you mean "steps"\?/,
    )
  })
})

describe('key rules', () => {
  it.each(keyRules.map((rule) => [`${rule.section}.${rule.key}`, rule] as const))(
    '%s is about a section that exists, and says why in a sentence',
    (_, rule) => {
      const path = rule.section === 'process' ? [] : rule.section.split('.')
      const lists = new Set(['datasets', 'samples'])
      const indexed = path.flatMap((key) => (lists.has(key) ? [key, 0] : [key]))
      expect(schemaAt(trainJobSchema, ['config', 'process', 0, ...indexed])).toBeDefined()
      expect(rule.rule.reason).toMatch(/\w.*\.$/)
    },
  )

  it('has no schema for what it refuses', () => {
    for (const { section, key, rule, only } of keyRules) {
      const path = section === 'process' ? [] : section.split('.')
      const indexed = path.flatMap((part) =>
        part === 'datasets' || part === 'samples' ? [part, 0] : [part],
      )
      const known =
        schemaAt(trainJobSchema, ['config', 'process', 0, ...indexed, key]) !== undefined
      if (rule.kind === 'refused' && only === undefined) expect([key, known]).toEqual([key, false])
    }
  })
})
