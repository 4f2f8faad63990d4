import { templateCaption } from '../compose-caption.ts'
import { noUsage, type CreateCaptionProvider } from './caption-provider.ts'

/** Captions from what is known of a clip: the default caption, or the goal’s template over the measured motion. */
export const createTemplateProvider: CreateCaptionProvider = async (_dataset, settings) => ({
  concurrency: 1,
  async caption(clip) {
    const text = templateCaption(clip, settings)
    if (text !== undefined) return { text, cached: false }
    return {
      reason: 'nothing-to-say',
      detail:
        settings.goal === 'motion'
          ? 'No motion was measured for sure. Set motionName, trigger or defaultCaption.'
          : 'Set trigger, defaultCaption or the words of the goal (look, className).',
    }
  },
  async preview() {
    return {}
  },
  usage: () => noUsage,
})
