import { beforeAll, describe, expect, it } from 'vitest'
import { create } from 'webgpu'

import { allKernels } from './all-kernels.ts'

// Dawn's null backend checks WGSL with every feature on, without an adapter. It has no room for large workgroups, so
// pipelines are not made.
const gpu = create(['backend=null', 'enable-dawn-features=allow_unsafe_apis'])
let device: GPUDevice

beforeAll(async () => {
  const adapter = (await gpu.requestAdapter())!
  device = await adapter.requestDevice({
    requiredFeatures: [...adapter.features] as GPUFeatureName[],
  })
})

/** Errors and warnings of a module, one a line. */
async function messages(code: string): Promise<string> {
  device.pushErrorScope('validation')
  const info = await device.createShaderModule({ code }).getCompilationInfo()
  await device.popErrorScope()
  return info.messages.map(({ lineNum, message }) => `${lineNum}: ${message}`).join('\n')
}

describe('every variant of every kernel compiles', () => {
  for (const { name, variants } of allKernels()) {
    it(`${name}, ${variants.length} variants`, async () => {
      const failed: string[] = []
      for (const variant of variants) {
        const found = await messages(variant.code())
        if (found !== '') failed.push(`${variant.name}\n${found}`)
      }
      expect(failed.slice(0, 3)).toEqual([])
    })
  }
})

it('finds an error, with its line', async () => {
  expect(await messages('fn main() {\n  let x: f32 = 1u;\n}')).toMatch(/^2: /)
})
