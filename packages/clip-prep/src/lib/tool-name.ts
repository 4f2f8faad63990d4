import { readFileSync } from 'node:fs'

const { version } = JSON.parse(
  readFileSync(new URL('../../package.json', import.meta.url), 'utf8'),
) as { version: string }

/** Name and version of this package, as manifests say it. */
export const toolName = `clip-prep ${version}`
