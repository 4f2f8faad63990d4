import { ShaderStage } from '../device/gpu-constants.ts'
import { wgpuErrors } from '../errors.ts'
import { assembleKernel, type BindingDecl, type Kernel, type UniformType } from './define-kernel.ts'

/** A compiled variant. */
export interface Program {
  readonly id: number
  readonly kernel: string
  readonly pipeline: GPUComputePipeline
  readonly layout: GPUBindGroupLayout
  readonly bindings: readonly (readonly [name: string, decl: BindingDecl])[]
  readonly uniformNames: readonly string[]
  readonly uniformTypes: readonly UniformType[]
  /** Bytes of the uniform struct, rounded up to 16. */
  readonly uniformBytes: number
}

/** Name and variant, as errors and the cache's key spell them. */
export function programName<Variant>(kernel: Kernel<Variant>, variant: Variant): string {
  return `${kernel.name} ${JSON.stringify(variant)}`
}

/** Compiles each (kernel, variant) once. */
export class ProgramCache {
  readonly #device: GPUDevice
  readonly #watch: (check: Promise<Error | undefined>) => void
  readonly #programs = new Map<string, Program>()

  /** @param watch called with a check that resolves once it is known whether a pipeline compiled */
  constructor(device: GPUDevice, watch: (check: Promise<Error | undefined>) => void) {
    this.#device = device
    this.#watch = watch
  }

  get<Variant>(kernel: Kernel<Variant>, variant: Variant): Program {
    const key = programName(kernel, variant)
    let program = this.#programs.get(key)
    if (!program) this.#programs.set(key, (program = this.#compile(kernel, variant, key)))
    return program
  }

  #compile<Variant>(kernel: Kernel<Variant>, variant: Variant, label: string): Program {
    const device = this.#device
    const bindings = Object.entries(kernel.bindings(variant))
    const uniforms = [...Object.entries(kernel.uniforms), ['grid_x', 'u32'] as const]
    const uniformBytes = Math.ceil((uniforms.length * 4) / 16) * 16
    device.pushErrorScope('validation')
    const layout = device.createBindGroupLayout({
      label,
      entries: [
        ...bindings.map(([, decl], binding) => ({
          binding,
          visibility: ShaderStage.COMPUTE,
          buffer: {
            type: (decl.access === 'read'
              ? 'read-only-storage'
              : 'storage') satisfies GPUBufferBindingType as GPUBufferBindingType,
          },
        })),
        {
          binding: bindings.length,
          visibility: ShaderStage.COMPUTE,
          buffer: { type: 'uniform', hasDynamicOffset: true, minBindingSize: uniformBytes },
        },
      ],
    })
    const pipeline = device.createComputePipeline({
      label,
      layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
      compute: {
        module: device.createShaderModule({ label, code: assembleKernel(kernel, variant) }),
        entryPoint: 'main',
      },
    })
    this.#watch(
      device
        .popErrorScope()
        .then((error) => (error ? wgpuErrors.BAD_KERNEL(label, error.message) : undefined)),
    )
    return {
      id: this.#programs.size,
      kernel: kernel.name,
      pipeline,
      layout,
      bindings,
      uniformNames: uniforms.map(([name]) => name),
      uniformTypes: uniforms.map(([, type]) => type),
      uniformBytes,
    }
  }
}
