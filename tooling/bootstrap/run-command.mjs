import { spawn } from 'node:child_process'
import { constants } from 'node:os'
import { createInterface } from 'node:readline'
import { root } from './state.mjs'

/**
 * Runs a command on this terminal and resolves to its exit code. Ctrl-C reaches it from the terminal itself; here it only
 * must not end the parent first.
 */
export function runInherited(file, args, env) {
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, { cwd: root, env, stdio: 'inherit' })
    const ignore = () => {}
    // A signal sent to this process alone, as by a supervisor, is handed on; from a terminal the child has it already.
    const handOn = () => child.kill('SIGTERM')
    process.on('SIGINT', ignore)
    process.on('SIGTERM', handOn)
    child.once('error', reject)
    child.once('exit', (code, signal) => {
      process.off('SIGINT', ignore)
      process.off('SIGTERM', handOn)
      resolve(code ?? 128 + (constants.signals[signal] ?? 0))
    })
  })
}

/**
 * Runs a command out of sight. Lines of stdout (and of `statusFd` 3, if asked for) go to `onLine` as they come.
 *
 * @returns exit code (-1 if it could not start) and all it printed
 */
export function runQuietly(file, args, { env = process.env, cwd = root, onLine, statusFd } = {}) {
  return new Promise((resolve) => {
    const stdio = ['ignore', 'pipe', 'pipe', ...(statusFd ? ['pipe'] : [])]
    const child = spawn(file, args, { cwd, env, stdio })
    let stdout = ''
    let stderr = ''
    child.stdout.setEncoding('utf8').on('data', (text) => (stdout += text))
    child.stderr.setEncoding('utf8').on('data', (text) => (stderr += text))
    if (onLine) createInterface({ input: child.stdout }).on('line', onLine)
    if (onLine && statusFd) createInterface({ input: child.stdio[3] }).on('line', onLine)
    child.once('error', (error) => resolve({ code: -1, stdout, stderr: String(error) }))
    child.once('close', (code) => resolve({ code: code ?? -1, stdout, stderr }))
  })
}

/** npm or npx, by the copy that runs this script where npm told us. */
export function npmCommand(tool) {
  const npmCli = process.env.npm_execpath
  if (npmCli?.endsWith('npm-cli.js')) {
    const cli = tool === 'npm' ? npmCli : npmCli.replace(/npm-cli\.js$/, 'npx-cli.js')
    return { file: process.execPath, args: [cli] }
  }
  return { file: tool, args: [] }
}
