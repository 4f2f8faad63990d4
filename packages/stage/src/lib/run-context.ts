/** What a stage is given that cannot be written in a config file. */
export interface RunContext {
  /** Aborting ends the run cleanly at the next safe point. */
  signal?: AbortSignal | undefined
}
