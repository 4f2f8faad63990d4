// Trains, previews, measures and writes docs/experiments.md: npm run experiments. What is there already is not made again.
//
//   npm run experiments -- [--only=style,dop] [--out=runs/experiments]

import { spawnSync } from 'node:child_process'
import { mkdir, readdir, writeFile } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { join, relative, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { writeImage } from '../../packages/media/dist/index.js'
import { makeDatasets, readClip } from './datasets.mjs'
import { root } from './kinora.mjs'
import { experimentsPage, experimentsTable } from './page.mjs'
import { drawPictures } from './pictures.mjs'
import { common, experiments, previewSets, runs } from './plan.mjs'
import { createStudio } from './previewing.mjs'
import { measure } from './results.mjs'
import { trainRun } from './training.mjs'

const { values: flags } = parseArgs({
  options: {
    only: { type: 'string', default: Object.keys(experiments).join(',') },
    out: { type: 'string', default: join(root, 'runs/experiments') },
  },
})
const names = flags.only.split(',')
const unknown = names.filter((name) => !Object.hasOwn(experiments, name))
if (unknown.length > 0) {
  console.error(
    `There is no experiment ${unknown.join(', ')}; there are ${Object.keys(experiments).join(', ')}.`,
  )
  process.exit(2)
}
const startedAt = performance.now()
const say = (text) =>
  console.log(`${((performance.now() - startedAt) / 1000).toFixed(0).padStart(5)} s  ${text}`)

const out = resolve(flags.out)
await mkdir(out, { recursive: true })
const { clips, heldOut } = await makeDatasets(out)
say('datasets')

const setNames = [...new Set(names.flatMap((name) => experiments[name]))]
const loras = {}
const training = {}
for (const name of new Set(setNames.map((set) => previewSets[set].lora).filter(Boolean))) {
  const run = runs[name]
  const result = await trainRun(name, run, { clips: clips[run.dataset], out })
  loras[name] = result.loras
  training[name] = { secondsPerStep: Math.round(result.secondsPerStep * 1000) / 1000 }
  say(`trained ${name}${result.reused ? ' (done before)' : ''}`)
}

const studio = createStudio(out)
try {
  const sets = {}
  for (const name of setNames) {
    const set = previewSets[name]
    const { clips: made, reused } = await studio.previews(name, set, {
      heldOut: heldOut[set.frames],
      loras: set.lora ? loras[set.lora] : null,
    })
    sets[name] = made
    say(`previews of ${name}${reused ? ' (done before)' : ''}`)
  }
  const truth = {}
  for (const [name, list] of Object.entries(heldOut)) truth[name] = await studio.truth(name, list)
  const styleDataset = await readDataset(clips.poster)
  const measured = measure({ sets, truth, styleDataset })
  const results = {
    device: await studio.device(),
    cores: availableParallelism(),
    settings: common,
    training,
    measured,
  }
  await writeFile(join(out, 'results.json'), `${JSON.stringify(results, null, 2)}\n`)
  console.log(experimentsTable(results))
  if (names.length < Object.keys(experiments).length) {
    say('docs/experiments.md is written when all experiments are asked for.')
  } else {
    const docs = join(root, 'docs')
    await mkdir(join(docs, 'images'), { recursive: true })
    for (const [name, picture] of Object.entries(drawPictures({ sets, truth }))) {
      await writeImage(join(docs, 'images', `experiment-${name}.jpg`), picture)
    }
    await writeFile(join(docs, 'experiments.json'), `${JSON.stringify(results, null, 2)}\n`)
    await writeFile(join(docs, 'experiments.md'), experimentsPage(results))
    spawnSync(process.execPath, [join(root, 'node_modules/oxfmt/bin/oxfmt'), docs])
    say(`wrote ${relative(process.cwd(), join(docs, 'experiments.md'))}`)
  }
} finally {
  await studio.close()
}

async function readDataset(folder) {
  const files = (await readdir(folder)).filter((name) => name.endsWith('.mp4')).toSorted()
  return Promise.all(files.map((name) => readClip(join(folder, name), common.size)))
}
