import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { sample } from '@kinora/sampler'

const { openDevice } = await import(process.env.BACKEND ?? '@kinora/wgpu-kernels/node')

const tinyWan = dirname(fileURLToPath(import.meta.resolve('@kinora/tiny-wan/package.json')))
const device = await openDevice()
try {
  const { file, width, height, numFrames } = await sample(
    {
      checkpoint: join(tinyWan, 'checkpoint'),
      image: join(tinyWan, 'eval/1.png'),
      prompt: 'crane, the camera rises and moves in',
      width: 32,
      height: 32,
      numFrames: 5,
      steps: 4,
      guidance: 1,
      seed: 7,
      lora: [
        'runs/examples/crane/crane_high_noise.safetensors',
        'runs/examples/crane/crane_low_noise.safetensors@0.8',
      ],
      out: 'runs/examples/sample.mp4',
    },
    { device },
  )
  console.log(`${file}: ${width}x${height}, ${numFrames} frames`)
} finally {
  device.destroy()
}
