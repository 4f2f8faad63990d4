import type { Ops, Tensor } from '@kinora/kernel-api'
import { wanErrors } from './errors.ts'

/**
 * What image-to-video adds to the noisy latents: the mask (1 for the given first frame, 0 elsewhere, one channel for each of the
 * four frames a latent stands for), then the condition latents.
 *
 * @param conditionLatents [B, Z, F, H, W], normalised: the encoded `conditionVideo`
 * @returns [B, 4 + Z, F, H, W], to be joined behind the noisy latents on axis 1
 */
export function buildCondition(ops: Ops, conditionLatents: Tensor): Tensor {
  const { shape } = conditionLatents
  if (shape.length !== 5 || shape[1]! < maskChannels) {
    throw wanErrors.BAD_SHAPE('The condition latents', shape, 'expected is [B, 16, F, H, W]')
  }
  const frames = shape[2]!
  return ops.scope(() => {
    const channels = ops.slice(conditionLatents, 1, 0, maskChannels)
    const given = ops.affine(ops.slice(channels, 2, 0, 1), { scale: 0, offset: 1 })
    const mask =
      frames === 1
        ? given
        : ops.concat([given, ops.affine(ops.slice(channels, 2, 1, frames), { scale: 0 })], 2)
    return ops.concat([mask, conditionLatents], 1)
  })
}

const maskChannels = 4

/**
 * The clip whose latents condition the model: the image, then mid-grey, which is 0 in [−1, 1].
 *
 * @param image RGB, 8 bits, row-major; its size is the clip's: multiples of 16
 * @param numFrames 4n + 1
 * @returns a clip for `WanVae.encode`: data of shape [1, numFrames, height, width, 3], f32
 */
export function conditionVideo(
  image: { width: number; height: number; data: Uint8Array },
  numFrames: number,
): { data: Float32Array; shape: [1, number, number, number, 3] } {
  const { width, height } = image
  if (image.data.length !== width * height * 3) {
    throw wanErrors.BAD_SHAPE(
      'The image',
      [image.data.length],
      `${width} × ${height} RGB pixels are ${width * height * 3} bytes`,
    )
  }
  const data = new Float32Array(numFrames * image.data.length)
  for (let i = 0; i < image.data.length; i++) data[i] = (image.data[i]! / 255) * 2 - 1
  return { data, shape: [1, numFrames, height, width, 3] }
}
