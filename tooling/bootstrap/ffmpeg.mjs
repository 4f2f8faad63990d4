// ffmpeg and ffprobe: those on the PATH, else the distribution's: installed as root, else its packages unpacked under .kinora/.
// No npm package carries a build that is new enough (5.1) and whole; those that do are from 2018 or lack filters.

import { existsSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { hasApt, isRoot, openApt } from './apt.mjs'
import { runQuietly } from './run-command.mjs'
import { SetupError } from './say.mjs'
import { stateFolder } from './state.mjs'

/** Where ffmpeg is (`folder` undefined: on the PATH) and why that one. */
export async function findFfmpeg() {
  if (await works('ffmpeg', 'ffprobe')) return { reason: 'the one on the PATH.' }
  const folder = join(stateFolder, 'ffmpeg')
  const unpacked = { folder, reason: "the distribution's, unpacked into .kinora/ffmpeg." }
  if (await works(join(folder, 'ffmpeg'), join(folder, 'ffprobe'))) return unpacked

  let problem = 'this machine has no apt-get'
  if (hasApt()) {
    const apt = await openApt()
    try {
      problem =
        apt.problem ??
        (isRoot() ? await apt.install('Installing ffmpeg', ['ffmpeg']) : await unpack(apt, folder))
    } finally {
      apt.close()
    }
    if (!problem && isRoot() && (await works('ffmpeg', 'ffprobe'))) {
      return { reason: "the distribution's, installed through apt-get." }
    }
    if (!problem && (await works(join(folder, 'ffmpeg'), join(folder, 'ffprobe')))) return unpacked
  }
  throw new SetupError(
    'SETUP_NO_FFMPEG',
    `ffmpeg and ffprobe are needed and could not be set up: ${problem ?? 'what was installed does not run'}.`,
    'Install ffmpeg 5.1 or newer (with libx264) so that both commands are on the PATH, then run the same command again.',
  )
}

async function works(ffmpeg, ffprobe) {
  for (const command of [ffmpeg, ffprobe]) {
    if (command.includes('/') && !existsSync(command)) return false
    if ((await runQuietly(command, ['-version'])).code !== 0) return false
  }
  return true
}

/** Without root: the packages' files under .kinora/, and two scripts that point the loader at their libraries. */
async function unpack(apt, folder) {
  const problem = await apt.unpack('Fetching ffmpeg', ['ffmpeg'], folder)
  if (problem) return problem
  const paths = ['usr/lib', 'lib']
    .map((libraries) => join(folder, libraries))
    .filter((libraries) => existsSync(libraries))
    .flatMap((libraries) => readdirSync(libraries).map((name) => join(libraries, name)))
    .filter((path) => path.includes('-linux-'))
    // Libraries that the distribution finds through links which only an installation makes.
    .flatMap((path) => [path, ...['blas', 'lapack', 'pulseaudio'].map((part) => join(path, part))])
    .filter((path) => existsSync(path))
  for (const name of ['ffmpeg', 'ffprobe']) {
    writeFileSync(
      join(folder, name),
      `#!/bin/sh\nLD_LIBRARY_PATH='${paths.join(':')}' exec '${join(folder, 'usr/bin', name)}' "$@"\n`,
      { mode: 0o755 },
    )
  }
  return undefined
}
