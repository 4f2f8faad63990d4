import { readFile } from 'node:fs/promises'

let version: Promise<string> | undefined

/** Version of this package, for the metadata of what it writes. */
export function packageVersion(): Promise<string> {
  version ??= readFile(new URL('../../package.json', import.meta.url), 'utf8').then(
    (text) => (JSON.parse(text) as { version: string }).version,
  )
  return version
}
