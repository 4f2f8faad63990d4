import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { writeBucketPlan } from '@kinora/bucketer'
import { parseTrainJob } from '@kinora/config-schema'
import { cacheDataset, train } from '@kinora/trainer-core'

// The one line that changes with the backend: @kinora/wgpu-kernels/node, @kinora/cpu-kernels, or one of yours.
const { openDevice } = await import(process.env.BACKEND ?? '@kinora/wgpu-kernels/node')

const tinyWan = dirname(fileURLToPath(import.meta.resolve('@kinora/tiny-wan/package.json')))
const out = 'runs/examples/crane'

// A job in AI Toolkit's dialect; usually a file.
const job = parseTrainJob(
  `
job: extension
config:
  name: crane
  process:
    - type: diffusion_trainer
      training_folder: runs/examples
      trigger_word: crane
      network: { type: lora, linear: 8 }
      save: { dtype: fp16 }
      datasets:
        - { folder_path: runs/examples/dataset, resolution: 32, num_frames: 5 }
      train: { steps: 8, lr: 1e-3, noise_scheduler: flowmatch, timestep_type: linear, switch_boundary_every: 2 }
      model: { name_or_path: ${JSON.stringify(join(tinyWan, 'checkpoint'))}, arch: wan22_14b_i2v }
`,
  { fileName: 'job.yaml' },
)
const plan = join(out, 'bucket-plan.json')
const cacheDir = join(out, 'cache')

const device = await openDevice()
try {
  console.log(`Training on ${device.info.adapter}`)
  await writeBucketPlan({
    source: 'runs/examples/dataset',
    out: plan,
    resolutions: [32],
    numFrames: 5,
  })
  const { latents, texts } = await cacheDataset({ job, plan, cacheDir }, { device })
  console.log(`${latents.found + latents.made} samples and ${texts.found + texts.made} text cached`)
  const { step, files } = await train({ job, plan, cacheDir, out }, { device })
  console.log(`${step} steps`)
  console.log(Object.values(files).join('\n'))
} finally {
  device.destroy()
}
