// Previews through sampler's pipeline, kept as pictures without loss: the frames of a clip below one another.

import { mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { openDevice } from '../../packages/wgpu-kernels/dist/node.js'
import { readLora } from '../../packages/lora-files/dist/index.js'
import { readImage, writeImage } from '../../packages/media/dist/index.js'
import { openPipeline } from '../../packages/sampler/dist/index.js'
import { loadVae, openCheckpoint } from '../../packages/wan/dist/index.js'
import { readClip } from './datasets.mjs'
import { tinyWan } from './kinora.mjs'
import { common } from './plan.mjs'
import { hashOf } from './training.mjs'

/** Opens a device at the first preview that is not there yet, and keeps it. */
export function createStudio(out) {
  let opened
  const open = async () => {
    const device = await openDevice({})
    await writeFile(join(out, 'device.txt'), `${device.info.adapter} (${device.info.driver})`)
    const checkpoint = await openCheckpoint(join(tinyWan, 'checkpoint'))
    return { device, checkpoint, pipelines: new Map() }
  }
  const pipelineFor = async (packed) => {
    const { device, checkpoint, pipelines } = await (opened ??= open())
    const key = packed ? 'packed' : 'plain'
    if (!pipelines.has(key)) {
      const quantize = packed ? 'uint4' : undefined
      pipelines.set(key, openPipeline(checkpoint, device, { compute: 'f32', quantize }))
    }
    return pipelines.get(key)
  }

  return {
    /** Frames of each preview of a set, and whether all were there already. */
    async previews(name, { prompt, packed }, { heldOut, loras }) {
      const folder = join(out, 'previews', name.replaceAll(' ', '-'))
      const prompts = heldOut.map(({ subject }) => prompt(subject))
      const files = [...Object.values(loras ?? {}), ...heldOut.map(({ image }) => image)]
      const key = await hashOf([
        JSON.stringify([common, prompts, packed ?? false]),
        ...(await Promise.all(files.map((file) => readFile(file)))),
      ])
      const keyFile = join(folder, 'key')
      if ((await readFile(keyFile, 'utf8').catch(() => '')) === key) {
        return { reused: true, clips: await readStrips(folder, heldOut.length) }
      }
      const pipeline = await pipelineFor(packed)
      const adapters = []
      for (const [expert, file] of Object.entries(loras ?? {})) {
        adapters.push({ expert, weights: await readLora(file) })
      }
      await mkdir(folder, { recursive: true })
      const clips = []
      for (const [index, { image }] of heldOut.entries()) {
        const { frames } = await pipeline.generate({
          image,
          prompt: prompts[index],
          seed: common.seed,
          width: common.size,
          height: common.size,
          numFrames: common.numFrames,
          steps: common.sampleSteps,
          guidance: 1,
          shift: common.shift,
          scheduler: 'euler',
          loras: adapters,
        })
        await writeImage(join(folder, `${index + 1}.png`), joinFrames(frames))
        clips.push(frames)
      }
      await writeFile(`${keyFile}.new`, key)
      await rename(`${keyFile}.new`, keyFile)
      return { reused: false, clips }
    },

    /** The true clips, and the same through the VAE and back: what no LoRA can exceed by much. */
    async truth(name, heldOut) {
      const clips = await Promise.all(heldOut.map(({ truth }) => readClip(truth, common.size)))
      const folder = join(out, 'previews', `vae-${name}`)
      const there = await readStrips(folder, clips.length).catch(() => null)
      if (there) return { clips, throughVae: there }
      const { device, checkpoint } = await (opened ??= open())
      const vae = await loadVae(checkpoint, device)
      await mkdir(folder, { recursive: true })
      const throughVae = []
      for (const [index, frames] of clips.entries()) {
        const decoded = await roundTrip(device, vae, frames)
        await writeImage(join(folder, `${index + 1}.png`), joinFrames(decoded))
        throughVae.push(decoded)
      }
      vae.release()
      return { clips, throughVae }
    },

    /** Adapter and driver of the newest previews. */
    device: () => readFile(join(out, 'device.txt'), 'utf8'),

    async close() {
      if (!opened) return
      const { device, pipelines } = await opened
      for (const pipeline of pipelines.values()) pipeline.release()
      device.destroy()
    },
  }
}

async function roundTrip(device, vae, frames) {
  const { width, height } = frames[0]
  const pixels = new Float32Array(frames.length * width * height * 3)
  for (const [index, { data }] of frames.entries()) {
    for (let i = 0; i < data.length; i++) pixels[index * data.length + i] = data[i] / 127.5 - 1
  }
  const video = device.upload(pixels, [1, frames.length, height, width, 3], 'f32')
  const decoded = await device.read(vae.decode(vae.encode(video).mean))
  return frames.map((_, index) => {
    const part = decoded.subarray(index * width * height * 3, (index + 1) * width * height * 3)
    const data = Uint8Array.from(part, (value) =>
      Math.round(Math.min(255, Math.max(0, (value + 1) * 127.5))),
    )
    return { width, height, data }
  })
}

/** The frames of a clip as one picture, below one another. */
function joinFrames(frames) {
  const [{ width, height }] = frames
  const data = new Uint8Array(frames.length * width * height * 3)
  for (const [index, frame] of frames.entries()) data.set(frame.data, index * frame.data.length)
  return { width, height: height * frames.length, data }
}

async function readStrips(folder, count) {
  const clips = []
  for (let index = 1; index <= count; index++) {
    const { width, data } = await readImage(join(folder, `${index}.png`))
    const size = width * width * 3
    clips.push(
      Array.from({ length: data.length / size }, (_, frame) => ({
        width,
        height: width,
        data: data.subarray(frame * size, (frame + 1) * size),
      })),
    )
  }
  return clips
}
