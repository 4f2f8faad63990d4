import type { CreateCaptionProvider } from './caption-provider.ts'
import { createTemplateProvider } from './template.ts'
import { createVisionProvider } from './vision.ts'

/** Providers by the name they have in options. */
export const captionProviders = {
  template: createTemplateProvider,
  vision: createVisionProvider,
} satisfies Record<string, CreateCaptionProvider>

export type ProviderName = keyof typeof captionProviders
