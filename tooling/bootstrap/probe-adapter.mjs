// Prints, as one line of JSON, the adapter that Dawn opens in this environment once it has really computed something, or why
// there is none. A process of its own, because a Vulkan driver is chosen once a process and a broken one may take it down.

import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'

const require = createRequire(new URL('../../packages/wgpu-kernels/package.json', import.meta.url))

async function probe() {
  const { create, globals } = await import(pathToFileURL(require.resolve('webgpu')).href)
  Object.assign(globalThis, globals)
  const gpu = create(['enable-dawn-features=vulkan_enable_f16_on_nvidia'])
  const adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' })
  if (!adapter) return { problem: 'Dawn found no adapter' }
  const { device: name, description, vendor, architecture, isFallbackAdapter } = adapter.info
  const f16 = adapter.features.has('shader-f16')
  const device = await adapter.requestDevice()
  const answer = await compute(device)
  device.destroy()
  if (answer !== 42) return { problem: `${name} computed ${answer} in place of 42` }
  const said = `${name} ${description} ${vendor} ${architecture}`
  const software =
    isFallbackAdapter || /llvmpipe|lavapipe|swiftshader|softpipe|basic render/i.test(said)
  return { name: name || description, driver: description, software, f16 }
}

async function compute(device) {
  const storage = device.createBuffer({
    size: 4,
    usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC,
  })
  const readable = device.createBuffer({
    size: 4,
    usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
  })
  const pipeline = device.createComputePipeline({
    layout: 'auto',
    compute: {
      module: device.createShaderModule({
        code: '@group(0) @binding(0) var<storage, read_write> y: u32; @compute @workgroup_size(1) fn main() { y = 42u; }',
      }),
    },
  })
  const encoder = device.createCommandEncoder()
  const pass = encoder.beginComputePass()
  pass.setPipeline(pipeline)
  pass.setBindGroup(
    0,
    device.createBindGroup({
      layout: pipeline.getBindGroupLayout(0),
      entries: [{ binding: 0, resource: { buffer: storage } }],
    }),
  )
  pass.dispatchWorkgroups(1)
  pass.end()
  encoder.copyBufferToBuffer(storage, 0, readable, 0, 4)
  device.queue.submit([encoder.finish()])
  await readable.mapAsync(GPUMapMode.READ)
  const [value] = new Uint32Array(readable.getMappedRange())
  return value
}

const answer = await probe().catch((error) => ({ problem: error.message ?? String(error) }))
process.stdout.write(`${JSON.stringify(answer)}\n`, () => process.exit(0))
