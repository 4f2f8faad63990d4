import type { BucketPlan } from '@kinora/config-schema'
import type { WarningEvent } from '@kinora/stage'
import type { PlanClip } from './assign-clip.ts'
import { snapNumFrames } from './frame-times.ts'
import type { DatasetSettings } from './options.ts'

/** One bucket, in the numbers people ask for. */
export interface BucketRow {
  width: number
  height: number
  numFrames: number
  resolution: number
  batchSize: number
  regularisation: boolean
  numClips: number
  /** Samples of an epoch: clips times windows, repeats and flips. */
  numSamples: number
  /** Batches of an epoch. */
  numSteps: number
  /** Samples over the last full batch, before it was filled or they were dropped. */
  numLeftOver: number
  /** Samples repeated to fill the last batch. */
  numFilled: number
  /** Footage that some sample covers, in seconds. */
  secondsUsed: number
  /** Footage of these clips that no sample covers, in seconds. */
  secondsUnused: number
  /** Slowest and fastest sample; 1 is real time. */
  speedUp: { min: number; max: number }
}

/** What `bucketer plan` prints. */
export interface BucketReport {
  rows: BucketRow[]
  total: {
    numClips: number
    numClipsUsed: number
    numSamples: number
    numSteps: number
    /** Of all clips, those left out included; each clip once, however many resolutions use it. */
    secondsUsed: number
    secondsUnused: number
  }
  /** How many clips were left out for each reason. */
  skipped: Record<string, number>
  warnings: WarningEvent[]
}

/** Faster than this, squeezed footage is worth a warning: it teaches motion a quarter too fast. */
const noticeableSpeedUp = 1.25

type Covered = Map<string, { from: number; to: number }[]>

/**
 * Counts a plan.
 *
 * @param filled samples each bucket repeats to fill its last batch
 */
export function reportBuckets(
  plan: BucketPlan,
  datasets: readonly { clips: readonly PlanClip[] }[],
  settings: readonly DatasetSettings[],
  filled: readonly number[],
): BucketReport {
  const clips = new Map(
    datasets.flatMap(({ clips: own }, dataset) =>
      own.map((clip) => [clipKey(dataset, clip.file), clip] as const),
    ),
  )
  const everything: Covered = new Map()
  const rows = plan.buckets.map((bucket, index): BucketRow => {
    const covered: Covered = new Map()
    for (const { dataset, clip, frameIndices } of bucket.items) {
      const key = clipKey(dataset, clip)
      const range = { from: frameIndices[0]!, to: frameIndices.at(-1)! + 1 }
      for (const map of [covered, everything]) {
        const ranges = map.get(key)
        if (ranges) ranges.push(range)
        else map.set(key, [range])
      }
    }
    const speeds = bucket.items.map(({ speedUp }) => speedUp)
    const numFilled = filled[index] ?? 0
    const numSamples = bucket.items.length
    const { width, height, numFrames, resolution, batchSize } = bucket
    return {
      width,
      height,
      numFrames,
      resolution,
      batchSize,
      regularisation: bucket.items[0]!.regularisation,
      numClips: covered.size,
      numSamples,
      numSteps: Math.ceil(numSamples / batchSize),
      numLeftOver: (numSamples - numFilled) % batchSize,
      numFilled,
      ...seconds(covered, clips, [...covered.keys()]),
      speedUp: { min: Math.min(...speeds), max: Math.max(...speeds) },
    }
  })
  const skipped: Record<string, number> = {}
  for (const { reason } of plan.skipped) skipped[reason] = (skipped[reason] ?? 0) + 1
  return {
    rows,
    total: {
      numClips: clips.size,
      numClipsUsed: everything.size,
      numSamples: rows.reduce((sum, row) => sum + row.numSamples, 0),
      numSteps: rows.reduce((sum, row) => sum + row.numSteps, 0),
      ...seconds(everything, clips, [...clips.keys()]),
    },
    skipped,
    warnings: warn(rows, settings),
  }
}

function clipKey(dataset: number, file: string): string {
  return `${dataset} ${file}`
}

function seconds(
  covered: Covered,
  clips: ReadonlyMap<string, PlanClip>,
  keys: readonly string[],
): { secondsUsed: number; secondsUnused: number } {
  let used = 0
  let all = 0
  for (const key of keys) {
    const clip = clips.get(key)
    if (!clip) continue
    all += clip.numFrames / clip.fps
    let end = 0
    for (const { from, to } of (covered.get(key) ?? []).toSorted((a, b) => a.from - b.from)) {
      used += Math.max(0, to - Math.max(from, end)) / clip.fps
      end = Math.max(end, to)
    }
  }
  return { secondsUsed: round(used), secondsUnused: round(all - used) }
}

function warn(rows: readonly BucketRow[], settings: readonly DatasetSettings[]): WarningEvent[] {
  const warnings: WarningEvent[] = []
  for (const row of rows) {
    const name = bucketName(row)
    if (row.numClips < row.batchSize) {
      warnings.push({
        type: 'warning',
        code: 'BUCKETER_FEWER_CLIPS_THAN_BATCH',
        message: `The bucket ${name} has ${count(row.numClips, 'clip')} for a batch of ${row.batchSize}.`,
        fix:
          row.numFilled > 0
            ? 'The same clip stands in a batch several times. Lower batchSize, or bring clips to one shape and length.'
            : 'Lower batchSize, or bring clips to one shape and length.',
      })
    }
    if (row.speedUp.max > noticeableSpeedUp) {
      warnings.push({
        type: 'warning',
        code: 'BUCKETER_SQUEEZED',
        message: `Clips in the bucket ${name} are squeezed and play up to ${row.speedUp.max.toFixed(2)} times too fast.`,
        fix: 'Use frame mode real-time, slide or chunk to keep the true speed, or a larger numFrames.',
      })
    }
    if (row.speedUp.min < 1 / noticeableSpeedUp) {
      warnings.push({
        type: 'warning',
        code: 'BUCKETER_STRETCHED',
        message: `Clips in the bucket ${name} are stretched and play at ${row.speedUp.min.toFixed(2)} of their speed.`,
        fix: 'Set shortClips to snap or skip, or lower numFrames.',
      })
    }
  }
  return warnings.concat(snapWarnings(settings))
}

function snapWarnings(settings: readonly DatasetSettings[]): WarningEvent[] {
  const snapped = new Set(
    settings
      .filter(({ autoNumFrames }) => !autoNumFrames)
      .flatMap(({ askedNumFrames }) => askedNumFrames)
      .filter((numFrames) => snapNumFrames(numFrames) !== numFrames),
  )
  return [...snapped].map((numFrames) => ({
    type: 'warning',
    code: 'BUCKETER_NUM_FRAMES_SNAPPED',
    message: `numFrames ${numFrames} is used as ${snapNumFrames(numFrames)}: the VAE takes one more than a multiple of 4.`,
    fix: `Write ${snapNumFrames(numFrames)} or ${snapNumFrames(numFrames) + 4}.`,
  }))
}

/** The table of a plan, for a terminal. */
export function formatReport(report: BucketReport): string {
  const header = ['bucket', 'clips', 'samples', 'batch', 'steps', 'used s', 'unused s', 'speed']
  const lines = report.rows.map((row) => [
    bucketName(row),
    String(row.numClips),
    String(row.numSamples),
    String(row.batchSize),
    String(row.numSteps),
    row.secondsUsed.toFixed(1),
    row.secondsUnused.toFixed(1),
    speedText(row.speedUp),
  ])
  const { total } = report
  const sum = [
    'total',
    String(total.numClipsUsed),
    String(total.numSamples),
    '',
    String(total.numSteps),
    total.secondsUsed.toFixed(1),
    total.secondsUnused.toFixed(1),
    '',
  ]
  const notes = report.rows
    .filter((row) => row.numLeftOver > 0)
    .map((row) => `${bucketName(row)}: ${leftOverText(row)}`)
  const left = total.numClips - total.numClipsUsed
  if (left > 0) notes.push(`${count(left, 'clip')} of ${total.numClips} not used.`)
  const reasons = Object.entries(report.skipped)
  if (reasons.length > 0) {
    notes.push(`Left out: ${reasons.map(([reason, times]) => `${times} ${reason}`).join(', ')}.`)
  }
  return [...table([header, ...lines, sum]), ...notes].join('\n')
}

function table(rows: readonly (readonly string[])[]): string[] {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)))
  const lines = rows.map((row) =>
    row
      .map((cell, column) =>
        column === 0 ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!),
      )
      .join('  ')
      .trimEnd(),
  )
  const rule = widths.map((width) => '─'.repeat(width)).join('  ')
  return [lines[0]!, rule, ...lines.slice(1, -1), rule, lines.at(-1)!]
}

/** `832x480 x 81 @ 512`, with `reg` for a regularisation set. */
function bucketName(row: BucketRow): string {
  const { width, height, numFrames, resolution, regularisation } = row
  return `${width}x${height} x ${numFrames} @ ${resolution}${regularisation ? ' reg' : ''}`
}

function leftOverText({ numLeftOver, numFilled }: BucketRow): string {
  return numFilled > 0
    ? `${count(numLeftOver, 'sample')} left over, the last batch filled with ${numFilled} repeated.`
    : `${count(numLeftOver, 'sample')} left over, the last batch is short.`
}

function speedText({ min, max }: { min: number; max: number }): string {
  if (min === 1 && max === 1) return 'real time'
  return min === max ? `${max.toFixed(2)}x` : `${min.toFixed(2)}x–${max.toFixed(2)}x`
}

function count(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? '' : 's'}`
}

function round(value: number): number {
  return Math.round(value * 1000) / 1000
}
