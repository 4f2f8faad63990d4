import type { Device, Ops, Tensor } from '@kinora/kernel-api'

/**
 * Runs layers one after another, each value freed as soon as the next layer has read it: at full size one is hundreds of MiB,
 * and a plain loop would hold all of them to the end of the surrounding scope. A tape holds on to what it still needs by itself.
 */
export function chainLayers(
  device: Device,
  ops: Ops,
  input: Tensor,
  layers: readonly ((x: Tensor) => Tensor)[],
): Tensor {
  let kept: Tensor | undefined
  try {
    for (const layer of layers) {
      const next = keptFromScope(device, () => layer(kept ?? input))
      if (kept) device.release(kept)
      kept = next
    }
    if (!kept) return input
    // The chain's own reference ends here: the result belongs to the surrounding scope, as that of any op.
    return ops.reshape(kept, kept.shape)
  } finally {
    if (kept) device.release(kept)
  }
}

/** Runs `make` in a scope; its result has one owner, the caller, whatever scopes are open. */
export function keptFromScope(device: Device, make: () => Tensor): Tensor {
  let kept: Tensor | undefined
  device.scope(() => {
    kept = device.retain(make())
  })
  return kept!
}
