// The program as a user starts it, and where things lie.

import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'

export const root = fileURLToPath(new URL('../../', import.meta.url))
export const tinyWan = fileURLToPath(new URL('../../packages/tiny-wan', import.meta.url))

const program = fileURLToPath(new URL('../../apps/cli/bin/kinora.js', import.meta.url))

/** Runs `kinora …` in a process of its own; what it says is shown only where it fails. */
export function kinora(args) {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [program, ...args], {
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    let said = ''
    child.stderr.setEncoding('utf8').on('data', (text) => {
      said += text
    })
    child.once('error', reject)
    child.once('close', (code, signal) => {
      if (code === 0) resolve()
      else reject(new Error(`kinora ${args.join(' ')} ended with ${code ?? signal}:\n${said}`))
    })
  })
}
