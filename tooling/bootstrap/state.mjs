// What the set-up remembers, under .kinora/ at the root of the clone.

import { createHash } from 'node:crypto'
import {
  closeSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { say } from './say.mjs'

export const root = fileURLToPath(new URL('../../', import.meta.url)).replace(/[/\\]$/, '')
export const stateFolder = join(root, '.kinora')
export const environmentFile = join(stateFolder, 'environment.json')

export function readJson(file) {
  try {
    return JSON.parse(readFileSync(file, 'utf8'))
  } catch {
    return undefined
  }
}

export function writeJson(file, value) {
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(`${file}.tmp`, `${JSON.stringify(value, null, 2)}\n`)
  renameSync(`${file}.tmp`, file)
}

/** True when `step` was last done with this key. */
export function isFresh(step, key) {
  return readJson(join(stateFolder, 'stamps', `${step}.json`))?.key === key
}

export function stamp(step, key) {
  writeJson(join(stateFolder, 'stamps', `${step}.json`), { key })
}

export function hashOf(...parts) {
  const hash = createHash('sha256')
  for (const part of parts) hash.update(part).update('\0')
  return hash.digest('hex')
}

/** Waits until no other set-up of this clone runs. Returns the function that ends ours. */
export async function holdSetup() {
  const lock = join(stateFolder, 'setup.lock')
  mkdirSync(stateFolder, { recursive: true })
  let told = false
  for (;;) {
    try {
      const handle = openSync(lock, 'wx')
      writeFileSync(handle, String(process.pid))
      closeSync(handle)
      const release = () => rmSync(lock, { force: true })
      process.once('exit', release)
      for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(130))
      return () => {
        process.off('exit', release)
        for (const signal of ['SIGINT', 'SIGTERM']) process.removeAllListeners(signal)
        release()
      }
    } catch (error) {
      if (error.code !== 'EEXIST') throw error
      if (!holderLives(lock)) rmSync(lock, { force: true })
      else {
        if (!told) say('Another set-up of this clone is running; waiting for it.')
        told = true
        await wait(500)
      }
    }
  }
}

function holderLives(lock) {
  try {
    const pid = Number(readFileSync(lock, 'utf8'))
    // Just created and not yet written.
    if (pid === 0) return true
    process.kill(pid, 0)
    return true
  } catch (error) {
    return error.code === 'EPERM'
  }
}
