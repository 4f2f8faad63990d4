import { bytesPerElement, numElements, type DType, type Tensor } from '@kinora/kernel-api'

import type { AdapterProfile } from '../device/adapter-profile.ts'
import type { BufferPool, PooledBuffer } from '../device/buffer-pool.ts'
import type { CommandQueue } from '../device/command-queue.ts'
import { wgpuErrors } from '../errors.ts'
import type { Lifetimes } from '../tensor/lifetimes.ts'
import { ownTensor, WgpuTensor } from '../tensor/wgpu-tensor.ts'
import type { Kernel } from './define-kernel.ts'
import { foldGrid } from './fold-grid.ts'
import type { ProgramCache } from './program-cache.ts'
import { rowWindows, type RowWindow } from './windows.ts'

/** A range of a tensor's bytes, as bound to a kernel. The offset is aligned to the adapter's storage alignment. */
export interface TensorRange {
  readonly tensor: WgpuTensor
  readonly offsetBytes: number
  readonly sizeBytes: number
}

/** A part of a tensor as bound, and where in the binding its first element is. */
export interface TensorSpan {
  readonly bound: Bound
  readonly first: number
}

export type Bound = WgpuTensor | TensorRange

/** Parts of a device an op works with. */
export interface RunnerParts {
  readonly owner: object
  readonly device: GPUDevice
  readonly profile: AdapterProfile
  readonly pool: BufferPool
  readonly queue: CommandQueue
  readonly programs: ProgramCache
  readonly lifetimes: Lifetimes
  /** Throws if the device cannot be used any more. */
  readonly assertUsable: () => void
  readonly watch: (check: Promise<Error | undefined>) => void
  readonly collectGarbage: (() => void) | undefined
}

/**
 * Bind groups after which a new generation begins and the one before the last is dropped. A step of the 14B network makes some
 * ten thousand dispatches, each layer with weights of its own: what it used last time should still be there.
 */
const GENERATION = 16384
/**
 * The same for a software adapter: lavapipe maps a page for each bind group, and a process of Linux may have 65530 mappings,
 * those of all its devices together.
 */
const SOFTWARE_GENERATION = 8192

/** What ops are written against: allocate, run a kernel, open a scope for scratch. */
export class Runner {
  readonly profile: AdapterProfile
  readonly #parts: RunnerParts
  #bindGroups = new Map<string, GPUBindGroup>()
  #olderBindGroups = new Map<string, GPUBindGroup>()

  constructor(parts: RunnerParts) {
    this.#parts = parts
    this.profile = parts.profile
  }

  /** A tensor whose content is undefined, owned by the innermost scope. */
  alloc(shape: readonly number[], dtype: DType): WgpuTensor {
    const { pool, lifetimes, owner, assertUsable } = this.#parts
    assertUsable()
    const pooled = pool.acquire(Math.max(16, numElements(shape) * bytesPerElement[dtype]))
    const tensor = new WgpuTensor([...shape], dtype, { owner, pooled, tensors: 1 })
    lifetimes.adopt(tensor)
    return tensor
  }

  /** Another tensor on the same storage. */
  view(tensor: WgpuTensor, shape: readonly number[]): WgpuTensor {
    const view = new WgpuTensor([...shape], tensor.dtype, tensor.handle)
    tensor.handle.tensors++
    this.#parts.lifetimes.adopt(view)
    return view
  }

  /** Narrows to a live tensor of this device. */
  own(op: string, tensor: Tensor): WgpuTensor {
    return ownTensor(op, tensor, this.#parts.owner)
  }

  scope<T>(fn: () => T): T {
    return this.#parts.lifetimes.scope(fn)
  }

  /** Fills a tensor with zeros. */
  clear(tensor: WgpuTensor): void {
    this.#parts.queue.clear(tensor.handle.pooled, Math.ceil(tensor.sizeBytes / 4) * 4)
  }

  /** Rows `start` to `end` of a tensor seen as rows of `bytesPerRow`. */
  rows(tensor: WgpuTensor, window: RowWindow, bytesPerRow: number): TensorRange {
    return {
      tensor,
      offsetBytes: window.start * bytesPerRow,
      sizeBytes: (window.end - window.start) * bytesPerRow,
    }
  }

  /**
   * Elements `first` to `first + count` of a tensor as a binding: all of it where that fits, else from the last aligned offset
   * before them. Also says which element of the binding is the first.
   */
  span(kernel: string, tensor: WgpuTensor, first: number, count: number): TensorSpan {
    const { maxBindingBytes, storageAlignment } = this.profile.limits
    if (tensor.sizeBytes <= maxBindingBytes) return { bound: tensor, first }
    const element = bytesPerElement[tensor.dtype]
    const offsetBytes = Math.floor((first * element) / storageAlignment) * storageAlignment
    const sizeBytes = Math.ceil(((first + count) * element - offsetBytes) / 16) * 16
    if (sizeBytes > maxBindingBytes) {
      throw wgpuErrors.BINDING_TOO_LARGE(kernel, 'a part', sizeBytes, maxBindingBytes)
    }
    return {
      bound: { tensor, offsetBytes, sizeBytes },
      first: first - offsetBytes / element,
    }
  }

  /**
   * Ranges of rows whose parts of every named tensor fit the binding limit; one range in the ordinary case.
   *
   * @param bytesPerRow bytes a row takes, by the name the error uses
   */
  windows(
    kernel: string,
    rows: number,
    bytesPerRow: Readonly<Record<string, number>>,
  ): readonly RowWindow[] {
    const { maxBindingBytes, storageAlignment } = this.profile.limits
    const windows = rowWindows(rows, Object.values(bytesPerRow), maxBindingBytes, storageAlignment)
    if (windows) return windows
    const [name, bytes] = Object.entries(bytesPerRow).toSorted((a, b) => b[1] - a[1])[0]!
    throw wgpuErrors.BINDING_TOO_LARGE(kernel, name, bytes, maxBindingBytes)
  }

  /**
   * Queues one dispatch.
   *
   * @param bindings a tensor or a range of one for each binding of the kernel
   * @param uniforms a number for each uniform
   * @param groups workgroups, any number; none skips the dispatch
   */
  run<Variant>(
    kernel: Kernel<Variant>,
    variant: NoInfer<Variant>,
    bindings: Readonly<Record<string, Bound>>,
    uniforms: Readonly<Record<string, number>>,
    groups: number,
  ): void {
    const { assertUsable, programs, queue, profile } = this.#parts
    assertUsable()
    if (groups <= 0) return
    const program = programs.get(kernel, variant)
    const grid = foldGrid(groups, profile.limits.maxWorkgroupsPerDimension)
    if (!grid) throw wgpuErrors.DISPATCH_TOO_LARGE(kernel.name, groups)

    let key = `${program.id}`
    const entries: GPUBindGroupEntry[] = []
    const buffers: PooledBuffer[] = []
    for (const [name] of program.bindings) {
      const bound = bindings[name]!
      const { tensor, offsetBytes, sizeBytes } =
        bound instanceof WgpuTensor
          ? { tensor: bound, offsetBytes: 0, sizeBytes: bound.sizeBytes }
          : bound
      const { pooled } = tensor.handle
      // A kernel that reads vectors may read the padding of the last one; the pool's classes leave room for it.
      const size = Math.min(Math.max(16, Math.ceil(sizeBytes / 16) * 16), pooled.sizeBytes)
      if (size > profile.limits.maxBindingBytes) {
        throw wgpuErrors.BINDING_TOO_LARGE(kernel.name, name, size, profile.limits.maxBindingBytes)
      }
      key += `|${pooled.id},${offsetBytes},${size}`
      buffers.push(pooled)
      entries.push({
        binding: entries.length,
        resource: { buffer: pooled.buffer, offset: offsetBytes, size },
      })
    }
    const bindGroup = this.#bindGroups.get(key) ?? this.#keepBindGroup(key, program, entries)
    const values = program.uniformNames.map((name) =>
      name === 'grid_x' ? grid[0] : uniforms[name]!,
    )
    queue.dispatch(
      { kernel: kernel.name, uniforms },
      program.pipeline,
      bindGroup,
      buffers,
      program.uniformTypes,
      values,
      grid,
    )
  }

  /** The bind group from the generation before, or a new one; either way of this generation now. */
  #keepBindGroup(
    key: string,
    program: ReturnType<ProgramCache['get']>,
    entries: GPUBindGroupEntry[],
  ): GPUBindGroup {
    const bindGroup = this.#olderBindGroups.get(key) ?? this.#makeBindGroup(program, entries)
    const most = this.profile.adapterClass === 'software' ? SOFTWARE_GENERATION : GENERATION
    if (this.#bindGroups.size >= most) {
      const dropped = this.#olderBindGroups.size
      this.#olderBindGroups = this.#bindGroups
      this.#bindGroups = new Map()
      if (dropped > 0) this.#parts.collectGarbage?.()
    }
    this.#bindGroups.set(key, bindGroup)
    return bindGroup
  }

  /** Forgets what holds on to the driver's memory. */
  destroy(): void {
    const dropped = this.#bindGroups.size + this.#olderBindGroups.size
    this.#bindGroups = new Map()
    this.#olderBindGroups = new Map()
    if (dropped >= SOFTWARE_GENERATION) this.#parts.collectGarbage?.()
  }

  #makeBindGroup(
    program: ReturnType<ProgramCache['get']>,
    entries: GPUBindGroupEntry[],
  ): GPUBindGroup {
    const { device, queue, watch } = this.#parts
    entries.push({
      binding: entries.length,
      resource: { buffer: queue.uniformBuffer, size: program.uniformBytes },
    })
    device.pushErrorScope('validation')
    const bindGroup = device.createBindGroup({
      label: program.kernel,
      layout: program.layout,
      entries,
    })
    watch(
      device
        .popErrorScope()
        .then((error) =>
          error
            ? wgpuErrors.VALIDATION(`the bindings of ${program.kernel}`, error.message)
            : undefined,
        ),
    )
    return bindGroup
  }
}
