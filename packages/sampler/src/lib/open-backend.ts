import { createRequire } from 'node:module'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import type { OpenDevice } from '@kinora/kernel-api'
import { samplerErrors } from './errors.ts'

/**
 * `openDevice` of the package that `--backend` names, found from the current folder or from here. Throws `SAMPLER_NO_BACKEND` or
 * `SAMPLER_BAD_BACKEND`.
 */
export async function loadBackend(name: string): Promise<OpenDevice> {
  const module = (await import(locate(name))) as { openDevice?: unknown }
  if (typeof module.openDevice !== 'function') throw samplerErrors.BAD_BACKEND(name)
  return module.openDevice as OpenDevice
}

function locate(name: string): string {
  const require = createRequire(pathToFileURL(join(process.cwd(), 'sampler.js')))
  try {
    return pathToFileURL(require.resolve(name)).href
  } catch {
    // Not the user's own: beside the sampler, then.
  }
  try {
    return import.meta.resolve(name)
  } catch (cause) {
    const why = (cause as Error).message.split('\n')[0]!.replace(/\.$/, '')
    throw samplerErrors.NO_BACKEND(name, why, { cause })
  }
}
