import { conformanceCases, type ConformanceCase } from '@kinora/kernel-api/testing'
import { isCodedError } from '@kinora/stage'
import { afterAll, describe, expect, it } from 'vitest'

import { openTestDevice } from '../../test/test-adapter.ts'
import type { ProfileOverrides } from './device/adapter-profile.ts'

// The adapter at hand, treated as another: rows of the conformance suite run on paths that it would not take by itself.

const rows = conformanceCases(['f32', 'f16'])

/** Kernels with barriers take a software adapter up to ten seconds of one core to compile. */
const COMPILE_MS = 240_000

/** The rows of some ops whose names match. */
function pick(ops: RegExp, names: RegExp): ConformanceCase[] {
  return rows.filter(({ op, name }) => ops.test(op) && names.test(name))
}

function declare(title: string, overrides: ProfileOverrides, chosen: readonly ConformanceCase[]) {
  describe(title, async () => {
    const device = await openTestDevice({ overrides })
    afterAll(() => device?.destroy())
    for (const row of chosen) {
      it.skipIf(!device)(
        `${row.op}, ${row.name} ≤ ${row.bound.max}`,
        () => row.run(device!),
        COMPILE_MS,
      )
    }
  })
}

// Blocks in workgroup memory, fused attention, rows shared by lanes: few rows, for barriers compile slowly on a processor.
declare('on a GPU without matrix units', { adapterClass: 'gpu', subgroupMatrix: [] }, [
  ...pick(/^linear/, /^rows \[129\], K 65, O 129, bias true, adapters \[16\], dtype f32$/),
  ...pick(/^linear/, /^rows \[1,70\], K 320, O 320, .*dtype f16$/),
  ...pick(/^attention/, /^B 1, N 20, M 24, H 2, D 32, .*dtype f32$/),
  ...pick(/^conv3d/, /^x \[(1,4,9,11,33|1,3,8,6,36)\], .*dtype f32$/),
  ...pick(/^layerNorm/, /dtype f32/).slice(-1),
  ...pick(/^adamw8bit/, /^shapes \[\[(256|33)/),
])

// 16-bit tensors are only stored: kernels see f32 copies. Without subgroups, tiles come straight from memory.
declare('on an adapter without f16 and subgroups', { f16: false, subgroups: false }, [
  ...pick(/^linear/, /^rows \[(7|3)\], .*dtype f16/),
  ...pick(/^linear/, /^rows \[129\], K 65, .*dtype f32$/),
  ...pick(/^linear, packed/, /R 33/),
  ...pick(/^attention/, /^B 2, N 13, .*dtype f16$/),
  ...pick(/^conv3d/, /^x \[1,2,5,7,12\], .*dtype f16$/),
  ...pick(/^(permute|slice|concat|cast|embedding|rope|add|gelu)$/, /f16/),
])

describe('on an adapter with small bindings and grids', async () => {
  const limits = { maxBindingBytes: 8192, maxWorkgroupsPerDimension: 3 }
  const device = await openTestDevice({ overrides: { limits } })
  afterAll(() => device?.destroy())
  const refused = new Map<string, number>()
  const passed = new Map<string, number>()
  const count = (map: Map<string, number>, op: string) => map.set(op, (map.get(op) ?? 0) + 1)
  const wide = rows.filter(({ name }) => !name.includes('f16'))

  it.skipIf(!device)('every row passes in parts, or is refused with a code', async () => {
    for (const row of wide) {
      try {
        await row.run(device!)
        count(passed, row.op)
      } catch (error) {
        if (
          !isCodedError(error, 'WGPU_BINDING_TOO_LARGE') &&
          !isCodedError(error, 'WGPU_DISPATCH_TOO_LARGE')
        ) {
          throw new Error(`${row.op}, ${row.name}`, { cause: error })
        }
        count(refused, row.op)
      }
    }
  })

  // Single rows, biases, tables and what an adapter adds have no parts; everything else is cut.
  it.skipIf(!device)(
    'few rows are refused, and none of an op that works element by element',
    () => {
      const sum = (map: Map<string, number>): number => [...map.values()].reduce((a, b) => a + b, 0)
      expect(sum(refused) / (sum(passed) + sum(refused))).toBeLessThan(0.15)
      for (const op of [
        'add',
        'mul',
        'gelu',
        'permute',
        'slice',
        'concat',
        'cast',
        'loss',
        'adamw',
        'adamw8bit',
      ]) {
        expect(refused.get(op) ?? 0, op).toBe(0)
      }
    },
  )
})
