// Installing Debian packages without touching how the machine's apt is set up: sources (the machine's own, and backports made
// from them where asked), lists and caches live in a temporary folder that is removed afterwards. Only dpkg's state changes.

import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { runQuietly } from './run-command.mjs'
import { startProgress } from './say.mjs'

export function hasApt() {
  return process.platform === 'linux' && existsSync('/usr/bin/apt-get')
}

export function isRoot() {
  return process.getuid?.() === 0
}

/** The release's name, such as `bookworm`; undefined where os-release has none. */
export function distributionCodename() {
  try {
    return /^VERSION_CODENAME=(\S+)$/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1]
  } catch {
    return undefined
  }
}

/**
 * Opens a private view of the package lists, fresh from the machine's own sources.
 *
 * @returns `versions(name)`, `install(title, specifiers)` and `unpack(title, specifiers, folder)` → problem or undefined, and
 *   `close()`; or a problem
 */
export async function openApt() {
  const folder = mkdtempSync(join(tmpdir(), 'kinora-apt-'))
  const close = () => rmSync(folder, { recursive: true, force: true })
  for (const name of ['sources.d', 'lists/partial', 'cache/archives/partial']) {
    mkdirSync(join(folder, name), { recursive: true })
  }
  copySources(folder)
  const options = [
    ['Dir::Etc::sourcelist', join(folder, 'sources.list')],
    ['Dir::Etc::sourceparts', join(folder, 'sources.d')],
    ['Dir::State::lists', join(folder, 'lists')],
    ['Dir::Cache', join(folder, 'cache')],
    // Its own user may not enter this folder.
    ['APT::Sandbox::User', 'root'],
    // The machine's own lock can be taken by root only, and is needed by installing only.
    ['Debug::NoLocking', String(!isRoot())],
    ['DPkg::Lock::Timeout', '300'],
    ['Dpkg::Use-Pty', '0'],
    ['APT::Status-Fd', '3'],
  ].flatMap(([key, value]) => ['-o', `${key}=${value}`])
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive', LC_ALL: 'C' }

  async function apt(title, args) {
    const progress = startProgress(title)
    const result = await runQuietly('apt-get', [...options, ...args], {
      env,
      statusFd: true,
      onLine(line) {
        // dlstatus:<n>:<percent>:<text> while downloading, pmstatus:<package>:<percent>:<text> while unpacking.
        const [kind, , percent] = line.split(':')
        if (kind === 'dlstatus') progress.set(Number(percent) / 200)
        else if (kind === 'pmstatus') progress.set(0.5 + Number(percent) / 200)
      },
    })
    progress.end(result.code !== 0)
    if (result.code === 0) return undefined
    const errors = result.stderr.split('\n').filter((line) => line.startsWith('E:'))
    return errors.join(' ') || `apt-get ended with exit code ${result.code}`
  }

  const problem = await apt('Reading the package lists', ['update'])
  return {
    problem,
    close,
    async versions(name) {
      const { stdout } = await runQuietly('apt-cache', [...options.slice(0, -2), 'madison', name], {
        env,
      })
      return stdout
        .split('\n')
        .map((line) => line.split('|').map((part) => part.trim()))
        .filter((parts) => parts.length === 3)
        .map(([, version, source]) => ({ version, suite: source.split(' ')[1]?.split('/')[0] }))
    },
    install: (title, specifiers) =>
      apt(title, ['install', '-y', '--no-install-recommends', ...specifiers]),
    /** Downloads what is not installed and unpacks it into a folder of the user's: no root, no change to the machine. */
    async unpack(title, specifiers, target) {
      const download = ['install', '-y', '--no-install-recommends', '--download-only']
      const failed = await apt(title, [...download, ...specifiers])
      if (failed) return failed
      const archives = join(folder, 'cache/archives')
      mkdirSync(target, { recursive: true })
      for (const name of readdirSync(archives).filter((entry) => entry.endsWith('.deb'))) {
        const { code, stderr } = await runQuietly('dpkg-deb', ['-x', join(archives, name), target])
        if (code !== 0) return `dpkg-deb: ${stderr.trim()}`
      }
      return undefined
    },
  }
}

function copySources(folder) {
  if (existsSync('/etc/apt/sources.list')) {
    cpSync('/etc/apt/sources.list', join(folder, 'sources.list'))
  } else writeFileSync(join(folder, 'sources.list'), '')
  const parts = '/etc/apt/sources.list.d'
  for (const name of existsSync(parts) ? readdirSync(parts) : []) {
    if (/\.(list|sources)$/.test(name)) cpSync(join(parts, name), join(folder, 'sources.d', name))
  }
  const codename = distributionCodename()
  if (!codename || !isDebian()) return
  const list = deriveBackports(readFileSync(join(folder, 'sources.list'), 'utf8'), codename, 'list')
  if (list) return writeFileSync(join(folder, 'sources.d/kinora-backports.list'), list)
  for (const name of readdirSync(join(folder, 'sources.d'))) {
    const format = name.endsWith('.list') ? 'list' : 'sources'
    const text = readFileSync(join(folder, 'sources.d', name), 'utf8')
    const derived = deriveBackports(text, codename, format)
    if (derived) return writeFileSync(join(folder, `sources.d/kinora-backports.${format}`), derived)
  }
}

function isDebian() {
  return /^ID=debian$/m.test(readFileSync('/etc/os-release', 'utf8'))
}

/**
 * The backports source that belongs to the first source of the release itself, from the same place and with the same key;
 * undefined where the text has none.
 *
 * @param format `list` for one-line sources, `sources` for deb822 stanzas
 */
export function deriveBackports(text, codename, format) {
  const suite = `${codename}-backports`
  if (format === 'list') {
    const line = text
      .split('\n')
      .find((candidate) => /^deb\s/.test(candidate) && candidate.split(/\s+/).includes(codename))
    return line?.replace(new RegExp(`(\\s)${codename}(\\s)`), `$1${suite}$2`).concat('\n')
  }
  const stanza = text
    .split(/\n\s*\n/)
    .map((block) => block.split('\n').filter((line) => line !== '' && !line.startsWith('#')))
    .find(
      (lines) =>
        lines.some((line) => /^Types:.*\bdeb\b/i.test(line)) &&
        lines.some((line) => /^Suites:/i.test(line) && line.split(/\s+/).includes(codename)) &&
        !lines.some((line) => /^Enabled:\s*(no|false)/i.test(line)),
    )
  return stanza
    ?.map((line) => (/^Suites:/i.test(line) ? `Suites: ${suite}` : line))
    .join('\n')
    .concat('\n')
}
