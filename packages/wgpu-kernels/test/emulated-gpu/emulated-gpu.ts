// A GPUDevice that runs WGSL in an interpreter: what tests use where no software driver has subgroup matrices. Only what this
// package calls of WebGPU exists; dispatches run when they are submitted.
import { compileWgsl, type CompiledShader } from './wgsl-compiler.ts'
import { dispatchWgsl } from './wgsl-machine.ts'

interface EmulatedBuffer {
  readonly bytes: Uint8Array
}
interface EmulatedPipeline {
  readonly shader: CompiledShader
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

const shaders = new Map<string, CompiledShader>()

function compiled(code: string): CompiledShader {
  let shader = shaders.get(code)
  if (!shader) shaders.set(code, (shader = compileWgsl(code)))
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

/** A device with the features and limits of a GPU with tensor cores. Errors in shaders are thrown by what submits them. */
export function createEmulatedGpu(): GPUDevice {
  const device = {
    features: new Set(['shader-f16', 'subgroups', 'chromium-experimental-subgroup-matrix']),
    limits: {
      maxStorageBufferBindingSize: 2 ** 31 - 4,
      maxBufferSize: 2 ** 32,
      maxComputeWorkgroupsPerDimension: 65535,
      maxComputeWorkgroupStorageSize: 49152,
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
    createShaderModule: ({ code }: { code: string }) => ({ code }),
    createComputePipeline: ({
      compute,
    }: {
      compute: { module: { code: string } }
    }): EmulatedPipeline => ({
      shader: compiled(compute.module.code),
    }),
    createBindGroup: (group: EmulatedBindGroup): EmulatedBindGroup => group,
    createCommandEncoder,
    pushErrorScope: () => undefined,
    popErrorScope: async () => null,
    destroy: () => undefined,
  }
  return device as unknown as GPUDevice
}
