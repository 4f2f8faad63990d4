// From frames to numbers: what docs/experiments.json holds and docs/experiments.md is written from.

import { psnr } from '../../apps/cli/dist/demo/psnr.js'
import { characterColours } from './datasets.mjs'
import { classKept, colourDistance, colourStatistics, drift, summarise } from './measures.mjs'

/** Rounded where more digits would say nothing. */
function round(value) {
  return Math.round(value * 1000) / 1000
}

/** One line of the table: a number for each held-out clip with and without something, and what lies between. */
function compare(without, withIt) {
  const difference = summarise(withIt.map((value, index) => value - without[index]))
  return {
    without: round(summarise(without).mean),
    with: round(summarise(withIt).mean),
    difference: round(difference.mean),
    error: round(difference.error),
    clips: { without: without.map(round), with: withIt.map(round) },
  }
}

/**
 * @param sets frames of the previews, by set
 * @param truth { clips, throughVae } of the held-out clips, by the name of their first frames
 * @param styleDataset frames of the clips that the style was trained on
 */
export function measure({ sets, truth, styleDataset }) {
  const data = (frames) => frames.map((frame) => frame.data)
  const psnrs = (clips, name = 'crane') =>
    clips.map((frames, index) => psnr(data(frames), data(truth[name].clips[index])))
  // The look is complete in the last five frames; the measures leave out the first of what they are given.
  const late = (clips) => clips.map((frames) => frames.slice(-6))
  const colours = (clips) => late(clips).map((frames) => colourStatistics([frames]))
  const look = colours(truth.poster.throughVae)
  const toLook = (clips) =>
    colours(clips).map((statistics, index) => colourDistance(statistics, look[index]))
  const kept = (clips, what) =>
    clips.map(
      (frames, index) => classKept(frames, truth.character.clips[index], characterColours)[what],
    )
  const drifts = (clips, from) => clips.map((frames, index) => drift(frames, from[index]))
  const dataset = colourStatistics(late(styleDataset))
  const toDataset = (clips) => round(colourDistance(colourStatistics(late(clips)), dataset))
  const mean = (values) => round(summarise(values).mean)

  const measured = {}
  const have = (...names) => names.every((name) => sets[name])
  if (have('base crane', 'motion', 'motion-seed-43')) {
    measured.motion = {
      psnr: compare(psnrs(sets['base crane']), psnrs(sets.motion)),
      otherSeed: compare(psnrs(sets.motion), psnrs(sets['motion-seed-43'])),
      throughVae: mean(psnrs(truth.crane.throughVae)),
      firstFrame: mean(psnrs(truth.crane.clips.map((frames) => frames.map(() => frames[0])))),
    }
  }
  if (have('base style', 'motion', 'style')) {
    measured.style = {
      look: compare(toLook(sets['base style']), toLook(sets.style)),
      againstMotion: compare(toLook(sets.motion), toLook(sets.style)),
      statistics: {
        base: toDataset(sets['base style']),
        motion: toDataset(sets.motion),
        style: toDataset(sets.style),
        trueClips: toDataset(truth.poster.clips),
        throughVae: toDataset(truth.poster.throughVae),
      },
    }
  }
  if (have('base character', 'character')) {
    measured.character = {
      area: compare(kept(sets['base character'], 'area'), kept(sets.character, 'area')),
      overlap: compare(kept(sets['base character'], 'overlap'), kept(sets.character, 'overlap')),
      psnr: compare(psnrs(sets['base character'], 'character'), psnrs(sets.character, 'character')),
      throughVae: {
        area: mean(kept(truth.character.throughVae, 'area')),
        overlap: mean(kept(truth.character.throughVae, 'overlap')),
        psnr: mean(psnrs(truth.character.throughVae, 'character')),
      },
    }
  }
  if (have('base static', 'base pan', 'motion static', 'dop static', 'motion pan', 'dop pan')) {
    measured.dop = {
      classPrompt: compare(
        drifts(sets['motion static'], sets['base static']),
        drifts(sets['dop static'], sets['base static']),
      ),
      otherPrompt: compare(
        drifts(sets['motion pan'], sets['base pan']),
        drifts(sets['dop pan'], sets['base pan']),
      ),
      trigger: compare(psnrs(sets.motion), psnrs(sets.dop)),
    }
  }
  if (have('motion', 'motion-seed-43', 'ema', 'ema-seed-43')) {
    measured.ema = {
      psnr: compare(
        [...psnrs(sets.motion), ...psnrs(sets['motion-seed-43'])],
        [...psnrs(sets.ema), ...psnrs(sets['ema-seed-43'])],
      ),
    }
  }
  if (have('base crane', 'base packed', 'motion', 'motion packed', 'four-bit', 'four-bit packed')) {
    measured.fourBit = {
      base: compare(psnrs(sets['base crane']), psnrs(sets['base packed'])),
      packedThroughout: compare(psnrs(sets.motion), psnrs(sets['four-bit packed'])),
      trainedPacked: compare(psnrs(sets.motion), psnrs(sets['four-bit'])),
      usedPacked: compare(psnrs(sets.motion), psnrs(sets['motion packed'])),
    }
  }
  return measured
}
