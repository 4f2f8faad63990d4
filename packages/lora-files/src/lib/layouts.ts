import { comfyui } from './key-maps/comfyui.ts'
import { diffusers } from './key-maps/diffusers.ts'
import type { LoraKeyMap } from './key-maps/key-map.ts'
import { kohya } from './key-maps/kohya.ts'

/** The key layouts of LoRA files, in the order of detection; `comfyui` is also AI Toolkit's. */
export const loraLayouts = ['comfyui', 'diffusers', 'kohya'] as const
export type LoraLayout = (typeof loraLayouts)[number]

export const keyMaps: Readonly<Record<LoraLayout, LoraKeyMap>> = { comfyui, diffusers, kohya }
