import type { Device, Ops, Tensor } from '@kinora/kernel-api'
import { openSafetensors, writeSafetensors } from '@kinora/safetensors'
import type { TransformerInput, WanTransformer } from '../transformer/transformer.ts'

/** Root mean square of each input channel of a linear, by module name: how much an error there does to outputs. */
export type ActivationSizes = ReadonlyMap<string, Float32Array>

/**
 * Measures them over forward passes of an expert. The passes should be like those the packed expert will run: latents of real clips
 * with noise, timesteps of its range, captions.
 */
export async function measureActivationSizes(
  device: Device,
  transformer: WanTransformer,
  inputs: Iterable<TransformerInput> | AsyncIterable<TransformerInput>,
): Promise<ActivationSizes> {
  const sums = new Map<string, Tensor>()
  const numRows = new Map<string, number>()
  const { ops } = device

  /** Adds up the squares of x [rows, K] by column. */
  const count = (name: string, x: Tensor): void =>
    device.scope(() => {
      const k = x.shape.at(-1)!
      const rows = x.shape.slice(0, -1).reduce((product, extent) => product * extent, 1)
      const wide = ops.reshape(x.dtype === 'f32' ? x : ops.cast(x, 'f32'), [rows, k])
      const ones = device.upload(new Float32Array(rows).fill(1), [1, rows], 'f32')
      // A row of ones times the squares: the gradient of a linear whose weight they are.
      const { dx } = ops.linearGrad(ones, device.zeros([1, k], 'f32'), ops.mul(wide, wide), {
        needsX: true,
      })
      const sum = sums.get(name)
      if (sum) ops.addInto(sum, dx!)
      else sums.set(name, device.retain(dx!))
      numRows.set(name, (numRows.get(name) ?? 0) + rows)
    })

  try {
    for await (const input of inputs) {
      let block = -1
      const watching: Ops = replaceOps(ops, {
        checkpoint: (fn, tensors) => {
          block++
          return device.scope(() => fn(watching, ...tensors))
        },
        linear(x, weight, options = {}) {
          if (block >= 0 && options.name) count(`blocks.${block}.${options.name}`, x)
          return ops.linear(x, weight, options)
        },
      })
      device.release(device.scope(() => transformer.forward(watching, input)))
      await device.sync()
    }
    const sizes = new Map<string, Float32Array>()
    for (const [name, sum] of sums) {
      const squares = (await device.read(sum)) as Float32Array
      sizes.set(
        name,
        squares.map((value) => Math.sqrt(value / numRows.get(name)!)),
      )
    }
    return sizes
  } finally {
    for (const sum of sums.values()) device.release(sum)
  }
}

/** Ops of which some are others. */
function replaceOps(ops: Ops, others: Partial<Ops>): Ops {
  return new Proxy(ops, {
    get(target, key) {
      const other = others[key as keyof Ops]
      if (other) return other
      const value: unknown = Reflect.get(target, key, target)
      return typeof value === 'function' ? (value.bind(target) as unknown) : value
    },
  })
}

const experts = ['high', 'low'] as const

/** Writes the sizes of both experts, for `quantizeCheckpoint`: `high.blocks.0.attn1.to_q` F32 [K] and so on. */
export async function writeActivationSizes(
  file: string,
  sizes: Readonly<Partial<Record<'high' | 'low', ActivationSizes>>>,
): Promise<void> {
  await writeSafetensors(
    file,
    experts.flatMap((expert) =>
      Array.from(sizes[expert] ?? [], ([name, data]) => ({
        name: `${expert}.${name}`,
        dtype: 'F32' as const,
        shape: [data.length],
        data,
      })),
    ),
    { kinora_activation_sizes: '1' },
  )
}

/** Reads the sizes of one expert back. */
export async function readActivationSizes(
  file: string,
  expert: 'high' | 'low',
): Promise<ActivationSizes> {
  await using open = await openSafetensors(file)
  const sizes = new Map<string, Float32Array>()
  for (const name of open.tensors.keys()) {
    if (!name.startsWith(`${expert}.`)) continue
    sizes.set(name.slice(expert.length + 1), await open.readF32(name))
  }
  return sizes
}
