import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

import { expect, it } from 'vitest'

const source = join(dirname(fileURLToPath(import.meta.url)), '../src')

/** Files and packages that a door imports at run time, however far down. */
function reachable(door: string): { files: Set<string>; packages: Set<string> } {
  const files = new Set<string>()
  const packages = new Set<string>()
  const visit = (file: string): void => {
    if (files.has(file)) return
    files.add(file)
    const text = readFileSync(file, 'utf8').replaceAll(/^(import|export) type [^;]*?from .*$/gm, '')
    for (const [, name] of text.matchAll(/(?:from|import\()\s*'([^']+)'/g)) {
      if (name!.startsWith('.')) visit(join(dirname(file), name!))
      else packages.add(name!)
    }
  }
  visit(join(source, door))
  return { files, packages }
}

it('the main door reaches nothing of Node or Dawn, so that it runs in a browser', () => {
  const { files, packages } = reachable('index.ts')
  expect(files.size).toBeGreaterThan(40)
  expect([...packages].toSorted()).toEqual(['@kinora/kernel-api', '@kinora/stage'])
  for (const file of files) expect(file).not.toContain('/dawn/')
})

it('the door for Node binds Dawn', () => {
  expect([...reachable('node.ts').packages]).toContain('webgpu')
})
