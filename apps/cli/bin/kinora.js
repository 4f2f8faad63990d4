#!/usr/bin/env node
// Starts the command line from dist/. In a clone it first takes over what the set-up found: a Vulkan driver, an ffmpeg.

import { spawn } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { constants } from 'node:os'
import { fileURLToPath } from 'node:url'

const program = new URL('../dist/bin.js', import.meta.url)

if (!existsSync(program)) {
  console.error(
    'error KINORA_NOT_BUILT\nThe command line has not been built yet.\nFix: Run `npm run setup` at the root of the clone.',
  )
  process.exitCode = 1
} else if (takeOverEnvironment()) {
  await import(program.href)
} else {
  startAgain()
}

/** @returns false where a variable changed that only a new process reads */
function takeOverEnvironment() {
  const file = new URL('../../../.kinora/environment.json', import.meta.url)
  if (process.env.KINORA_ENVIRONMENT === 'set' || !existsSync(file)) return true
  process.env.KINORA_ENVIRONMENT = 'set'
  const { env, pathPrefix } = JSON.parse(readFileSync(file, 'utf8'))
  if (pathPrefix) process.env.PATH = `${pathPrefix}:${process.env.PATH ?? ''}`
  // A driver that the user names wins, with the libraries it needs.
  if (process.env.VK_DRIVER_FILES || process.env.VK_ICD_FILENAMES) return true
  Object.assign(process.env, env)
  return env.LD_LIBRARY_PATH === undefined
}

function startAgain() {
  const child = spawn(process.execPath, [fileURLToPath(program), ...process.argv.slice(2)], {
    stdio: 'inherit',
  })
  // Ctrl-C reaches the child from the terminal; the parent waits for how it ends.
  process.on('SIGINT', () => {})
  process.on('SIGTERM', () => child.kill('SIGTERM'))
  child.once('exit', (code, signal) => {
    process.exitCode = code ?? 128 + constants.signals[signal]
  })
}
