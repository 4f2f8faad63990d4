import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

/**
 * Collects garbage now. What was measured on hours of footage is some hundred megabytes that the engine would keep for as long
 * as nothing else asks for memory: while ffmpeg, whose memory it does not see, asks for its own.
 */
export function releaseMemory(): void {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('globalThis.gc') as (() => void) | undefined
  collect?.()
}
