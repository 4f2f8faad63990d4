import type { Device, Ops, Tensor } from '@kinora/kernel-api'
import type { Conv, WeightLoader } from '../checkpoint/weight-loader.ts'
import { chainLayers } from '../layer-chain.ts'
import {
  activated,
  causalConv,
  downsample,
  loadMiddle,
  loadResample,
  loadResidual,
  middle,
  residual,
  upsample,
  type MiddleWeights,
  type ResampleWeights,
  type ResidualWeights,
} from './layers.ts'
import type { TemporalMemory } from './temporal-memory.ts'
import type { VaeLayer } from './vae-layout.ts'

// The encoder and the decoder are the same kinds of layers in opposite order. Channels last: [B, T, Y, X, C].

type LoadedLayer =
  | { kind: 'residual'; weights: ResidualWeights }
  | { kind: 'downsample' | 'upsample'; weights: ResampleWeights }

export interface CoderWeights {
  readonly convIn: Conv
  readonly middle: MiddleWeights
  readonly layers: readonly LoadedLayer[]
  readonly normOut: Tensor
  readonly convOut: Conv
}

/** A chunk of frames [B, T, Y, X, 3] to moments [B, T', Y', X', 2z], before `quant_conv`. */
export function encodeChunk(
  device: Device,
  frames_BTYX3: Tensor,
  w: CoderWeights,
  memory: TemporalMemory,
): Tensor {
  const { ops } = device
  return chainLayers(device, ops, frames_BTYX3, [
    (x) => causalConv(ops, x, w.convIn, memory),
    ...w.layers.map((layer) => (x: Tensor) => through(ops, x, layer, memory)),
    (x) => middle(ops, x, w.middle, memory),
    (x) => output(ops, x, w, memory),
  ])
}

/** A chunk of latent frames [B, T', Y', X', z], after `post_quant_conv`, to frames [B, T, Y, X, 3]. */
export function decodeChunk(
  device: Device,
  latents_BTYXZ: Tensor,
  w: CoderWeights,
  memory: TemporalMemory,
): Tensor {
  const { ops } = device
  return chainLayers(device, ops, latents_BTYXZ, [
    (x) => causalConv(ops, x, w.convIn, memory),
    (x) => middle(ops, x, w.middle, memory),
    ...w.layers.map((layer) => (x: Tensor) => through(ops, x, layer, memory)),
    (x) => output(ops, x, w, memory),
  ])
}

function through(ops: Ops, x: Tensor, layer: LoadedLayer, memory: TemporalMemory): Tensor {
  switch (layer.kind) {
    case 'residual':
      return residual(ops, x, layer.weights, memory)
    case 'downsample':
      return downsample(ops, x, layer.weights, memory)
    case 'upsample':
      return upsample(ops, x, layer.weights, memory)
    default:
      return layer satisfies never
  }
}

function output(ops: Ops, x: Tensor, w: CoderWeights, memory: TemporalMemory): Tensor {
  return causalConv(ops, activated(ops, x, w.normOut), w.convOut, memory)
}

/** @param prefix `encoder` or `decoder` */
export async function loadCoder(
  loader: WeightLoader,
  prefix: 'encoder' | 'decoder',
  layers: readonly VaeLayer[],
): Promise<CoderWeights> {
  const loaded: LoadedLayer[] = []
  for (const layer of layers) {
    loaded.push(
      layer.kind === 'residual'
        ? {
            kind: layer.kind,
            weights: await loadResidual(loader, layer.name, layer.inner, layer.out),
          }
        : { kind: layer.kind, weights: await loadResample(loader, layer.name, layer.temporal) },
    )
  }
  const middleChannels = prefix === 'encoder' ? layers.at(-1)!.out : layers[0]!.inner
  return {
    convIn: await loader.conv(`${prefix}.conv_in`),
    middle: await loadMiddle(loader, `${prefix}.mid_block`, middleChannels),
    layers: loaded,
    normOut: await loader.vector(`${prefix}.norm_out.gamma`),
    convOut: await loader.conv(`${prefix}.conv_out`),
  }
}
