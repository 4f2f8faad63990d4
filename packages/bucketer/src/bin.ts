#!/usr/bin/env node
import { runBin } from '@kinora/stage/bin'
import { bucketerCommands } from './lib/bucketer-commands.ts'
import type { ProbeClip } from './lib/read-clips.ts'

process.exitCode = await runBin(bucketerCommands({ probe: mediaProbe() }))

/** Only a folder without a manifest needs to look into video files; @kinora/media does that where it is installed. */
function mediaProbe(): ProbeClip | undefined {
  try {
    import.meta.resolve('@kinora/media')
  } catch {
    return undefined
  }
  return async (file, context) => (await import('@kinora/media')).probe(file, context)
}
