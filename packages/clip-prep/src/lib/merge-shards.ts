import {
  formatManifest,
  readManifest,
  type ClipRecord,
  type DatasetManifest,
  type DroppedRecord,
} from '@kinora/config-schema'
import {
  drain,
  lockFolder,
  parseOptions,
  writeFileAtomic,
  type RunContext,
  type StageEvent,
} from '@kinora/stage'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { chooseClips } from './choose-clips.ts'
import { clipFlags, type ClipFlag, type DropReason } from './clip-flags.ts'
import { clipPrepErrors } from './errors.ts'
import { mergeShardsOptions, type MergeShardsOptions } from './options.ts'
import { writeReport } from './report.ts'
import { openWorkState, type StoredClip } from './work-state.ts'

/**
 * Joins the manifests that runs with `shard` left in one output folder into manifest.jsonl and report.html, as one run over all
 * of the footage would have written them. Near-duplicates and files of the same bytes are looked for here, over all shards.
 *
 * Phase: `merge` counts clips.
 */
export async function* mergeShardsIter(
  options: MergeShardsOptions,
  context: RunContext = {},
): AsyncGenerator<StageEvent, DatasetManifest> {
  const settings = parseOptions('CLIP_PREP', mergeShardsOptions, options)
  const { out } = settings
  const shards = await readShards(out)
  const lock = settings.dryRun ? undefined : await lockFolder(out)
  try {
    const state = openWorkState(out, { readOnly: settings.dryRun })
    const { records, dropped } = withoutSameBytes(shards)
    yield { type: 'started', phase: 'merge', total: records.length }
    const clips: StoredClip[] = []
    for (const [index, record] of records.entries()) {
      context.signal?.throwIfAborted()
      const stored = await state.readClip(record.id)
      if (!stored) throw clipPrepErrors.MISSING_CLIP(record.file, record.source.file)
      clips.push({ ...stored, record })
      yield {
        type: 'progress',
        phase: 'merge',
        done: index + 1,
        total: records.length,
        item: record.file,
      }
    }
    const header = shards[0]!.header
    const { shard: _shard, ...shared } = header.options
    const chosen = chooseClips(clips, { drop: flagsOf(shared['drop']) })
    const manifest: DatasetManifest = {
      header: { ...header, options: shared },
      clips: chosen.kept.map(({ record }) => record),
      dropped: [...dropped, ...chosen.dropped],
    }
    if (!settings.dryRun) {
      await state.hideClips(chosen.hidden)
      await writeFileAtomic(join(out, 'manifest.jsonl'), formatManifest(manifest))
      await state.removeOtherClips(new Set(clips.map(({ id }) => id)))
      if (settings.report) await writeReport(out, manifest, chosen.kept)
    }
    yield {
      type: 'note',
      message: `${manifest.clips.length} clips of ${shards.length} shards joined`,
    }
    return manifest
  } finally {
    await lock?.release()
  }
}

/** Runs `mergeShardsIter` to its end. */
export function mergeShards(
  options: MergeShardsOptions,
  context?: RunContext,
): Promise<DatasetManifest> {
  return drain(mergeShardsIter(options, context))
}

const shardFile = /^manifest\.(\d+)-of-(\d+)\.jsonl$/

/** The manifests of all shards, 1 to n; refuses what is not one whole set. */
async function readShards(out: string): Promise<DatasetManifest[]> {
  const names = await readdir(out).catch((): string[] => [])
  const found = names.flatMap((name) => {
    const [, index, count] = shardFile.exec(name) ?? []
    return index && count ? [{ name, index: Number(index), count: Number(count) }] : []
  })
  if (found.length === 0) throw clipPrepErrors.NO_SHARDS(out)
  found.sort((a, b) => a.count - b.count || a.index - b.index)
  const count = found[0]!.count
  const other = found.find((shard) => shard.count !== count)
  if (other) throw clipPrepErrors.SHARDS_DISAGREE(found[0]!.name, other.name)
  const missing = Array.from({ length: count }, (_, index) => index + 1).filter((index) =>
    found.every((shard) => shard.index !== index),
  )
  if (missing.length > 0)
    throw clipPrepErrors.MISSING_SHARDS(out, missing.map((index) => `${index}/${count}`).join(', '))
  const shards: DatasetManifest[] = []
  for (const { name } of found) {
    const fileName = join(out, name)
    const manifest = readManifest(await readFile(fileName, 'utf8'), { fileName })
    const first = shards[0]
    if (first && optionsText(manifest) !== optionsText(first))
      throw clipPrepErrors.SHARDS_DISAGREE(found[0]!.name, name)
    shards.push(manifest)
  }
  return shards
}

/** What must be the same in all shards. Where the footage is mounted may differ from machine to machine. */
function optionsText({ header }: DatasetManifest): string {
  const { shard: _shard, report: _report, strips: _strips, ...options } = header.options
  return JSON.stringify([header.tool, Object.entries(options).toSorted(byFirst)])
}

function byFirst([a]: [string, unknown], [b]: [string, unknown]): number {
  return a < b ? -1 : a > b ? 1 : 0
}

/** All records in the order of their footage; of files with the same bytes only the first keeps its clips. */
function withoutSameBytes(shards: readonly DatasetManifest[]): {
  records: ClipRecord[]
  dropped: DroppedRecord[]
} {
  const byFile = (a: string, b: string) => (a < b ? -1 : a > b ? 1 : 0)
  const all = shards
    .flatMap(({ clips }) => clips)
    .toSorted((a, b) => byFile(a.source.file, b.source.file))
  const firstOf = new Map<string, string>()
  const same = new Map<string, string>()
  const records = all.filter(({ source }) => {
    const first = firstOf.get(source.sha256) ?? source.file
    firstOf.set(source.sha256, first)
    if (first !== source.file) same.set(source.file, first)
    return first === source.file
  })
  const dropped = [
    ...shards.flatMap((shard) => shard.dropped).filter(({ file }) => !same.has(file)),
    ...Array.from(same, ([file, first]): DroppedRecord => ({
      type: 'dropped',
      file,
      reason: 'same-bytes' satisfies DropReason,
      detail: `The same bytes as ${first}.`,
    })),
  ].toSorted((a, b) => byFile(a.file, b.file))
  return { records, dropped }
}

/** The flags of a manifest's `drop`, as far as this version knows them. */
function flagsOf(drop: unknown): ClipFlag[] {
  return Array.isArray(drop) ? drop.filter((flag): flag is ClipFlag => flag in clipFlags) : []
}
