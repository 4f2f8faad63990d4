import type { Device, Tensor } from '@kinora/kernel-api'
import type { WanTokenizer } from '../tokenizer/tokenizer.ts'
import type { Umt5 } from './umt5.ts'

/** Prompts to what the transformer's cross-attention reads. */
export interface WanTextEncoder {
  readonly tokenizer: WanTokenizer
  /**
   * Cleans, tokenises and encodes each text: [texts.length, textLength, dim] f32. Rows after a text's tokens (the end token
   * counted) are zero; the empty text has one row.
   */
  encode(texts: readonly string[]): Tensor
  /** Frees its weights. */
  release(): void
}

/** Joins an encoder and its tokenizer. */
export function createTextEncoder(
  umt5: Umt5,
  tokenizer: WanTokenizer,
  device: Device,
): WanTextEncoder {
  const { ops } = device
  function encodeOne(text: string): Tensor {
    return device.scope(() => {
      const states = umt5.forward(tokenizer.encode(tokenizer.cleanPrompt(text)))
      const padding = tokenizer.textLength - states.shape[1]!
      if (padding === 0) return states
      return ops.concat([states, device.zeros([1, padding, umt5.config.dim], 'f32')], 1)
    })
  }
  return {
    tokenizer,
    encode(texts) {
      if (texts.length === 0) return device.zeros([0, tokenizer.textLength, umt5.config.dim], 'f32')
      if (texts.length === 1) return encodeOne(texts[0]!)
      return device.scope(() => ops.concat(texts.map(encodeOne), 0))
    },
    release: () => umt5.release(),
  }
}
