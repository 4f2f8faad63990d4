import type { VaeConfig } from '../checkpoint/configs.ts'
import type { TensorTable } from '../checkpoint/tensor-table.ts'

/** One layer of the encoder or decoder: its name in the checkpoint, and channels in and out. */
export type VaeLayer =
  | { kind: 'residual'; name: string; inner: number; out: number }
  | { kind: 'downsample' | 'upsample'; name: string; inner: number; out: number; temporal: boolean }

/** The encoder's layers between conv_in and the middle. */
export function encoderLayers(config: VaeConfig): VaeLayer[] {
  const layers: VaeLayer[] = []
  const name = () => `encoder.down_blocks.${layers.length}`
  let inner = config.baseDim
  for (const [level, mult] of config.dimMult.entries()) {
    const out = config.baseDim * mult
    for (let i = 0; i < config.numResBlocks; i++) {
      layers.push({ kind: 'residual', name: name(), inner, out })
      inner = out
    }
    if (level < config.dimMult.length - 1) {
      const temporal = config.temporalDownsample[level]!
      layers.push({ kind: 'downsample', name: name(), inner: out, out, temporal })
    }
  }
  return layers
}

/** The decoder's layers between the middle and norm_out. Its levels run the other way; each upsampling halves the channels. */
export function decoderLayers(config: VaeConfig): VaeLayer[] {
  const layers: VaeLayer[] = []
  const mults = config.dimMult.toReversed()
  const temporals = config.temporalDownsample.toReversed()
  let inner = config.decoderBaseDim * mults[0]!
  for (const [level, mult] of mults.entries()) {
    const block = `decoder.up_blocks.${level}`
    const out = config.decoderBaseDim * mult
    for (let i = 0; i <= config.numResBlocks; i++) {
      layers.push({ kind: 'residual', name: `${block}.resnets.${i}`, inner, out })
      inner = out
    }
    if (level < mults.length - 1) {
      inner = out / 2
      layers.push({
        kind: 'upsample',
        name: `${block}.upsamplers.0`,
        inner: out,
        out: inner,
        temporal: temporals[level]!,
      })
    }
  }
  return layers
}

/** Every tensor of `AutoencoderKLWan` with its shape. */
export function vaeTensors(config: VaeConfig): TensorTable {
  const table = new Map<string, readonly number[]>()
  const conv = (name: string, out: number, inner: number, ...kernel: number[]) => {
    table.set(`${name}.weight`, [out, inner, ...kernel])
    table.set(`${name}.bias`, [out])
  }
  const residual = (name: string, inner: number, out: number) => {
    table.set(`${name}.norm1.gamma`, [inner, 1, 1, 1])
    conv(`${name}.conv1`, out, inner, 3, 3, 3)
    table.set(`${name}.norm2.gamma`, [out, 1, 1, 1])
    conv(`${name}.conv2`, out, out, 3, 3, 3)
    if (inner !== out) conv(`${name}.conv_shortcut`, out, inner, 1, 1, 1)
  }
  const middle = (name: string, channels: number) => {
    residual(`${name}.resnets.0`, channels, channels)
    table.set(`${name}.attentions.0.norm.gamma`, [channels, 1, 1])
    conv(`${name}.attentions.0.to_qkv`, 3 * channels, channels, 1, 1)
    conv(`${name}.attentions.0.proj`, channels, channels, 1, 1)
    residual(`${name}.resnets.1`, channels, channels)
  }
  const layers = (list: readonly VaeLayer[]) => {
    for (const layer of list) {
      if (layer.kind === 'residual') residual(layer.name, layer.inner, layer.out)
      else {
        conv(`${layer.name}.resample.1`, layer.out, layer.inner, 3, 3)
        if (layer.temporal) {
          const doubled = layer.kind === 'upsample' ? 2 : 1
          conv(`${layer.name}.time_conv`, doubled * layer.inner, layer.inner, 3, 1, 1)
        }
      }
    }
  }

  const encoder = encoderLayers(config)
  const deepest = encoder.at(-1)!.out
  conv('encoder.conv_in', config.baseDim, 3, 3, 3, 3)
  layers(encoder)
  middle('encoder.mid_block', deepest)
  table.set('encoder.norm_out.gamma', [deepest, 1, 1, 1])
  conv('encoder.conv_out', 2 * config.zDim, deepest, 3, 3, 3)
  conv('quant_conv', 2 * config.zDim, 2 * config.zDim, 1, 1, 1)

  const decoder = decoderLayers(config)
  const widest = decoder[0]!.inner
  const last = decoder.at(-1)!.out
  conv('post_quant_conv', config.zDim, config.zDim, 1, 1, 1)
  conv('decoder.conv_in', widest, config.zDim, 3, 3, 3)
  middle('decoder.mid_block', widest)
  layers(decoder)
  table.set('decoder.norm_out.gamma', [last, 1, 1, 1])
  conv('decoder.conv_out', 3, last, 3, 3, 3)
  return table
}
