import { parseTrainJob } from '@kinora/config-schema'
import { describe, expect, it } from 'vitest'
import { planOptions, validationPlanOptions } from './plan-job.ts'

function jobOf(datasets: string, kinora = '') {
  return parseTrainJob(
    `job: extension
config:
  name: demo
  process:
    - type: diffusion_trainer
      training_seed: 7
      datasets:
${datasets}
      train: {noise_scheduler: flowmatch, batch_size: 2}
      model: {name_or_path: checkpoint, arch: wan22_14b_i2v}
${kinora}`,
    { fileName: 'job.yaml' },
  )
}

describe('planOptions', () => {
  it('drops the tail of clips whose frames are counted, or squeezes them, as told', () => {
    const modes = [
      '',
      ', shrink_video_to_frames: false',
      ', trim_auto_frame_count_tail: false',
    ].map(
      (more) =>
        planOptions(
          jobOf(`        - {folder_path: clips, auto_frame_count: true${more}}`),
          'p.json',
        ).datasets![0],
    )
    expect(modes.map((set) => [set!.autoNumFrames, set!.frameMode])).toEqual([
      [true, 'real-time'],
      [true, 'real-time'],
      [true, 'uniform'],
    ])
  })

  it('takes still pictures for sets of one frame alone', () => {
    const job = jobOf(`        - {folder_path: stills, num_frames: 1}
        - {folder_path: clips, num_frames: 5}`)
    const [stills, clips] = planOptions(job, 'plan.json').datasets!
    expect(stills).toMatchObject({ images: true })
    expect(clips).not.toHaveProperty('images')
  })

  it('plans held-out clips as the first set that is learned, each once and as it is', () => {
    const datasets = `        - {folder_path: calm, num_frames: 9, is_reg: true}
        - {folder_path: clips, num_frames: 5, num_repeats: 3, flip_x: true, loss_multiplier: 2}`
    expect(validationPlanOptions(jobOf(datasets), 'held.json')).toBeUndefined()
    const job = jobOf(datasets, '      kinora: {validation: {folder: held}}')
    const { options, dataset } = validationPlanOptions(job, 'held.json')!
    expect(dataset).toBe(1)
    expect(options.out).toBe('held.json')
    expect(options.datasets).toMatchObject([
      { source: 'held', numFrames: 5, repeats: 1, weight: 1, flipX: false, regularisation: false },
    ])
  })

  it("asks for AI Toolkit's sizes and frames, dataset by dataset", () => {
    const job =
      jobOf(`        - {folder_path: clips, resolution: [256, 512], num_frames: 17, num_repeats: 3, flip_x: true}
        - {folder_path: calm, resolution: 256, num_frames: 33, shrink_video_to_frames: false, fps: 16, is_reg: true, loss_multiplier: 0.5, batch_size: 4}`)
    expect(planOptions(job, 'plan.json')).toMatchObject({
      out: 'plan.json',
      rule: 'ai-toolkit',
      fps: 16,
      seed: 7,
      batchSize: 2,
      datasets: [
        {
          source: 'clips',
          resolutions: [256, 512],
          numFrames: 17,
          frameMode: 'uniform',
          repeats: 3,
          flipX: true,
          regularisation: false,
        },
        {
          source: 'calm',
          resolutions: [256],
          numFrames: 33,
          frameMode: 'real-time',
          regularisation: true,
          weight: 0.5,
          batchSize: 4,
        },
      ],
    })
  })

  it('lets kinora.frame_mode choose for all sets', () => {
    const job = jobOf(
      '        - {folder_path: clips, num_frames: 17}',
      '      kinora: {frame_mode: slide}',
    )
    expect(planOptions(job, 'plan.json').datasets?.[0]?.frameMode).toBe('slide')
  })

  it('refuses sets that are read at different frame rates', () => {
    const realTime = 'num_frames: 17, shrink_video_to_frames: false'
    const job = jobOf(`        - {folder_path: a, ${realTime}, fps: 16}
        - {folder_path: b, ${realTime}, fps: 24}`)
    expect(() => planOptions(job, 'plan.json')).toThrow(
      expect.objectContaining({
        code: 'KINORA_MIXED_FPS',
        message: expect.stringContaining('16, 24'),
      }),
    )
  })

  it('crops to squares of one resolution', () => {
    const square = jobOf(
      '        - {folder_path: a, num_frames: 17, resolution: 250, square_crop: true}',
    )
    expect(planOptions(square, 'plan.json').datasets?.[0]?.sizes).toEqual(['240x240'])
    const two = jobOf(
      '        - {folder_path: a, num_frames: 17, resolution: [256, 512], square_crop: true}',
    )
    expect(() => planOptions(two, 'plan.json')).toThrow(
      expect.objectContaining({ code: 'KINORA_SQUARE_CROP' }),
    )
  })
})
