// A GPUDevice that runs WGSL in an interpreter: what tests use where no software driver has subgroup matrices. Only what this
// package calls of WebGPU exists; dispatches run when they are submitted.
import { compileWgsl, type CompiledShader } from './wgsl-compiler.ts'
import { dispatchWgsl, workgroupBytes } from './wgsl-machine.ts'

interface EmulatedBuffer {
  readonly bytes: Uint8Array
}
interface EmulatedPipeline {
  /** Undefined where it did not compile: dispatches with it do nothing. */
  readonly shader: CompiledShader | undefined
}
interface EmulatedEntry {
  readonly binding: number
  readonly resource: {
    readonly buffer: EmulatedBuffer
    readonly offset?: number
    readonly size?: number
  }
}
interface EmulatedBindGroup {
  readonly entries: readonly EmulatedEntry[]
}

/** Workgroup memory, as much as a GPU with tensor cores has. */
const WORKGROUP_BYTES = 49152

const shaders = new Map<string, CompiledShader>()

function compiled(code: string): CompiledShader {
  let shader = shaders.get(code)
  if (!shader) {
    shader = compileWgsl(code)
    const bytes = workgroupBytes(shader)
    if (bytes > WORKGROUP_BYTES) throw new Error(`${bytes} bytes of workgroup memory`)
    shaders.set(code, shader)
  }
  return shader
}

/** What an adapter with tensor cores says of itself. */
export const emulatedAdapterInfo = {
  vendor: 'emulated',
  device: 'emulated tensor cores',
  description: 'WGSL interpreter',
  subgroupMinSize: 32,
  subgroupMaxSize: 32,
  subgroupMatrixConfigs: [
    { componentType: 'f16', resultComponentType: 'f32', M: 16, N: 16, K: 16 },
  ],
}

function createBuffer({ size }: { size: number }): EmulatedBuffer & Record<string, unknown> {
  // Whatever was there before: kernels must not count on zeros.
  const bytes = new Uint8Array(size).fill(0xff)
  return {
    bytes,
    size,
    mapAsync: async () => undefined,
    getMappedRange: () => bytes.buffer,
    unmap: () => undefined,
    destroy: () => undefined,
  }
}

function createCommandEncoder() {
  const commands: (() => void)[] = []
  return {
    beginComputePass() {
      let pipeline: EmulatedPipeline | undefined
      let group: EmulatedBindGroup | undefined
      let dynamic = 0
      return {
        setPipeline: (value: EmulatedPipeline) => void (pipeline = value),
        setBindGroup(_: number, value: EmulatedBindGroup, [offset]: readonly number[]) {
          group = value
          dynamic = offset!
        },
        dispatchWorkgroups(x: number, y: number) {
          const { shader } = pipeline!
          const { entries } = group!
          const offset = dynamic
          if (!shader) return
          commands.push(() => {
            const buffers = entries.map(({ resource }, i) => {
              const start = (resource.offset ?? 0) + (i === entries.length - 1 ? offset : 0)
              return resource.buffer.bytes.subarray(
                start,
                start + (resource.size ?? resource.buffer.bytes.length),
              )
            })
            dispatchWgsl(shader, buffers, [x, y])
          })
        },
        end: () => undefined,
      }
    },
    copyBufferToBuffer(
      source: EmulatedBuffer,
      from: number,
      target: EmulatedBuffer,
      to: number,
      size: number,
    ) {
      commands.push(() => target.bytes.set(source.bytes.subarray(from, from + size), to))
    },
    clearBuffer(target: EmulatedBuffer, offset: number, size: number) {
      commands.push(() => void target.bytes.fill(0, offset, offset + size))
    },
    finish: () => commands,
  }
}

export interface EmulatedGpuOptions {
  /** What the driver makes of a module's text: how a test gives it a fault. Throws where it should not compile. */
  readonly driver?: (label: string, code: string) => string
}

/**
 * A device with the features and limits of a GPU with tensor cores. What shaders do wrong while they run is thrown by what
 * submits them.
 */
export function createEmulatedGpu({ driver }: EmulatedGpuOptions = {}): GPUDevice {
  const failures: Error[] = []
  const device = {
    features: new Set(['shader-f16', 'subgroups', 'chromium-experimental-subgroup-matrix']),
    limits: {
      maxStorageBufferBindingSize: 2 ** 31 - 4,
      maxBufferSize: 2 ** 32,
      maxComputeWorkgroupsPerDimension: 65535,
      maxComputeWorkgroupStorageSize: WORKGROUP_BYTES,
      maxComputeInvocationsPerWorkgroup: 1024,
      maxStorageBuffersPerShaderStage: 16,
      minStorageBufferOffsetAlignment: 32,
      minUniformBufferOffsetAlignment: 64,
    },
    lost: new Promise<never>(() => undefined),
    queue: {
      writeBuffer(
        { bytes }: EmulatedBuffer,
        offset: number,
        data: ArrayBuffer,
        from: number,
        size: number,
      ) {
        bytes.set(new Uint8Array(data, from, size), offset)
      },
      submit(lists: readonly (readonly (() => void)[])[]) {
        for (const list of lists) for (const command of list) command()
      },
      onSubmittedWorkDone: async () => undefined,
    },
    createBuffer,
    createBindGroupLayout: () => ({}),
    createPipelineLayout: () => ({}),
    createShaderModule: ({ label, code }: { label: string; code: string }) => ({ label, code }),
    createComputePipeline({
      compute: { module },
    }: {
      compute: { module: { label: string; code: string } }
    }): EmulatedPipeline {
      try {
        return { shader: compiled(driver?.(module.label, module.code) ?? module.code) }
      } catch (error) {
        failures.push(error as Error)
        return { shader: undefined }
      }
    },
    createBindGroup: (group: EmulatedBindGroup): EmulatedBindGroup => group,
    createCommandEncoder,
    pushErrorScope: () => undefined,
    popErrorScope: () => Promise.resolve(failures.pop() ?? null),
    destroy: () => undefined,
  }
  return device as unknown as GPUDevice
}
