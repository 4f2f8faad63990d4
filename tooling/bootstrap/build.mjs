// dist/ of every package, through turbo. A look at the sources' sizes and times says whether turbo need be asked at all.

import { existsSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { tail, workspacePackages } from './install.mjs'
import { npmCommand, runQuietly } from './run-command.mjs'
import { SetupError, startProgress } from './say.mjs'
import { hashOf, isFresh, readJson, root, stamp } from './state.mjs'

export async function buildWorkspace() {
  const built = workspacePackages().filter(
    ({ folder, manifest }) => folder !== '' && manifest.scripts?.build,
  )
  const key = hashOf(...built.map(({ folder }) => describeSources(join(root, folder))))
  const complete = built.every(({ folder }) => existsSync(join(root, folder, 'dist')))
  if (complete && isFresh('build', key)) return

  const progress = startProgress('Building the packages')
  let numStarted = 0
  const { packageManager } = readJson(join(root, 'package.json'))
  const npx = npmCommand('npx')
  // turbo looks for pnpm on the PATH, which npx gives it.
  const turbo = `--yes ${packageManager} exec turbo run build --ui=stream --no-update-notifier --output-logs=errors-only --log-order=stream`
  const { code, stdout, stderr } = await runQuietly(npx.file, [...npx.args, ...turbo.split(' ')], {
    env: { ...process.env, TURBO_TELEMETRY_DISABLED: '1', NO_COLOR: '1', FORCE_COLOR: '0' },
    onLine(line) {
      if (!/cache (hit|miss|bypass)/.test(line)) return
      progress.set(numStarted++ / built.length, line.split(':')[0])
    },
  })
  progress.end(code !== 0)
  if (code !== 0) {
    throw new SetupError(
      'SETUP_BUILD_FAILED',
      `The build ended with exit code ${code}.\n${tail(stdout, 40)}\n${tail(stderr)}`,
      'Correct what is named above; on a clean clone of a release this is a bug worth reporting.',
    )
  }
  stamp('build', key)
}

/** Names, sizes and times of what a package is built from. */
function describeSources(folder) {
  const files = [join(folder, 'package.json'), join(folder, 'tsconfig.json')]
  const visit = (current) => {
    for (const entry of readdirSync(current, { withFileTypes: true })) {
      const path = join(current, entry.name)
      if (entry.isDirectory()) visit(path)
      else files.push(path)
    }
  }
  if (existsSync(join(folder, 'src'))) visit(join(folder, 'src'))
  return files
    .filter((file) => existsSync(file))
    .map((file) => {
      const { size, mtimeMs } = statSync(file)
      return `${file} ${size} ${mtimeMs}`
    })
    .join('\n')
}
