import { isCodedError } from '@kinora/stage'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { captionClipsOptions, type CaptionClipsOptions } from '../src/lib/options.ts'
import type { CaptionProvider } from '../src/lib/providers/caption-provider.ts'
import { captionProviders, type ProviderName } from '../src/lib/providers/caption-providers.ts'
import { readDataset, type Dataset } from '../src/lib/read-dataset.ts'
import { makeDataset, type TestDataset } from './make-dataset.ts'

/** What a provider needs around it for the suite. */
export interface ProviderSubject {
  name: ProviderName
  /** Sets up what stands behind the provider, and gives its options and environment. */
  setUp(): Promise<{
    options: Partial<CaptionClipsOptions>
    env?: Record<string, string>
    tearDown(): Promise<void>
  }>
}

/** What every provider must do. Adding one means passing this. */
export function describeCaptionProvider({ name, setUp }: ProviderSubject): void {
  describe(`caption provider ${name}`, () => {
    let onDisk: TestDataset
    let dataset: Dataset
    let provider: CaptionProvider
    let around: Awaited<ReturnType<ProviderSubject['setUp']>>

    beforeEach(async () => {
      onDisk = await makeDataset({
        'clips/a.mp4': { motion: { camera: 'pan-left', panPerSecond: -0.2 } },
        'clips/b.mp4': { motion: { camera: 'zoom-in', zoomPerSecond: 0.2 } },
      })
      dataset = await readDataset(onDisk.folder)
      around = await setUp()
      provider = await make({})
    })
    afterEach(async () => {
      await around.tearDown()
      await onDisk[Symbol.asyncDispose]()
    })

    function make(options: Partial<CaptionClipsOptions>): Promise<CaptionProvider> {
      const source = onDisk.folder
      const settings = captionClipsOptions.parse({
        source,
        provider: name,
        ...around.options,
        ...options,
      })
      return captionProviders[name](dataset, settings, { env: around.env ?? {} })
    }

    it('gives each clip one line of words', async () => {
      for (const clip of dataset.clips) {
        const outcome = await provider.caption(clip, new AbortController().signal)
        expect(outcome).toMatchObject({ text: expect.stringMatching(/^\S.*\p{L}.*\S$/u) })
      }
    })

    it('says the same when asked again', async () => {
      const [clip] = dataset.clips
      const { signal } = new AbortController()
      const first = await provider.caption(clip!, signal)
      const second = await provider.caption(clip!, signal)
      expect(second).toMatchObject({ text: (first as { text: string }).text })
    })

    it('takes at least one clip at once, and counts from nothing', async () => {
      expect(provider.concurrency).toBeGreaterThanOrEqual(1)
      expect(provider.usage()).toMatchObject({ requests: 0, cached: 0, inputTokens: 0, cost: 0 })
    })

    it('previews without using anything', async () => {
      const preview = await provider.preview(dataset.clips[0]!)
      expect(JSON.parse(JSON.stringify(preview))).toEqual(preview)
      expect(provider.usage().requests).toBe(0)
    })

    it('makes an outcome, not an exception, of a clip that is broken', async () => {
      await onDisk.write('clips/a.mp4', 'this is no video')
      const outcome = await provider.caption(dataset.clips[0]!, new AbortController().signal)
      expect('text' in outcome || typeof outcome.reason === 'string').toBe(true)
    })

    it('stops at an abort with the abort, not with an error of its own', async () => {
      const controller = new AbortController()
      controller.abort()
      const outcome = await provider
        .caption(dataset.clips[0]!, controller.signal)
        .catch((error: unknown) => error)
      if (outcome instanceof Error) {
        expect(outcome.name).toBe('AbortError')
        expect(isCodedError(outcome)).toBe(false)
      }
    })
  })
}
