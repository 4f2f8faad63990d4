import type { TransformerConfig, VaeConfig } from '@kinora/wan'
import { samplerErrors } from './errors.ts'

/** What the sides and the length of a clip must fit. */
export interface ClipGrid {
  /** Sides are multiples of this, in pixels: the VAE's factor times the patch. */
  multiple: number
  /** Frames are this times n, plus 1. */
  temporalFactor: number
  spatialFactor: number
}

/** The grid of every Wan 2.1 and 2.2 A14B model: known before a checkpoint is opened or downloaded. */
export const wanGrid: ClipGrid = { multiple: 16, temporalFactor: 4, spatialFactor: 8 }

/** The grid of a checkpoint, from its configuration. */
export function gridOf(vae: VaeConfig, transformer: TransformerConfig): ClipGrid {
  return {
    multiple: vae.spatialFactor * Math.max(transformer.patchSize[1], transformer.patchSize[2]),
    temporalFactor: vae.temporalFactor,
    spatialFactor: vae.spatialFactor,
  }
}

/** Throws `SAMPLER_BAD_SIZE` or `SAMPLER_BAD_FRAMES` for a clip that the networks cannot hold. */
export function checkClipSize(
  { width, height, numFrames }: { width: number; height: number; numFrames: number },
  { multiple, temporalFactor }: ClipGrid = wanGrid,
): void {
  const fits = (extent: number) => Number.isInteger(extent) && extent > 0 && extent % multiple === 0
  if (!fits(width) || !fits(height)) throw samplerErrors.BAD_SIZE(width, height, multiple)
  if (!Number.isInteger(numFrames) || numFrames < 1 || (numFrames - 1) % temporalFactor !== 0) {
    throw samplerErrors.BAD_FRAMES(numFrames, temporalFactor)
  }
}

/**
 * The size that keeps an image's shape within an area, as in diffusers' example for this model: the exact sides, cut down to
 * whole multiples.
 *
 * @param area pixels at most
 */
export function sizeForImage(
  image: { width: number; height: number },
  area: number,
  multiple: number = wanGrid.multiple,
): { width: number; height: number } {
  const aspect = image.height / image.width
  // 480.000…: the root of an exact square may come out a hair below it.
  const cut = (extent: number) => Math.max(1, Math.floor(extent / multiple + 1e-9)) * multiple
  return { width: cut(Math.sqrt(area / aspect)), height: cut(Math.sqrt(area * aspect)) }
}
