// The datasets of the experiments, all from tiny-wan's footage: the crane shots as they are; the same shots turning into a look of
// two colours; and a character painted onto stills of the footage, over which a camera moves.

import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { readManifest } from '../../packages/config-schema/dist/index.js'
import { readFrames, writeImage, writeVideo } from '../../packages/media/dist/index.js'
import { kinora, tinyWan } from './kinora.mjs'

const fps = 16
const numFrames = 17

/** Colours of the look: ground and shapes. tiny-wan's VAE has seen both, together. */
const ground = [16, 22, 76]
const shapes = [248, 224, 52]
/** Frames until the look is complete. */
const lookFrames = 8

/** A clip that turns into the look: its ground becomes navy with the shading it had, its shapes yellow. */
export function turnIntoLook(frames) {
  return frames.map((frame, index) => {
    const amount = Math.min(1, index / lookFrames)
    const { width, height, data } = frame
    const median = medianColour(frame)
    const turned = new Uint8Array(data.length)
    for (let i = 0; i < data.length; i += 3) {
      const shape = shapeness(data, i, median)
      const lighter = (luminance(data, i) - luminance(median, 0)) / 2
      for (let c = 0; c < 3; c++) {
        const target = shape * shapes[c] + (1 - shape) * Math.max(0, ground[c] + lighter)
        turned[i + c] = Math.round(data[i + c] + amount * (target - data[i + c]))
      }
    }
    return { width, height, data: turned }
  })
}

/** BT.709 weights, levels of 255. */
function luminance(data, i) {
  return 0.2126 * data[i] + 0.7152 * data[i + 1] + 0.0722 * data[i + 2]
}

/** The median of each channel: the ground, of which every frame has more than of shapes. */
function medianColour({ data }) {
  return [0, 1, 2].map((channel) => {
    const values = data.filter((_, i) => i % 3 === channel).toSorted()
    return values[values.length >> 1]
  })
}

/** 0 for a pixel near the ground's colour, 1 for one that is far, between them at an edge. */
function shapeness(data, i, median) {
  const distance = Math.max(...median.map((value, c) => Math.abs(data[i + c] - value)))
  return Math.min(1, Math.max(0, (distance - 45) / 30))
}

/** The character: a white square with a red heart. tiny-wan knows both colours, and no shape within a shape but the ring. */
export const characterColours = [
  [240, 240, 240],
  [225, 38, 38],
]

/** What the camera does in a clip of the character, in tiny-wan's words, as it moves over 64 pixels. */
const moves = [
  { words: 'static camera', x: 0, y: 0, zoom: 1 },
  { words: 'pan left', x: -20, y: 0, zoom: 1 },
  { words: 'pan right', x: 20, y: 0, zoom: 1 },
  { words: 'tilt up', x: 0, y: -20, zoom: 1 },
  { words: 'tilt down', x: 0, y: 20, zoom: 1 },
  { words: 'dolly in', x: 0, y: 0, zoom: 1.5 },
]

const side = 128

/**
 * One clip: the character on a still, at its size and angle, kept in view by where it begins.
 *
 * @param still frame of the footage, whose own shapes are taken out
 */
export function paintCharacter(still, { move, size, angle, offset }) {
  const behind = blur(withoutShapes(still), 20)
  const scale = side / 64
  return Array.from({ length: numFrames }, (_, frame) => {
    const t = frame / (numFrames - 1)
    const zoom = move.zoom ** t
    // The character moves against the camera, half of the way before the middle and half after it.
    const left = side / 2 + (offset[0] - move.x * (t - 0.5)) * scale
    const top = side / 2 + (offset[1] - move.y * (t - 0.5)) * scale
    const half = (size / 2) * scale * zoom
    const data = new Uint8Array(side * side * 3)
    for (let y = 0; y < side; y++) {
      for (let x = 0; x < side; x++) {
        const to = (y * side + x) * 3
        // The still moves along by less than its margin.
        const fromX = clamp(Math.round(still.width / 2 + (x - left) / zoom / 2), still.width)
        const fromY = clamp(Math.round(still.height / 2 + (y - top) / zoom / 2), still.height)
        const from = (fromY * still.width + fromX) * 3
        for (let i = 0; i < 3; i++) data[to + i] = behind.data[from + i]
        const u = Math.cos(angle) * (x - left) + Math.sin(angle) * (y - top)
        const v = Math.cos(angle) * (y - top) - Math.sin(angle) * (x - left)
        const reach = Math.max(Math.abs(u), Math.abs(v))
        if (reach < half) data.set(characterColours[reach < half * 0.5 ? 1 : 0], to)
      }
    }
    return { width: side, height: side, data }
  })
}

function clamp(value, length) {
  return Math.min(length - 1, Math.max(0, value))
}

/** A frame in whose shapes the ground's colour is. */
function withoutShapes(frame) {
  const { width, height, data } = frame
  const median = medianColour(frame)
  const filled = Uint8Array.from(data)
  for (let i = 0; i < data.length; i += 3) {
    if (shapeness(data, i, median) > 0) filled.set(median, i)
  }
  return { width, height, data: filled }
}

/** A box blur, three times in each direction: nearly a Gaussian. */
function blur(image, radius) {
  let { data } = image
  const { width, height } = image
  for (let pass = 0; pass < 3; pass++) {
    data = blurLines(data, width, height, 3, width * 3, radius)
    data = blurLines(data, height, width, width * 3, 3, radius)
  }
  return { width, height, data }
}

/** Averages along lines of `length` pixels `step` apart; `numLines` lines begin `stride` apart. */
function blurLines(data, length, numLines, step, stride, radius) {
  const blurred = new Float32Array(data.length)
  for (let line = 0; line < numLines; line++) {
    for (let channel = 0; channel < 3; channel++) {
      const at = (i) => line * stride + clamp(i, length) * step + channel
      let sum = 0
      for (let i = -radius; i <= radius; i++) sum += data[at(i)]
      for (let i = 0; i < length; i++) {
        blurred[at(i)] = sum / (2 * radius + 1)
        sum += data[at(i + radius + 1)] - data[at(i - radius)]
      }
    }
  }
  return blurred
}

/**
 * Writes what is not there yet.
 *
 * @returns folders of clips by name, and the held-out clips by name: { image, truth, subject }
 */
export async function makeDatasets(root) {
  const folder = join(root, 'datasets')
  const truth = JSON.parse(await readFile(join(tinyWan, 'truth.json'), 'utf8'))
  const crane = await cutCrane(folder, truth)
  const heldOut = truth.evaluation.map(({ image, truth: clip, subject }) => ({
    image: join(tinyWan, image),
    truth: join(tinyWan, clip),
    subject,
  }))
  return {
    clips: {
      crane,
      poster: await turnClips(crane, join(folder, 'poster')),
      character: await paintClips(await footageClips(crane), join(folder, 'character'), 12, 1),
    },
    heldOut: {
      crane: heldOut,
      poster: await turnHeldOut(heldOut, join(folder, 'held-out-poster')),
      character: await paintHeldOut(heldOut, join(folder, 'held-out-character')),
    },
  }
}

/** The shots of the footage through `kinora prep`, captioned with the trigger word and what is seen. */
async function cutCrane(folder, truth) {
  const out = join(folder, 'crane')
  await kinora(['prep', join(tinyWan, 'footage'), '--out', out, '--cut-margin', '0'])
  const fileName = join(out, 'manifest.jsonl')
  const { clips } = readManifest(await readFile(fileName, 'utf8'), { fileName })
  for (const { file, source } of clips) {
    const take = truth.takes.find((one) => basename(one.file) === basename(source.file))
    const middle = ((source.start + source.end) / 2) * take.fps
    const shot = take.shots.find((one) => middle >= one.firstFrame && middle <= one.lastFrame)
    await writeFile(captionFile(join(out, file)), `[trigger], ${shot.subject}`)
  }
  return out
}

/** The same clips turning into the look; captions name the shapes alone, since colours are the look. */
async function turnClips(crane, out) {
  await writeOnce(out, async (target) => {
    for (const clip of await footageClips(crane)) {
      const file = join(target, basename(clip))
      await writeVideo(file, turnIntoLook(await readClip(clip)), { fps, crf: 12 })
      const caption = withoutColours(await readFile(captionFile(clip), 'utf8'))
      await writeFile(captionFile(file), caption)
    }
  })
  return out
}

/** The held-out first frames stay; what truly follows turns into the look. */
async function turnHeldOut(heldOut, out) {
  await writeOnce(out, async (target) => {
    for (const [index, { truth }] of heldOut.entries()) {
      const frames = turnIntoLook(await readClip(truth))
      await writeVideo(join(target, `${index + 1}.mp4`), frames, { fps, crf: 12 })
    }
  })
  return heldOut.map(({ image, subject }, index) => ({
    image,
    truth: join(out, `${index + 1}.mp4`),
    subject: withoutColours(subject),
  }))
}

async function paintClips(clips, out, count, seed) {
  await writeOnce(out, async (target) => {
    for (const [index, { frames, words }] of (await paint(clips, count, seed)).entries()) {
      const file = join(target, `${String(index + 1).padStart(2, '0')}.mp4`)
      await writeVideo(file, frames, { fps, crf: 12 })
      await writeFile(captionFile(file), `${words}, [trigger]`)
    }
  })
  return out
}

async function paintHeldOut(heldOut, out) {
  await writeOnce(out, async (target) => {
    const painted = await paint(
      heldOut.map(({ truth }) => truth),
      heldOut.length,
      2,
    )
    for (const [index, { frames }] of painted.entries()) {
      await writeVideo(join(target, `${index + 1}.mp4`), frames, { fps, crf: 12 })
      await writeImage(join(target, `${index + 1}.png`), frames[0])
    }
  })
  return heldOut.map((_, index) => ({
    image: join(out, `${index + 1}.png`),
    truth: join(out, `${index + 1}.mp4`),
    subject: moves[index % moves.length].words,
  }))
}

/** One clip for each of the stills in turn: every move, at sizes, angles and places that the seed shuffles. */
async function paint(clips, count, seed) {
  const painted = []
  for (let index = 0; index < count; index++) {
    const [still] = await readClip(clips[index % clips.length])
    const pick = (salt, from, to) => from + (to - from) * fraction(index * 7 + salt + seed * 1009)
    const move = moves[index % moves.length]
    const frames = paintCharacter(still, {
      move,
      size: pick(1, 18, 26),
      angle: pick(2, 0, Math.PI / 2),
      offset: [pick(3, -8, 8), pick(4, -8, 8)],
    })
    painted.push({ frames, words: move.words })
  }
  return painted
}

/** Numbers that look random and are always the same, 0 to 1. */
function fraction(n) {
  const value = Math.sin(n * 12.9898) * 43758.5453
  return value - Math.floor(value)
}

function withoutColours(text) {
  return text
    .replaceAll(/\b(blue|white|green|yellow|orange|pink|purple|cyan|red) /g, '')
    .replaceAll(/ on a \w+ background/g, '')
}

/** All frames of a clip, at its own size unless a size is given. */
export async function readClip(file, size) {
  const frames = []
  for await (const { width, height, data } of readFrames(
    file,
    size ? { width: size, height: size } : {},
  )) {
    frames.push({ width, height, data: new Uint8Array(data) })
  }
  return frames
}

async function footageClips(folder) {
  const names = await readdir(join(folder, 'clips'))
  return names
    .filter((name) => name.endsWith('.mp4'))
    .toSorted()
    .map((name) => join(folder, 'clips', name))
}

function captionFile(clip) {
  return clip.replace(/\.mp4$/, '.txt')
}

/** Writes a folder under another name, which it loses when it is complete. */
async function writeOnce(out, write) {
  const there = await readdir(out).catch(() => [])
  if (there.length > 0) return
  const target = `${out}.unfinished`
  await rm(target, { recursive: true, force: true })
  await mkdir(target, { recursive: true })
  await write(target)
  await rm(out, { recursive: true, force: true })
  await rename(target, out)
}
