import type { Device } from '@kinora/kernel-api'

/**
 * Makes room on the device between pieces of work that differ in size: what one leaves idle may be of no use to the next, and while
 * work is queued nothing comes back.
 */
export class Room {
  readonly #device: Device
  #work: string | undefined

  constructor(device: Device) {
    this.#device = device
  }

  /** For a pass at a size of latents, which finds its buffers where one of that size was the last work. */
  async makeForPass(size: string, bytes: number): Promise<void> {
    if (size !== this.#work) await this.#device.makeRoom(bytes)
    this.#work = size
  }

  /** For work whose size is not known: all that lies idle goes. */
  async makeForOther(): Promise<void> {
    this.#work = undefined
    await this.#device.makeRoom(Infinity)
  }
}
