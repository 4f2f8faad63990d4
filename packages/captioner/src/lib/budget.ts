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
  /** Only the first call counts. */
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
  readonly #open = new Set<Tokens>()
  #wake: (() => void)[] = []

  constructor(settings: BudgetSettings) {
    this.#settings = settings
  }

  /**
   * Undefined where the request would overrun a cap. Where only requests under way stand in its way, it waits for one of
   * them: most take less than was expected.
   */
  async reserve(expected: Tokens): Promise<Reservation | undefined> {
    for (;;) {
      if (this.#fits([expected, ...this.#open])) return this.#take(expected)
      if (this.#open.size === 0 || !this.#fits([expected])) return undefined
      await new Promise<void>((resolve) => this.#wake.push(resolve))
    }
  }

  countCached(): void {
    this.#used.cached++
  }

  usage(): CaptionUsage {
    const { inputTokens, outputTokens } = this.#used
    return { ...this.#used, cost: this.#cost(inputTokens, outputTokens) }
  }

  #fits(more: readonly Tokens[]): boolean {
    const { maxRequests = Infinity, maxTotalTokens = Infinity, maxCost = Infinity } = this.#settings
    const { requests, inputTokens, outputTokens } = this.#used
    const input = more.reduce((sum, tokens) => sum + tokens.input, inputTokens)
    const output = more.reduce((sum, tokens) => sum + tokens.output, outputTokens)
    return (
      requests < maxRequests &&
      input + output <= maxTotalTokens &&
      this.#cost(input, output) <= maxCost
    )
  }

  #take(expected: Tokens): Reservation {
    const entry = { ...expected }
    this.#open.add(entry)
    this.#used.requests++
    return {
      settle: ({ input, output }, estimated) => {
        if (!this.#open.delete(entry)) return
        this.#used.inputTokens += input
        this.#used.outputTokens += output
        this.#used.estimated ||= estimated
        for (const wake of this.#wake.splice(0)) wake()
      },
    }
  }

  #cost(input: number, output: number): number {
    const { inputPrice, outputPrice } = this.#settings
    return (input * inputPrice + output * outputPrice) / 1e6
  }
}
