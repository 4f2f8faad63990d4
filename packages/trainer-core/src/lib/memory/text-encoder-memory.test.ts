import { bytesPerElement as fileBytes, type SafetensorsFile, type TensorInfo } from '@kinora/safetensors'
import {
  createUmt5,
  parseTextEncoderConfig,
  SafetensorsWeights,
  umt5Tensors,
  type QuantizeScheme,
} from '@kinora/wan'
import { expect, it } from 'vitest'
import { createCountingDevice } from './counting-device.ts'

// The release's text encoder, read by the code that reads its files, on the device that counts.
const config = parseTextEncoderConfig({})
const { vocabSize, dim, numLayers } = config
const GIB = 2 ** 30

/** The release's file without its 11 GB: every number is zero. */
function emptyFile(): SafetensorsFile & { readonly read: string[] } {
  const shapes = new Map([['shared.weight', [vocabSize, dim]] as const, ...umt5Tensors(config)])
  const tensors = new Map<string, TensorInfo>()
  let start = 0
  for (const [name, shape] of shapes) {
    const end = start + shape.reduce((product, extent) => product * extent, fileBytes.BF16)
    tensors.set(name, { dtype: 'BF16', shape, start, end })
    start = end
  }
}
