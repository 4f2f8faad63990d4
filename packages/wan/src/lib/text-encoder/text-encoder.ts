import type { Device, Tensor } from '@kinora/kernel-api'
import { keptFromScope } from '../layer-chain.ts'
import type { WanTokenizer } from '../tokenizer/tokenizer.ts'
import type { Umt5 } from './umt5.ts'

/** Prompts to what the transformer's cross-attention reads. */
export interface WanTextEncoder {
  readonly tokenizer: WanTokenizer
  /**
   * Cleans, tokenises and encodes texts: [texts.length, textLength, dim] f32, which the caller frees. Rows after a text's tokens
   * (the end token counted) are zero; the empty text has one row. The weights are read once a call, a layer at a time; once for
   * every 65 536 tokens at full size.
   */
  encode(texts: readonly string[]): Promise<Tensor>
  /** The same, one text [1, textLength, dim] after another: for many texts, of which padded states would take much memory. */
  encodeEach(texts: readonly string[]): AsyncGenerator<Tensor>
  /** Closes its files. */
  release(): Promise<void>
}

/**
 * Joins an encoder and its tokenizer.
 *
 * @param close called by `release`
 */
export function createTextEncoder(
  umt5: Umt5,
  tokenizer: WanTokenizer,
  device: Device,
  close: () => Promise<void> = () => Promise.resolve(),
): WanTextEncoder {
  const { ops } = device
  async function* encodeEach(texts: readonly string[]): AsyncGenerator<Tensor> {
    const sequences = texts.map((text) => tokenizer.encode(tokenizer.cleanPrompt(text)))
    for await (const states of umt5.encode(sequences)) {
      const padding = tokenizer.textLength - states.shape[1]!
      if (padding === 0) {
        yield states
        continue
      }
      const padded = keptFromScope(device, () =>
        ops.concat([states, device.zeros([1, padding, umt5.config.dim], 'f32')], 1),
      )
      device.release(states)
      yield padded
    }
  }
  return {
    tokenizer,
    encodeEach,
    async encode(texts) {
      if (texts.length === 0) return device.zeros([0, tokenizer.textLength, umt5.config.dim], 'f32')
      const each: Tensor[] = []
      try {
        for await (const states of encodeEach(texts)) each.push(states)
        return keptFromScope(device, () => ops.concat(each, 0))
      } finally {
        for (const states of each) device.release(states)
      }
    },
    release: close,
  }
}
