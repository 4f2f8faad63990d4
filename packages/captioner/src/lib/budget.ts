import type { VisionSettings } from './options.ts'
import type { CaptionUsage } from './providers/caption-provider.ts'

type BudgetSettings = Pick<
  VisionSettings,
  'maxRequests' | 'maxTotalTokens' | 'maxCost' | 'inputPrice' | 'outputPrice'
>

interface Tokens {
  input: number
  output: number
}

/** A request that may be sent. It counts at its expected size until `settle` says what it took. */
export interface Reservation {
  settle(tokens: Tokens, estimated: boolean): void
}

/**
 * Caps on requests, tokens and cost. Room is taken before a request is sent, at its expected size, so that requests under
 * way at once cannot overrun the cap together.
 */
export class Budget {
  readonly #settings: BudgetSettings
  readonly #used: CaptionUsage = {
    requests: 0,
    cached: 0,
    inputTokens: 0,
    outputTokens: 0,
    cost: 0,
    estimated: false,
  }
  #reserved: Tokens = { input: 0, output: 0 }

  constructor(settings: BudgetSettings) {
    this.#settings = settings
  }

  /** Undefined where the request would overrun a cap. */
  reserve(expected: Tokens): Reservation | undefined {
    const { maxRequests = Infinity, maxTotalTokens = Infinity, maxCost = Infinity } = this.#settings
    const { requests, inputTokens, outputTokens } = this.#used
    const input = inputTokens + this.#reserved.input + expected.input
    const output = outputTokens + this.#reserved.output + expected.output
    if (requests + 1 > maxRequests) return undefined
    if (input + output > maxTotalTokens || this.#cost(input, output) > maxCost) return undefined
    this.#used.requests++
    this.#reserved.input += expected.input
    this.#reserved.output += expected.output
    let open = true
    return {
      settle: ({ input: tokensIn, output: tokensOut }, estimated) => {
        if (!open) return
        open = false
        this.#reserved.input -= expected.input
        this.#reserved.output -= expected.output
        this.#used.inputTokens += tokensIn
        this.#used.outputTokens += tokensOut
        this.#used.estimated ||= estimated
      },
    }
  }

  countCached(): void {
    this.#used.cached++
  }

  usage(): CaptionUsage {
    const { inputTokens, outputTokens } = this.#used
    return { ...this.#used, cost: this.#cost(inputTokens, outputTokens) }
  }

  #cost(input: number, output: number): number {
    const { inputPrice, outputPrice } = this.#settings
    return (input * inputPrice + output * outputPrice) / 1e6
  }
}
