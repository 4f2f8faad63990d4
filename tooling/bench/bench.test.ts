import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openCheckpoint } from '@kinora/wan'
import { openDevice } from '@kinora/wgpu-kernels/node'

const bench = fileURLToPath(new URL('bench.mjs', import.meta.url))
const run = (...args: string[]): Promise<{ stdout: string; stderr: string }> =>
  promisify(execFile)(process.execPath, [bench, ...args])

interface TextResult {
  passes: { captions: number; tokens: number; liveGiB: number; deviceGiB: number }[]
  packingError: number
  withinBar: boolean
}

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kinora-bench-'))
})
afterAll(() => rm(folder, { recursive: true, force: true }))

describe('npm run bench', () => {
  it(
    'writes a random checkpoint that opens, the same for the same seed',
    { timeout: 120_000 },
    async () => {
      const small = ['--quick', '--base-dim=16', '--shards=3']
      const [one, two, same] = ['one', 'two', 'same'].map((name) => join(folder, name)) as [
        string,
        string,
        string,
      ]
      await run('checkpoint', one, ...small)
      await run('checkpoint', two, ...small, '--seed=2')
      await run('checkpoint', same, ...small, '--same')
      const checkpoint = await openCheckpoint(one)
      expect(checkpoint.transformer).toMatchObject({ numLayers: 2, numHeads: 2, headDim: 64 })
      await using weights = await checkpoint.openWeights('transformer')
      expect(weights.files).toHaveLength(3)
      const name = 'blocks.1.ffn.net.2.weight'
      const values = await weights.byTensor.get(name)!.readF32(name)
      // Normal, with a variance of one over the 512 inputs.
      const variance = values.reduce((sum, value) => sum + value * value, 0) / values.length
      expect(variance * 512).toBeGreaterThan(0.95)
      expect(variance * 512).toBeLessThan(1.05)
      await openCheckpoint(same)
      const read = (from: string, part: string): Promise<Buffer> =>
        readFile(join(folder, from, part, 'diffusion_pytorch_model-00001-of-00003.safetensors'))
      expect(await read('same', 'transformer')).toEqual(await read('one', 'transformer'))
      expect(await read('same', 'transformer_2')).toEqual(await read('one', 'transformer'))
      expect(await read('two', 'transformer')).not.toEqual(await read('one', 'transformer'))
      // The text encoder alone, into what is there.
      const text = (): Promise<Buffer> =>
        readFile(join(folder, 'one/text_encoder/model.safetensors'))
      const [before, expert] = [await text(), await read('one', 'transformer')]
      await run('checkpoint', one, '--only=text_encoder', '--seed=3')
      expect(await text()).not.toEqual(before)
      expect(await read('one', 'transformer')).toEqual(expert)
      await openCheckpoint(one)
      await expect(
        run('checkpoint', one, '--only=text_encoder', '--text-encoder=full'),
      ).rejects.toMatchObject({ code: 2, stderr: expect.stringContaining('4096') as string })
    },
  )

  it(
    'runs a text encoder over captions and says what it took',
    { timeout: 120_000 },
    async ({ skip }) => {
      const device = await openDevice().catch((error: unknown) => {
        if (process.env['REQUIRE_GPU'] === '1') throw error
        return skip('no adapter')
      })
      device.destroy()
      const checkpoint = join(folder, 'text')
      await run('checkpoint', checkpoint, '--quick', '--base-dim=16', '--shards=1')
      const json = join(folder, 'text.json')
      await run('text', checkpoint, '--captions=3', `--json=${json}`)
      const { result } = JSON.parse(await readFile(json, 'utf8')) as { result: TextResult }
      expect(result.passes.map(({ captions }) => captions)).toEqual([1, 2, 3, 1])
      const [alone, together] = result.passes
      expect(together!.tokens).toBeGreaterThan(alone!.tokens)
      for (const { liveGiB, deviceGiB } of result.passes) {
        expect(liveGiB).toBeGreaterThan(0)
        expect(deviceGiB).toBeGreaterThanOrEqual(liveGiB)
      }
      expect(result.withinBar).toBe(true)
      // Rounding to E4M3 in one layer.
      expect(result.packingError).toBeGreaterThan(0.001)
      expect(result.packingError).toBeLessThan(0.1)
    },
  )

  it('says which benches there are', async () => {
    await expect(run('nothing')).rejects.toMatchObject({
      code: 2,
      stderr: expect.stringContaining('kernels, blocks, step') as string,
    })
  })
})
