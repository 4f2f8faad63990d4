// The workspace's dependencies, through the pnpm that package.json names, fetched by npx.

import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { npmCommand, runQuietly } from './run-command.mjs'
import { SetupError, startProgress } from './say.mjs'
import { hashOf, isFresh, readJson, root, stamp } from './state.mjs'

/** package.json of every workspace package, the root's first. */
export function workspacePackages() {
  const folders = ['packages', 'apps'].flatMap((group) =>
    readdirSync(join(root, group)).map((name) => join(group, name)),
  )
  return ['', 'tooling', ...folders]
    .map((folder) => ({ folder, manifest: readJson(join(root, folder, 'package.json')) }))
    .filter(({ manifest }) => manifest !== undefined)
}

export async function installWorkspace() {
  const lockfile = readFileSync(join(root, 'pnpm-lock.yaml'), 'utf8')
  const key = hashOf(
    lockfile,
    readFileSync(join(root, 'pnpm-workspace.yaml'), 'utf8'),
    JSON.stringify(
      workspacePackages().map(({ folder, manifest }) => [
        folder,
        manifest.dependencies,
        manifest.devDependencies,
        manifest.peerDependencies,
        manifest.bin,
      ]),
    ),
    `${process.platform} ${process.arch} ${process.versions.modules}`,
  )
  if (isFresh('install', key) && existsSync(join(root, 'node_modules/.modules.yaml'))) return

  const { packageManager } = readJson(join(root, 'package.json'))
  const numPackages = lockfile
    .slice(lockfile.indexOf('\npackages:'), lockfile.indexOf('\nsnapshots:'))
    .match(/^ {2}\S.*:$/gm)?.length
  const progress = startProgress('Installing dependencies')
  let numDone = 0
  const problems = []
  const npx = npmCommand('npx')
  const { code, stdout, stderr } = await runQuietly(
    npx.file,
    [...npx.args, '--yes', packageManager, 'install', '--frozen-lockfile', '--reporter=ndjson'],
    {
      env: { ...process.env, CI: 'true' },
      onLine(line) {
        const event = parseEvent(line)
        if (
          event?.name === 'pnpm:progress' &&
          /fetched|found_in_store|imported/.test(event.status)
        ) {
          numDone++
          progress.set(numDone / (2 * (numPackages || 1)))
        } else if (event?.level === 'error') {
          problems.push([event.code, event.err?.message ?? event.message].filter(Boolean).join(' '))
        }
      },
    },
  )
  progress.end(code !== 0)
  if (code !== 0) {
    throw new SetupError(
      'SETUP_INSTALL_FAILED',
      `${packageManager} install ended with exit code ${code}.\n${problems.join('\n') || tail(stderr || stdout)}`,
      /OUTDATED_LOCKFILE/.test(problems.join())
        ? `A package.json changed without the lockfile: run npx ${packageManager} install and commit pnpm-lock.yaml.`
        : 'Check the connection to the npm registry and the free space, then run the same command again.',
    )
  }
  stamp('install', key)
}

function parseEvent(line) {
  try {
    return JSON.parse(line)
  } catch {
    return undefined
  }
}

export function tail(text, numLines = 15) {
  return text.trim().split('\n').slice(-numLines).join('\n')
}
