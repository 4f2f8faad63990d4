// ffmpeg and ffprobe: those on the PATH, else the distribution's, else builds that npm packages carry inside them.

import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { canUseApt, openApt } from './apt.mjs'
import { fetchPackageFiles, writeFiles } from './npm-package.mjs'
import { runQuietly } from './run-command.mjs'
import { SetupError, startProgress } from './say.mjs'
import { stateFolder } from './state.mjs'

const carriers = {
  'linux-x64': ['4.1.0', '5.2.0'],
  'linux-arm64': ['4.1.4', '5.2.0'],
  'darwin-x64': ['4.1.0', '5.1.0'],
  'darwin-arm64': ['4.1.5', '5.0.1'],
}

/** Where ffmpeg is (`folder` undefined: on the PATH) and why that one. */
export async function findFfmpeg() {
  if (await works('ffmpeg', 'ffprobe')) return { reason: 'the one on the PATH.' }
  const folder = join(stateFolder, 'ffmpeg')
  if (await works(join(folder, 'ffmpeg'), join(folder, 'ffprobe'))) {
    return { folder, reason: 'the build in .kinora/ffmpeg, as none is on the PATH.' }
  }
  const problems = []
  if (canUseApt()) {
    const apt = await openApt()
    try {
      const problem = apt.problem ?? (await apt.install('Installing ffmpeg', ['ffmpeg']))
      if (!problem && (await works('ffmpeg', 'ffprobe'))) {
        return { reason: "the distribution's, installed through apt-get." }
      }
      problems.push(`apt-get: ${problem ?? 'the installed ffmpeg does not run'}`)
    } finally {
      apt.close()
    }
  } else problems.push('apt-get cannot be used (not root, or no Debian)')

  const platform = `${process.platform}-${process.arch}`
  const versions = carriers[platform]
  if (versions) {
    const problem = await unpackCarried(platform, versions, folder)
    if (!problem && (await works(join(folder, 'ffmpeg'), join(folder, 'ffprobe')))) {
      return { folder, reason: 'a build from an npm package, unpacked into .kinora/ffmpeg.' }
    }
    problems.push(problem ?? 'the build from npm does not run')
  } else problems.push(`no npm package carries one for ${platform}`)
  throw new SetupError(
    'SETUP_NO_FFMPEG',
    `ffmpeg and ffprobe are needed and could not be set up: ${problems.join('; ')}.`,
    'Install ffmpeg (with libx264) so that both commands are on the PATH, then run the same command again.',
  )
}

async function works(ffmpeg, ffprobe) {
  for (const command of [ffmpeg, ffprobe]) {
    if (command.includes('/') && !existsSync(command)) return false
    if ((await runQuietly(command, ['-version'])).code !== 0) return false
  }
  return true
}

async function unpackCarried(platform, [ffmpegVersion, ffprobeVersion], folder) {
  const progress = startProgress('Fetching ffmpeg from npm')
  let problem
  for (const [name, version] of [
    ['ffmpeg', ffmpegVersion],
    ['ffprobe', ffprobeVersion],
  ]) {
    const fetched = await fetchPackageFiles(
      `@${name}-installer/${platform}@${version}`,
      (path) => path === `package/${name}`,
    )
    problem ??= fetched.problem
    if (fetched.files) writeFiles(folder, [[name, fetched.files.get(`package/${name}`)]], 0o755)
    progress.set(name === 'ffmpeg' ? 0.5 : 1)
  }
  progress.end(problem !== undefined)
  return problem
}
