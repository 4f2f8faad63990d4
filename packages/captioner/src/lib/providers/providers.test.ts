import { startFakeEndpoint } from '../../../test/fake-endpoint.ts'
import { describeCaptionProvider } from '../../../test/provider-suite.ts'

describeCaptionProvider({
  name: 'template',
  setUp: async () => ({ options: {}, tearDown: async () => {} }),
})

describeCaptionProvider({
  name: 'vision',
  setUp: async () => {
    const endpoint = await startFakeEndpoint(() => ({ say: 'A shape drifts to the left.' }))
    return {
      options: { vision: { url: endpoint.url, model: 'fake' } },
      tearDown: async () => endpoint[Symbol.asyncDispose](),
    }
  },
})
