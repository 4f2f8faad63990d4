import { expect, it } from 'vitest'

import { isSoftwareAdapter } from './adapter-profile.ts'

it.each([
  [{ device: 'llvmpipe (LLVM 15.0.6, 256 bits)' }, true],
  [{ device: 'SwiftShader Device (Subzero)' }, true],
  [{ description: 'Microsoft Basic Render Driver' }, true],
  [{ device: 'some new driver', isFallbackAdapter: true }, true],
  [{ device: 'NVIDIA H200', vendor: 'nvidia', isFallbackAdapter: false }, false],
  [{ vendor: 'apple', architecture: 'metal-3' }, false],
])('%j is a software adapter: %s', (info, software) => {
  expect(isSoftwareAdapter(info)).toBe(software)
})
