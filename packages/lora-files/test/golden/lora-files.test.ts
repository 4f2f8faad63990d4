import { mkdtemp, readFile, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, describe, expect, it } from 'vitest'
import { loraLayouts, readLora, writeLora } from '../../src/index.ts'

const golden =
  process.env['KINORA_GOLDEN'] ??
  fileURLToPath(new URL('../../../../tooling/golden', import.meta.url))
const files = (await readdir(golden)).filter((name) => /^lora_.*\.safetensors$/.test(name))
const folder = await mkdtemp(join(tmpdir(), 'kinora-lora-'))
afterAll(() => rm(folder, { recursive: true }))

describe('the LoRA files of the reference implementation', () => {
  it('are there', () => expect(files.length).toBeGreaterThan(0))

  it.each(files)('%s is read and written again with the same bytes', async (name) => {
    const original = join(golden, name)
    const copy = join(folder, name)
    const weights = await readLora(original)
    await writeLora(copy, weights, { layout: 'comfyui', dtype: 'f32', hashes: false })
    expect((await readFile(copy)).equals(await readFile(original))).toBe(true)
  })

  it.each(files)('%s survives a tour through every layout with the same bytes', async (name) => {
    let weights = await readLora(join(golden, name))
    for (const layout of [...loraLayouts, 'comfyui' as const]) {
      await writeLora(join(folder, layout), weights, { layout, dtype: 'f32', hashes: false })
      weights = await readLora(join(folder, layout))
    }
    expect(
      (await readFile(join(folder, 'comfyui'))).equals(await readFile(join(golden, name))),
    ).toBe(true)
  })
})
