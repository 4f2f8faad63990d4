// Sets up all that a fresh clone needs, then does what was asked: `node tooling/bootstrap.mjs <demo|test|golden|experiments|setup>`.
// It has no dependencies, because it is what installs them. Each step leaves a stamp under .kinora/, so a second run only
// looks at the stamps. `KINORA_SETUP=skip` leaves out the set-up altogether.

import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { chooseAdapter } from './bootstrap/adapter.mjs'
import { buildWorkspace } from './bootstrap/build.mjs'
import { findFfmpeg } from './bootstrap/ffmpeg.mjs'
import { installWorkspace } from './bootstrap/install.mjs'
import { runInherited } from './bootstrap/run-command.mjs'
import { SetupError, formatSeconds, say } from './bootstrap/say.mjs'
import { root, holdSetup, writeJson, environmentFile } from './bootstrap/state.mjs'

const commands = {
  demo: runDemo,
  test: runTests,
  golden: runGolden,
  experiments: runExperiments,
  setup: () => 0,
}

const [command, ...args] = process.argv.slice(2)
if (!Object.hasOwn(commands, command ?? '')) {
  console.error(
    `Usage: node tooling/bootstrap.mjs <${Object.keys(commands).join('|')}> [arguments]`,
  )
  process.exit(2)
}
try {
  process.exitCode = await commands[command](args, await setUp())
} catch (error) {
  if (!(error instanceof SetupError)) throw error
  console.error(`error ${error.code}\n${error.message}\nFix: ${error.fix}`)
  process.exitCode = 1
}

/** Returns the environment for what runs next. */
async function setUp() {
  const startedAt = performance.now()
  checkNode()
  if (process.env.KINORA_SETUP === 'skip') return process.env
  const release = await holdSetup()
  try {
    await installWorkspace()
    await buildWorkspace()
    const ffmpeg = await findFfmpeg()
    const adapter = await chooseAdapter()
    const env = { ...process.env, ...adapter.env }
    if (ffmpeg.folder) env.PATH = `${ffmpeg.folder}:${env.PATH ?? ''}`
    // For commands that are started without this script, such as `npx kinora train`.
    writeJson(environmentFile, {
      pathPrefix: ffmpeg.folder ?? null,
      env: adapter.env,
      adapter: { name: adapter.name, reason: adapter.reason },
    })
    say(`ffmpeg: ${ffmpeg.reason}`)
    say(`WebGPU adapter: ${adapter.name ?? 'none'}. ${adapter.reason}`)
    say(`Ready in ${formatSeconds((performance.now() - startedAt) / 1000)}.`)
    return env
  } finally {
    release()
  }
}

function checkNode() {
  const [major, minor] = process.versions.node.split('.').map(Number)
  if (major > 20 || (major === 20 && minor >= 19)) return
  throw new SetupError(
    'SETUP_NODE_TOO_OLD',
    `This is Node ${process.versions.node}; Kinora needs 20.19 or newer.`,
    'Install a newer Node and run the same command again.',
  )
}

function runDemo(args, env) {
  return runInherited(
    process.execPath,
    [join(root, 'apps/cli/bin/kinora.js'), 'demo', ...args],
    env,
  )
}

/** Ends with one line that says how many tests passed and failed, whatever the reporters before it printed. */
async function runTests(args, env) {
  const report = join(root, '.kinora/test-report.json')
  const code = await runVitest(
    ['run', '--reporter=default', '--reporter=json', `--outputFile.json=${report}`, ...args],
    env,
    report,
  )
  if (!existsSync(report)) {
    throw new SetupError(
      'SETUP_NO_TEST_REPORT',
      `The test run ended with exit code ${code} before it could report.`,
      'Read what it printed above.',
    )
  }
  const { numPassedTests, numFailedTests, numPendingTests, numTodoTests, testResults } = JSON.parse(
    readFileSync(report, 'utf8'),
  )
  // A file that fails to load has no tests to count, and is a failure all the same.
  const brokenFiles = testResults.filter(
    ({ status, assertionResults }) => status === 'failed' && assertionResults.length === 0,
  ).length
  const failed = numFailedTests + brokenFiles
  const skipped = numPendingTests + numTodoTests
  console.log(
    `${numPassedTests} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`,
  )
  return failed > 0 ? 1 : code
}

function runGolden(args, env) {
  return runVitest(['run', 'golden', '--disable-console-intercept', ...args], env)
}

function runExperiments(args, env) {
  return runInherited(
    process.execPath,
    [join(root, 'tooling/experiments/run-experiments.mjs'), ...args],
    env,
  )
}

async function runVitest(args, env, report) {
  if (report) {
    const { rmSync } = await import('node:fs')
    rmSync(report, { force: true })
  }
  const { bin } = JSON.parse(readFileSync(join(root, 'node_modules/vitest/package.json'), 'utf8'))
  const entry = join(root, 'node_modules/vitest', typeof bin === 'string' ? bin : bin.vitest)
  return runInherited(process.execPath, [entry, ...args], env)
}
