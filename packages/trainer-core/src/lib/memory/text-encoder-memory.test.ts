import {
  bytesPerElement as storedBytes,
  type SafetensorsFile,
  type TensorInfo,
} from '@kinora/safetensors'
import {
  createUmt5,
  parseTextEncoderConfig,
  SafetensorsWeights,
  umt5Tensors,
  type QuantizeScheme,
} from '@kinora/wan'
import { expect, it } from 'vitest'
import { createCountingDevice } from './counting-device.ts'

// The release's text encoder, through the code that reads its files, on the device that counts.
const config = parseTextEncoderConfig({})
const GIB = 2 ** 30

/** The release's file without its 11 GB: every number in it is zero. Counts what is asked of it. */
function emptyFile() {
  const { vocabSize, dim } = config
  const tensors = new Map<string, TensorInfo>()
  let start = 0
  for (const [name, shape] of [
    ['shared.weight', [vocabSize, dim]] as const,
    ...umt5Tensors(config),
  ]) {
    const end = start + shape.reduce((product, extent) => product * extent, storedBytes.BF16)
    tensors.set(name, { dtype: 'BF16', shape, start, end })
    start = end
  }
  const asked = { largestRead: 0, tableBytes: 0 }
  const readInto = (name: string, target: Uint8Array): Promise<void> => {
    asked.largestRead = Math.max(asked.largestRead, target.length)
    if (name === 'shared.weight') asked.tableBytes += target.length
    return Promise.resolve()
  }
  const file = { file: 'model.safetensors', tensors, metadata: {}, readInto } as const
  return { bytes: start, asked, file: file as unknown as SafetensorsFile }
}

/** More different tokens than the captions of a data set have. */
const mostRows = 16_384

/** Encodes sequences of these lengths and tells what it took. */
async function encode(lengths: readonly number[], quantize: QuantizeScheme | undefined) {
  const { file, asked, bytes } = emptyFile()
  const counting = createCountingDevice({ overhead: 'gpu' })
  let filled = 0
  const device: typeof counting = {
    ...counting,
    fill(_tensor, _offset, size, _read) {
      filled += size
      return Promise.resolve()
    },
  }
  const source = new SafetensorsWeights(
    new Map([...file.tensors.keys()].map((name) => [name, file])),
  )
  const umt5 = createUmt5(config, source, device, { compute: 'f32', quantize })
  let next = 0
  const sequences = lengths.map((length) => Array.from({ length }, () => next++ % mostRows))
  let given = 0
  for await (const states of umt5.encode(sequences)) {
    expect(states.shape).toEqual([1, lengths[given++], config.dim])
    device.release(states)
  }
  expect(given).toBe(lengths.length)
  const { peakBytes, liveBytes } = device.memory()
  expect(liveBytes).toBe(0)
  return { peakBytes, filled, bytes, ...asked }
}

it.each(['float8', undefined] as const)(
  'takes less than 3 GiB at full size, packed as %s, whatever the number of captions',
  async (quantize) => {
    const one = await encode([512], quantize)
    const many = await encode(Array<number>(130).fill(512), quantize)
    // States wait on the device. What lies idle for reuse comes on top, which a device keeps within what it is told to take.
    expect(one.peakBytes).toBeLessThan(GIB)
    expect(many.peakBytes).toBeLessThan(2 * GIB)
    // Every number of the layers is read once for 65 536 tokens, so here twice; of the table only rows that occur.
    expect(one.bytes).toBe(2 * 5_680_910_336)
    const layers = one.bytes - 2 * config.vocabSize * config.dim
    expect(layers - one.filled).toBeLessThan(2 ** 20)
    expect(many.filled).toBe(2 * one.filled)
    expect(one.tableBytes).toBe(512 * 2 * config.dim)
    // What is read into memory of our own, not the device's, is rows and norms.
    expect(one.largestRead).toBeLessThan(2 ** 20)
  },
)
