// Numerics at full width: one block of the A14B transformer (5120 channels, 13824 in the feed-forward, 40 heads, 1600 tokens)
// in f16 against torch in f32.
//
//   python3 full_width.py ref.bin [--uint4] && bench numerics ref.bin [--uint4]
//
// Both sides make their numbers themselves. Element k = 0… of a tensor called `name`, in 32-bit arithmetic:
//
//   s = FNV-1a of the name
//   h = (k + 1) xor (s · 0x9E3779B1)
//   h = h · 0x85EBCA6B; h ^= h >>> 13; h = h · 0xC2B2AE35; h ^= h >>> 16
//   r = 2 h / 2³² − 1
import { readFileSync } from 'node:fs'

import { f16FromF32, numElements, type Device, type DType, type Tensor } from '@kinora/kernel-api'
import { createTape } from '@kinora/trainer-core'
import { createTransformer, parseTransformerConfig, type WeightSource } from '@kinora/wan'
import { openDevice } from '@kinora/wgpu-kernels/node'

const [file, ...flags] = process.argv.slice(2)
const isUint4 = flags.includes('--uint4')
const bars = { output: 1e-2, gradient: 3e-2 }

function generate(name: string, count: number): Float32Array {
  let s = 0x811c9dc5
  for (const byte of new TextEncoder().encode(name)) s = Math.imul(s ^ byte, 0x01000193)
  s = Math.imul(s, 0x9e3779b1)
  const out = new Float32Array(count)
  for (let k = 0; k < count; k++) {
    let h = Math.imul((k + 1) ^ s, 0x85ebca6b)
    h ^= h >>> 13
    h = Math.imul(h, 0xc2b2ae35)
    h ^= h >>> 16
    out[k] = (h >>> 0) * (2 / 2 ** 32) - 1
  }
  return out
}

const [D, FFN, TEXT_DIM, TEXT, RANK] = [5120, 13824, 4096, 512, 16]
const GRID = [4, 20, 20] as const
const config = parseTransformerConfig(
  {
    _class_name: 'WanTransformer3DModel',
    patch_size: [1, 2, 2],
    num_attention_heads: 40,
    attention_head_dim: 128,
    in_channels: 36,
    out_channels: 16,
    text_dim: TEXT_DIM,
    freq_dim: 256,
    ffn_dim: FFN,
    num_layers: 1,
    cross_attn_norm: true,
    qk_norm: 'rms_norm_across_heads',
    eps: 1e-6,
    rope_max_seq_len: 1024,
  },
  'full-width',
)

const linears: Record<string, readonly [number, number]> = {
  'condition_embedder.time_embedder.linear_1': [D, 256],
  'condition_embedder.time_embedder.linear_2': [D, D],
  'condition_embedder.time_proj': [6 * D, D],
  'condition_embedder.text_embedder.linear_1': [D, TEXT_DIM],
  'condition_embedder.text_embedder.linear_2': [D, D],
  proj_out: [64, D],
  'blocks.0.ffn.net.0.proj': [FFN, D],
  'blocks.0.ffn.net.2': [D, FFN],
}
for (const attention of ['attn1', 'attn2']) {
  for (const part of ['to_q', 'to_k', 'to_v', 'to_out.0'])
    linears[`blocks.0.${attention}.${part}`] = [D, D]
}

/** The reference's weights, by the rules of full_width.py. */
const weights: WeightSource = {
  has: () => true,
  load(name: string, device: Device, dtype: DType): Promise<Tensor> {
    const [base, kind] = [
      name.slice(0, name.lastIndexOf('.')),
      name.slice(name.lastIndexOf('.') + 1),
    ]
    const shape: readonly number[] =
      base === 'patch_embedding'
        ? kind === 'weight'
          ? [D, 36, 1, 2, 2]
          : [D]
        : name === 'scale_shift_table'
          ? [1, 2, D]
          : name === 'blocks.0.scale_shift_table'
            ? [1, 6, D]
            : linears[base]
              ? kind === 'weight'
                ? linears[base]
                : [linears[base][0]]
              : [D]
    const scale =
      shape.length > 1 && kind === 'weight'
        ? Math.sqrt(3 / numElements(shape.slice(1)))
        : kind === 'scale_shift_table'
          ? 0.5
          : 0.1
    const isNorm = kind === 'weight' && shape.length === 1
    const values = generate(name, numElements(shape)).map(
      (value) => value * scale + (isNorm ? 1 : 0),
    )
    return Promise.resolve(
      dtype === 'f16'
        ? device.upload(f16FromF32(values), shape, 'f16')
        : device.scope(() => {
            const wide = device.upload(values, shape, 'f32')
            return dtype === 'f32' ? wide : device.ops.cast(wide, dtype)
          }),
    )
  },
}

const bytes = readFileSync(file!)
const headBytes = bytes.readUInt32LE(0)
const head = JSON.parse(bytes.subarray(4, 4 + headBytes).toString()) as {
  loss: number
  tensors: Record<string, { shape: number[]; at: number }>
}
const reference = (name: string): Float32Array => {
  const { shape, at } = head.tensors[name]!
  const start = bytes.byteOffset + 4 + headBytes + at
  return new Float32Array(bytes.buffer.slice(start, start + numElements(shape) * 4))
}
function relativeError(got: ArrayLike<number>, want: Float32Array): number {
  let [error, size] = [0, 0]
  for (let i = 0; i < want.length; i++) {
    error += (got[i]! - want[i]!) ** 2
    size += want[i]! ** 2
  }
  return Math.sqrt(error / size)
}

const device = await openDevice()
console.log(`${device.info.adapter}, ${device.info.driver}`)
const transformer = await createTransformer(config, weights, device, {
  compute: 'f16',
  ...(isUint4 ? { quantize: 'uint4' } : {}),
} as Parameters<typeof createTransformer>[3])
const adapters = new Map(
  transformer.loraTargets.map(({ name, inFeatures, outFeatures }) => {
    const a = generate(`${name}.A`, RANK * inFeatures).map(
      (value) => value * Math.sqrt(3 / inFeatures),
    )
    const b = generate(`${name}.B`, outFeatures * RANK).map((value) => value * 0.3)
    return [
      name,
      [
        {
          a: device.upload(a, [RANK, inFeatures], 'f32'),
          b: device.upload(b, [outFeatures, RANK], 'f32'),
          scale: 1,
        },
      ],
    ] as const
  }),
)
const [F, H, W] = GRID
const upload = (name: string, shape: number[], scale = 1): Tensor =>
  device.upload(
    generate(name, numElements(shape)).map((value) => value * scale),
    shape,
    'f32',
  )
const latents = upload('latents', [1, 36, F, 2 * H, 2 * W], 1.7)
const target = upload('target', [1, 16, F, 2 * H, 2 * W])
const text = device.upload(
  generate('text', TEXT * TEXT_DIM).map((value, i) => (i < 40 * TEXT_DIM ? value : 0)),
  [1, TEXT, TEXT_DIM],
  'f32',
)
const params = [...adapters.values()].flatMap(([{ a, b }]) => [a, b])
let failed = 0
const check = (name: string, error: number, bar: number): void => {
  if (!(error <= bar)) failed++
  console.log(`${error <= bar ? 'ok  ' : 'FAIL'} ${name}: ${error.toExponential(2)} (bar ${bar})`)
}
for (const rounded of [false, true]) {
  const scale = 4096
  const tape = createTape(device, { watch: params })
  let output: Float32Array | undefined
  const pending: Promise<unknown>[] = []
  const loss = device.scope(() => {
    const out = transformer.forward(
      tape.ops,
      { latents, timesteps: [437], text },
      { adapters, keep: ['attn1'], blockInputsAs: rounded ? 'f16' : undefined },
    )
    pending.push(device.read(out).then((value) => (output = value as Float32Array)))
    return tape.ops.loss(out, target, { kind: 'mse' })
  })
  const grads = tape.backward([{ tensor: loss, grad: [scale] }], params)
  await Promise.all(pending)
  const label = `${isUint4 ? 'uint4' : 'f16'}${rounded ? ', block inputs f16' : ''}`
  const [value] = (await device.read(loss)) as Float32Array
  check(`${label}, output`, relativeError(output!, reference('out')), bars.output)
  check(`${label}, loss`, Math.abs(value! / head.loss - 1), bars.output)
  let worst = { name: '', error: 0 }
  for (const [name, [{ a, b }]] of adapters) {
    for (const [part, tensor] of [
      ['A', a],
      ['B', b],
    ] as const) {
      const grad = (await device.read(grads.get(tensor)!)) as Float32Array
      const error = relativeError(
        grad.map((g) => g / scale),
        reference(`${name}.${part}`),
      )
      if (!(error <= worst.error)) worst = { name: `${name}.${part}`, error }
    }
  }
  check(`${label}, worst of ${params.length} gradients (${worst.name})`, worst.error, bars.gradient)
  tape.dispose()
  device.release(loss)
}
device.destroy()
process.exit(failed > 0 ? 1 : 0)
