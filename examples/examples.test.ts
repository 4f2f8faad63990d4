import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

// Each example prints what its README says it prints. They run on dist/, as a user's program would.

const root = fileURLToPath(new URL('..', import.meta.url))
const output = fileURLToPath(new URL('../runs/examples', import.meta.url))

beforeAll(() => rm(output, { recursive: true, force: true }))
afterAll(() => rm(output, { recursive: true, force: true }))

describe('the examples', () => {
  it.each([
    '01-prepare-a-dataset/prepare',
    '02-train-a-lora/train',
    '03-sample/sample',
    '04-export/export',
  ])('%s prints what its README promises', async (example) => {
    const script = fileURLToPath(new URL(`${example}.js`, import.meta.url))
    const { stdout } = await promisify(execFile)(process.execPath, [script], {
      cwd: root,
      env: { ...process.env, BACKEND: '@kinora/cpu-kernels' },
    })
    const readme = readFileSync(
      new URL(`${example.split('/')[0]}/README.md`, import.meta.url),
      'utf8',
    )
    const promised = plainBlocks(readme)
    expect(promised.length).toBeGreaterThan(0)
    const printed = stdout.split('\n').map((line) => line.trimEnd())
    for (const line of promised) expect(printed).toContain(line)
  })
})

/** Lines of a README's code blocks that name no language: what a program prints. */
function plainBlocks(markdown: string): string[] {
  const lines: string[] = []
  let fence: string | undefined
  for (const line of markdown.split('\n')) {
    if (line.startsWith('```')) fence = fence === undefined ? line.slice(3) : undefined
    else if (fence === '' && line !== '') lines.push(line)
  }
  return lines
}
