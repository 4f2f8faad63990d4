import type { DroppedRecord } from '@kinora/config-schema'
import { clipFlags, type ClipFlag } from './clip-flags.ts'
import { groupNearDuplicates } from './near-duplicates.ts'
import type { StoredClip } from './work-state.ts'

export interface ChosenClips {
  kept: StoredClip[]
  dropped: DroppedRecord[]
  /** The clips that `dropped` is about. */
  hidden: (StoredClip & { droppedFor: ClipFlag })[]
}

/**
 * Flags near-duplicates among all clips and leaves out those with a flag of `drop`. Without `drop` nothing is left out. A
 * shard sees a part of the clips only, so duplicates wait for the merge.
 */
export function chooseClips(
  clips: readonly StoredClip[],
  { drop, shard }: { drop: readonly ClipFlag[]; shard?: string | undefined },
): ChosenClips {
  const likes = new Map<string, string>()
  if (shard === undefined) {
    const groups = groupNearDuplicates(
      clips.map(({ id, pictures, record }) => ({
        id,
        hashes: pictures.hashes,
        // Sharper is better, longer is better; neither alone.
        quality: Math.log1p(pictures.sharpness) + Math.log1p(record.numFrames),
      })),
    )
    const fileOf = new Map(clips.map(({ id, record }) => [id, record.file]))
    for (const [best, ...others] of groups)
      for (const other of others) likes.set(other, fileOf.get(best!)!)
  }
  const chosen: ChosenClips = { kept: [], dropped: [], hidden: [] }
  for (const clip of clips) {
    const like = likes.get(clip.id)
    const flags = [...clip.record.flags, ...(like === undefined ? [] : ['near-duplicate'])]
    const flagged = { ...clip, record: { ...clip.record, flags } }
    const reason = drop.find((flag) => flags.includes(flag))
    if (reason === undefined) {
      chosen.kept.push(flagged)
      continue
    }
    const { file, start, end } = clip.record.source
    chosen.hidden.push({ ...clip, droppedFor: reason })
    chosen.dropped.push({
      type: 'dropped',
      file,
      start,
      end,
      reason,
      detail:
        reason === 'near-duplicate' ? `Nearly the same as ${like}.` : clipFlags[reason].meaning,
    })
  }
  return chosen
}
