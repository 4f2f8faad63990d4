import { readFile, stat } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import {
  readBucketPlan,
  readManifest,
  type BucketPlan,
  type MotionSummary,
  type TrainJob,
} from '@kinora/config-schema'
import { readFrames, type RgbImage } from '@kinora/media'
import { motionProfile, spedUp, type MotionProfile } from '@kinora/run-log'
import { writeFileAtomic, type RunContext } from '@kinora/stage'
import { summariseMotion } from './summarise-motion.ts'

/** Clips that are measured where no manifest says how they move: enough for a median. */
const maxMeasured = 24

/** What `clip-motion.json` remembers, so that a run measures its clips once. */
type MotionCache = Record<string, { identity: string; motion: MotionSummary | null }>

/**
 * How the samples of a run move as they are trained: the clips' own motion, from their manifest or measured, times how much faster
 * the plan plays them. Regularisation sets are left out.
 *
 * @param cacheFile where measured clips are remembered
 */
export async function trainedMotion(
  job: TrainJob,
  planFile: string,
  cacheFile: string,
  { signal }: RunContext = {},
): Promise<MotionProfile | undefined> {
  const plan = readBucketPlan(await readFile(planFile, 'utf8'), { fileName: planFile })
  const speeds = clipSpeeds(plan, dirname(resolve(planFile)))
  const known = await manifestMotions(job)
  const cache = await readCache(cacheFile)
  const motions: MotionSummary[] = []
  let numMeasured = 0
  let changed = false
  for (const [clip, speedUp] of spread([...speeds])) {
    signal?.throwIfAborted()
    let motion: MotionSummary | null | undefined = known.get(clip)
    if (motion === undefined) {
      const identity = await identityOf(clip)
      const remembered = cache[clip]
      if (remembered && remembered.identity === identity) motion = remembered.motion
      else if (identity !== undefined && numMeasured < maxMeasured) {
        motion = await summariseMotion(framesOf(clip, plan.fps, { signal }), plan.fps)
        cache[clip] = { identity, motion }
        numMeasured++
        changed = true
      }
    }
    if (motion) motions.push(spedUp(motion, speedUp))
  }
  if (changed) await writeFileAtomic(cacheFile, `${JSON.stringify(cache)}\n`)
  return motionProfile(motions)
}

/** Each clip of the sets that are learned from, by resolved path, with how much faster it plays. */
function clipSpeeds(plan: BucketPlan, folder: string): Map<string, number> {
  const speeds = new Map<string, number>()
  for (const { items } of plan.buckets) {
    for (const { clip, speedUp, regularisation, frameIndices } of items) {
      if (regularisation || frameIndices.length < 2) continue
      speeds.set(resolve(folder, clip), speedUp)
    }
  }
  return speeds
}

/** The same things in an order whose beginning is spread over all of them. */
function spread<T>(list: readonly T[]): T[] {
  const stride = Math.max(1, Math.floor(list.length / maxMeasured))
  return Array.from({ length: stride }, (_, from) =>
    list.filter((_, index) => index % stride === from),
  ).flat()
}

async function manifestMotions(job: TrainJob): Promise<Map<string, MotionSummary>> {
  const motions = new Map<string, MotionSummary>()
  for (const { dataset_path } of job.config.process[0].datasets) {
    for (const file of [join(dataset_path, 'manifest.jsonl'), dataset_path]) {
      const text = await readFile(file, 'utf8').catch(() => undefined)
      if (text === undefined) continue
      for (const clip of readManifest(text, { fileName: file }).clips) {
        if (clip.motion) motions.set(resolve(dirname(file), clip.file), clip.motion)
      }
      break
    }
  }
  return motions
}

async function identityOf(file: string): Promise<string | undefined> {
  return stat(file).then(
    ({ size, mtimeMs }) => `${size} ${mtimeMs}`,
    () => undefined,
  )
}

async function* framesOf(
  file: string,
  fps: number,
  { signal }: RunContext,
): AsyncGenerator<RgbImage> {
  for await (const frame of readFrames(file, { fps }, { signal })) yield frame
}

async function readCache(file: string): Promise<MotionCache> {
  try {
    return JSON.parse(await readFile(file, 'utf8')) as MotionCache
  } catch {
    return {}
  }
}
