import { normals, numElements, type Device, type DType, type Tensor } from '@kinora/kernel-api'
import type { WeightSource } from '@kinora/wan'

const POOL = 1 << 22

/** Random weights made on the device, 0.02 in size: speed and memory do not depend on their values. */
export class RandomWeights implements WeightSource {
  readonly #shapes: ReadonlyMap<string, readonly number[]>
  readonly #device: Device
  readonly #pools = new Map<string, Tensor>()

  constructor(shapes: ReadonlyMap<string, readonly number[]>, device: Device) {
    this.#shapes = shapes
    this.#device = device
  }

  has(name: string): boolean {
    return this.#shapes.has(name)
  }

  load(name: string, device: Device, dtype: DType): Promise<Tensor> {
    const shape = this.#shapes.get(name)!
    const n = numElements(shape)
    const tensor = device.scope(() => {
      const pool = this.#pool(dtype)
      const parts = Array.from({ length: Math.ceil(n / POOL) }, (_, i) =>
        device.ops.slice(pool, 0, 0, Math.min(POOL, n - i * POOL)),
      )
      const whole = parts.length > 1 ? device.ops.concat(parts, 0) : parts[0]!
      return device.ops.reshape(whole, shape)
    })
    return Promise.resolve(tensor)
  }

  #pool(dtype: DType): Tensor {
    let pool = this.#pools.get(dtype)
    if (!pool) {
      const values = normals(7, 0, POOL).map((value) => value * 0.02)
      const f32 = this.#device.upload(values, [POOL], 'f32')
      pool = this.#device.retain(dtype === 'f32' ? f32 : this.#device.ops.cast(f32, dtype))
      this.#pools.set(dtype, pool)
    }
    return pool
  }
}
