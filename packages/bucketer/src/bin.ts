#!/usr/bin/env node
import { runBin } from '@kinora/stage/bin'
import { bucketerCommands } from './lib/bucketer-commands.ts'
import type { ProbeClip } from './lib/read-clips.ts'

/** An optional peer: only a folder without a manifest needs to look into video files. */
const mediaPackage: string = '@kinora/media'

process.exitCode = await runBin(bucketerCommands({ probe: mediaProbe() }))

function mediaProbe(): ProbeClip | undefined {
  try {
    import.meta.resolve(mediaPackage)
  } catch {
    return undefined
  }
  return async (file, context) => {
    const { probe } = (await import(mediaPackage)) as { probe: ProbeClip }
    return probe(file, context)
  }
}
