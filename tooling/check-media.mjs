// Runs the dataset stages on a folder of media whose truth is known, and prints each bar's figure per clip and in total:
//
//   npm run check:media -- DIR [--keep OUT]
//
// DIR holds manifest.json: { files: { "<path>": { truth: {…}, … } } }. What a truth may say is listed at `checks` below.
// Nothing here or in the stages knows the files by name. Exit code 1 when a bar is missed.

import { existsSync } from 'node:fs'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'

const root = resolve(import.meta.dirname, '..')

/** Bars of the whole folder. */
const bars = {
  cutRecall: 1,
  cutPrecision: 1,
  cutFrames: 1,
  dissolves: 0.8,
  trimSeconds: 0.2,
  motion: 1,
}

const args = process.argv.slice(2)
const keepAt = args.indexOf('--keep')
const keep = keepAt >= 0 ? args.splice(keepAt, 2)[1] : undefined
const [folder] = args
if (!folder || !existsSync(join(folder, 'manifest.json'))) {
  console.error(
    'usage: npm run check:media -- DIR [--keep OUT]   (DIR holds media and manifest.json)',
  )
  process.exit(2)
}

const { prepareClipsIter, openWorkState, detectShots, classifyMotion } = await load('clip-prep')

async function load(name) {
  const file = join(root, 'packages', name, 'dist', 'index.js')
  if (!existsSync(file)) {
    console.error(`${name} is not built: run \`npm run build\` first.`)
    process.exit(2)
  }
  return import(pathToFileURL(file).href)
}

// --- One file -------------------------------------------------------------------------------------------------------

/**
 * Truths understood, all optional:
 * - `expect`: 'refuse: …' or 'report: …' — the file must end as a named reason
 * - `cuts`: first frames of new shots; `not_cuts_frames`: [from, to] without a cut; `dissolve`: [[first, last], …];
 *   `black`: [first, last] inside a fade
 * - `motion_s`: [from, to]; `still`: [[first, last], …] at the ends; `still_head_until_s`, `still_tail_from_s`;
 *   `motion_from_s` with `tolerance_s`; `px_per_frame` or `scale_per_frame` — constant motion, so nothing to trim
 * - `camera`: a motion class or its everyday name; `segments`: [[from, to, class], …] in seconds
 * - `picture`: {x, y, w, h} inside black bars; `display`: [width, height]; `duration_s`
 */
function checkFile(file, facts, found) {
  const truth = facts.truth ?? {}
  const results = []
  const add = (bar, ok, text, numbers = {}) => results.push({ bar, ok, text, ...numbers })

  const isImage = /\.(png|jpe?g|webp|gif|tiff?|bmp)$/i.test(file)
  if (/^(refuse|report)/.test(truth.expect ?? '') || isImage) {
    const wanted = refusalOf(truth.expect ?? (isImage ? 'refuse: an image' : ''), isImage)
    const reasons = found.dropped.map(({ reason }) => reason)
    const ok = found.clips.length === 0 && reasons.some((reason) => wanted.includes(reason))
    add('named', ok, `${reasons.join(', ') || 'nothing'} (wanted ${wanted.join(' or ')})`)
    return results
  }
  const { analysis } = found
  if (!analysis) {
    add('named', false, `no analysis; ${found.dropped.map(({ reason }) => reason).join(', ')}`)
    return results
  }
  const { transitions } = detectShots(analysis, { detector: 'color-structure' })
  checkCuts(truth, transitions, add)
  checkDissolves(truth, transitions, add)
  checkTrim(truth, analysis, found, add)
  checkMotion(truth, analysis, found, add)
  checkPicture(truth, analysis, found, add)
  checkClips(truth, analysis, found, add)
  return results
}

function refusalOf(expect, isImage) {
  const said = expect.toLowerCase()
  if (said.includes('gif') || said.includes('anim')) return ['animation']
  if (said.includes('no video') || said.includes('audio')) return ['audio-only']
  if (said.includes('empty')) return ['empty']
  if (said.includes('header') || said.includes('truncat')) return ['truncated']
  if (said.includes('image') || isImage) return ['image', 'unreadable', 'same-bytes']
  return ['unreadable', 'decode-failed']
}

function checkCuts(truth, transitions, add) {
  if (!truth.cuts) return
  const found = transitions.filter(({ kind }) => kind === 'cut').map(({ firstFrame }) => firstFrame)
  const open = new Set(found)
  let hits = 0
  let worst = 0
  const missed = []
  for (const cut of truth.cuts) {
    const near = [...open].find((frame) => Math.abs(frame - cut) <= bars.cutFrames)
    if (near === undefined) missed.push(cut)
    else {
      hits++
      worst = Math.max(worst, Math.abs(near - cut))
      open.delete(near)
    }
  }
  const inTrap = (truth.not_cuts_frames ? [truth.not_cuts_frames] : []).flatMap(([from, to]) =>
    found.filter((frame) => frame >= from && frame <= to),
  )
  add(
    'cuts',
    missed.length === 0 && open.size === 0,
    `${hits} of ${truth.cuts.length} found, ${open.size} false` +
      (missed.length ? `; missed ${missed.join(' ')}` : '') +
      (open.size ? `; false ${[...open].join(' ')}` : '') +
      (inTrap.length ? `; trapped at ${inTrap.join(' ')}` : '') +
      (hits ? `; worst off by ${worst} frames` : ''),
    { hits, wanted: truth.cuts.length, found: found.length, worst },
  )
}

function checkDissolves(truth, transitions, add) {
  const wanted = truth.dissolve ?? []
  const found = transitions.filter(({ kind }) => kind === 'dissolve')
  if (!truth.dissolve && !(truth.cuts && found.length > 0)) return
  const open = new Set(found)
  let hits = 0
  for (const [first, last] of wanted) {
    const match = [...open].find(({ firstFrame, lastFrame }) => {
      const shared = Math.min(last, lastFrame) - Math.max(first, firstFrame) + 1
      const all = Math.max(last, lastFrame) - Math.min(first, firstFrame) + 1
      return shared / all >= 0.5
    })
    if (match) {
      hits++
      open.delete(match)
    }
  }
  add(
    'dissolves',
    hits === wanted.length && open.size === 0,
    `${hits} of ${wanted.length} found, ${open.size} false: ${found.map(({ firstFrame, lastFrame }) => `${firstFrame}-${lastFrame}`).join(' ') || 'none'}`,
    { hits, wanted: wanted.length, found: found.length },
  )
  if (truth.black) {
    const fade = transitions.find(
      ({ kind, firstFrame, lastFrame }) =>
        kind === 'fade' && firstFrame <= truth.black[0] && lastFrame >= truth.black[1],
    )
    add('fade', fade !== undefined, fade ? `${fade.firstFrame}-${fade.lastFrame}` : 'not found')
  }
}

function checkTrim(truth, analysis, found, add) {
  const { time } = analysis.frames
  const { duration } = analysis.probe
  const frameTime = (index) => time[index] ?? duration
  let from
  let to
  let tolerance = bars.trimSeconds
  if (truth.motion_s) [from, to] = truth.motion_s
  else if (truth.still) {
    const [first, last] = [truth.still[0], truth.still.at(-1)]
    if (truth.still.length === 1 && first[0] === 0 && first[1] >= time.length - 1) {
      const still =
        found.clips.length === 0 && found.dropped.some(({ reason }) => reason === 'still')
      add('trim', still, still ? 'still throughout, left out' : 'still throughout, but kept', {
        error: still ? 0 : Infinity,
      })
      return
    }
    if (first[0] === 0) from = frameTime(first[1])
    if (last[1] >= time.length - 1) to = frameTime(last[0])
  } else if (truth.px_per_frame || truth.scale_per_frame) [from, to] = [0, duration]
  if (truth.motion_from_s !== undefined) {
    from = truth.motion_from_s
    tolerance = truth.tolerance_s ?? tolerance
  }
  if (truth.still_head_until_s !== undefined) from = truth.still_head_until_s
  if (truth.still_tail_from_s !== undefined) to = truth.still_tail_from_s
  if (from === undefined && to === undefined) return
  if (found.clips.length === 0) {
    add('trim', false, 'no clip was kept', { error: Infinity })
    return
  }
  const start = Math.min(...found.clips.map(({ source }) => source.start))
  const end = Math.max(...found.clips.map(({ source }) => source.end))
  const errors = [
    ...(from === undefined ? [] : [Math.abs(start - from)]),
    ...(to === undefined ? [] : [Math.abs(end - to)]),
  ]
  const error = Math.max(...errors)
  const wanted = `${from === undefined ? '…' : from.toFixed(2)}-${to === undefined ? '…' : to.toFixed(2)}`
  add(
    'trim',
    error <= tolerance + 1e-6,
    `${start.toFixed(2)}-${end.toFixed(2)} s, wanted ${wanted}: off by ${error.toFixed(2)} s of ${tolerance}`,
    { error },
  )
}

const everydayNames = {
  'zoom-in': ['zoom-in', 'push-in', 'dolly-in', 'forward', 'move-in', 'fly-in'],
  'zoom-out': ['zoom-out', 'pull-out', 'pull-back', 'dolly-out', 'backward', 'move-out'],
  'pan-left': ['pan-left', 'truck-left', 'left'],
  'pan-right': ['pan-right', 'truck-right', 'right'],
  'tilt-up': ['tilt-up', 'pedestal-up', 'crane-up', 'up'],
  'tilt-down': ['tilt-down', 'pedestal-down', 'crane-down', 'down'],
  roll: ['roll', 'roll-left', 'roll-right'],
  orbit: ['orbit', 'orbit-left', 'orbit-right', 'arc'],
}

/** Classes that an everyday name of a camera motion allows. */
function classesOf(name, truth) {
  const last = name.toLowerCase().split('-then-').at(-1)
  if (['none', 'static', 'locked', 'tripod', 'still'].includes(last))
    return truth.subject_moves ? ['subject'] : ['static', 'subject']
  for (const [camera, names] of Object.entries(everydayNames))
    if (names.includes(last)) return [camera]
  return ['mixed']
}

function checkMotion(truth, analysis, found, add) {
  if (truth.camera) {
    const wanted = classesOf(truth.camera, truth)
    const kept = found.clips.length > 0
    const longest = found.clips.toSorted((a, b) => b.duration - a.duration)[0]
    const measured = kept ? longest.motion?.camera : 'static'
    add('motion', wanted.includes(measured), `${measured} (named ${truth.camera})`)
  }
  for (const [from, to, name] of truth.segments ?? []) {
    const steps = analysis.steps.filter((step) => step.from >= from - 0.01 && step.to <= to + 0.01)
    const measured = classifyMotion(steps)?.camera
    add(
      'segment',
      classesOf(name, truth).includes(measured),
      `${from}-${to} s ${measured} (named ${name})`,
    )
  }
  const [clip] = found.clips
  const seconds = analysis.probe.duration
  if (clip?.motion && truth.px_per_frame) {
    const [x, y] = truth.px_per_frame
    const fps = analysis.probe.fps
    const wanted = [(-x * fps) / clip.source.width, (y * fps) / clip.source.height]
    const measured = [
      clip.motion.panPerSecond,
      (clip.motion.tiltPerSecond * clip.source.width) / clip.source.height,
    ]
    const error = Math.hypot(measured[0] - wanted[0], measured[1] - wanted[1])
    add('speed', error <= 0.01, `pan ${measured[0].toFixed(3)} of ${wanted[0].toFixed(3)} widths/s`)
  }
  if (clip?.motion && truth.scale_per_frame && truth.scale_per_frame !== 1) {
    const wanted = Math.log(truth.scale_per_frame) * analysis.probe.fps
    const error = Math.abs(clip.motion.zoomPerSecond / wanted - 1)
    add(
      'speed',
      error <= 0.1,
      `zoom ${clip.motion.zoomPerSecond.toFixed(3)} of ${wanted.toFixed(3)} /s over ${seconds.toFixed(1)} s`,
    )
  }
}

function checkPicture(truth, analysis, found, add) {
  if (truth.display) {
    const { width, height } = analysis.probe
    add(
      'upright',
      width === truth.display[0] && height === truth.display[1],
      `${width}x${height}, wanted ${truth.display.join('x')}`,
    )
  }
  if (!truth.cuts) return
  const [area] = found.pictures
  const text = (r) => (r ? `${r.width}x${r.height} at ${r.x},${r.y}` : 'no bars')
  if (!truth.picture) {
    if (area) add('bars', false, `${text(area.picture)}, wanted no bars`)
    return
  }
  const { x, y, w, h } = truth.picture
  const p = area?.picture
  const ok =
    p !== undefined &&
    [p.x - x, p.y - y, p.width - w, p.height - h].every((error) => Math.abs(error) <= 1)
  add('bars', ok, `${text(p)}, wanted ${text({ x, y, width: w, height: h })}`)
}

/** Each clip of a video that was not refused: real time at 16 fps, whatever the rate of the footage. */
function checkClips(truth, analysis, found, add) {
  for (const clip of found.clips) {
    const seconds = clip.source.end - clip.source.start
    const frames = Math.ceil(seconds * clip.fps - 0.02)
    if (Math.abs(clip.numFrames - frames) > 1)
      add('real time', false, `${clip.numFrames} frames for ${seconds.toFixed(2)} s at ${clip.fps}`)
  }
  if (truth.duration_s !== undefined) {
    const { duration } = analysis.probe
    const ok = Math.abs(duration - truth.duration_s) < 0.05
    add('duration', ok, `${duration.toFixed(2)} s, wanted ${truth.duration_s}`)
  }
}

// --- All files ------------------------------------------------------------------------------------------------------

function report(rows) {
  let failed = false
  for (const { file, results } of rows) {
    for (const { bar, ok, text } of results) {
      // Cuts and dissolves are held to their bars over all files.
      if (!ok && bar !== 'cuts' && bar !== 'dissolves') failed = true
      console.log(`${ok ? 'ok  ' : 'MISS'} ${file.padEnd(42)} ${bar.padEnd(10)} ${text}`)
    }
  }
  const all = (bar) => rows.flatMap(({ results }) => results.filter((result) => result.bar === bar))
  const sum = (results, key) => results.reduce((total, result) => total + result[key], 0)
  console.log('\nIn total')
  const total = (name, ok, text) => {
    if (!ok) failed = true
    console.log(`${ok ? 'ok  ' : 'MISS'} ${name.padEnd(34)} ${text}`)
  }
  const ratio = (over, under) => (under === 0 ? 1 : over / under)
  const cuts = all('cuts')
  if (cuts.length > 0) {
    const recall = ratio(sum(cuts, 'hits'), sum(cuts, 'wanted'))
    const precision = ratio(sum(cuts, 'hits'), sum(cuts, 'found'))
    const worst = Math.max(0, ...cuts.map((result) => result.worst))
    total(
      'hard cuts, recall',
      recall >= bars.cutRecall,
      `${recall.toFixed(3)} of ${sum(cuts, 'wanted')} (bar ${bars.cutRecall})`,
    )
    total(
      'hard cuts, precision',
      precision >= bars.cutPrecision,
      `${precision.toFixed(3)} (bar ${bars.cutPrecision})`,
    )
    total(
      'hard cuts, off by at most',
      worst <= bars.cutFrames,
      `${worst} frames (bar ${bars.cutFrames})`,
    )
  }
  const dissolves = all('dissolves')
  if (dissolves.length > 0) {
    const recall = ratio(sum(dissolves, 'hits'), sum(dissolves, 'wanted'))
    const precision = ratio(sum(dissolves, 'hits'), sum(dissolves, 'found'))
    total(
      'dissolves, recall',
      recall >= bars.dissolves,
      `${recall.toFixed(3)} of ${sum(dissolves, 'wanted')} (bar ${bars.dissolves})`,
    )
    total(
      'dissolves, precision',
      precision >= bars.dissolves,
      `${precision.toFixed(3)} (bar ${bars.dissolves})`,
    )
  }
  for (const [bar, name] of [
    ['trim', 'trims within their tolerance'],
    ['motion', 'motion classes'],
    ['segment', 'motion classes of segments'],
    ['speed', 'motion speeds'],
    ['bars', 'black bars to a pixel'],
    ['named', 'bad files named'],
  ]) {
    const results = all(bar)
    if (results.length === 0) continue
    const good = results.filter(({ ok }) => ok).length
    const worst =
      bar === 'trim' ? `; worst ${Math.max(...results.map(({ error }) => error)).toFixed(2)} s` : ''
    total(name, good === results.length, `${good} of ${results.length}${worst}`)
  }
  return failed
}

/** The other stages must take what clip-prep wrote: captions from a template, then a plan. */
async function checkLaterStages(out) {
  const { spawnSync } = await import('node:child_process')
  const manifestFile = join(out, 'manifest.jsonl')
  const runs = [
    [
      'captioner',
      ['caption', manifestFile, '--goal', 'motion', '--trigger', 'chk', '--dry-run', '--json'],
    ],
    [
      'bucketer',
      ['plan', manifestFile, '--resolutions', '256', '--num-frames', '17', '--dry-run', '--json'],
    ],
  ]
  for (const [name, words] of runs) {
    const bin = join(root, 'packages', name, 'dist', 'bin.js')
    if (!existsSync(bin)) {
      console.log(`     ${name} is not built: not run`)
      continue
    }
    const { status, stderr } = spawnSync(process.execPath, [bin, ...words], { encoding: 'utf8' })
    console.log(
      `${status === 0 ? 'ok  ' : 'MISS'} ${name} takes the manifest${status === 0 ? '' : `: exit ${status}\n${stderr.slice(-600)}`}`,
    )
    if (status !== 0) process.exitCode = 1
  }
}

async function main() {
  const truthOf = JSON.parse(await readFile(join(folder, 'manifest.json'), 'utf8')).files
  const out = keep ? resolve(keep) : await mkdtemp(join(tmpdir(), 'kinora-check-media-'))

  const started = performance.now()
  let manifest
  try {
    const run = prepareClipsIter({
      source: folder,
      out,
      minDuration: 0.25,
      keepStill: false,
      cutMargin: 0.04,
      report: true,
    })
    for (;;) {
      const next = await run.next()
      if (next.done) {
        manifest = next.value
        break
      }
      if (process.stderr.isTTY && next.value.type === 'progress')
        process.stderr.write(`\r\x1b[K${next.value.phase} ${next.value.done}/${next.value.total}`)
    }
    if (process.stderr.isTTY) process.stderr.write('\r\x1b[K')

    const state = openWorkState(out, { readOnly: true })
    const rows = []
    for (const [file, facts] of Object.entries(truthOf)) {
      if (!existsSync(join(folder, file))) continue
      const clips = manifest.clips.filter(({ source }) => source.file === file)
      const dropped = manifest.dropped.filter((record) => record.file === file)
      const stored = facts.sha256 ? await state.readAnalysis(facts.sha256) : undefined
      const found = {
        clips,
        dropped,
        analysis: stored?.kind === 'video' ? stored.analysis : undefined,
        pictures: stored?.kind === 'video' ? stored.pictures : [],
      }
      rows.push({ file, results: checkFile(file, facts, found) })
    }
    const failed = report(rows)
    await checkLaterStages(out)
    console.log(
      `\n${rows.length} files, ${manifest.clips.length} clips, ${((performance.now() - started) / 1000).toFixed(0)} s`,
    )
    process.exitCode = failed ? 1 : 0
  } finally {
    if (!keep) await rm(out, { recursive: true, force: true })
  }
}

await main()
