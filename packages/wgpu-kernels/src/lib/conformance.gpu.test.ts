import { runConformance } from '@kinora/kernel-api/testing'
import { afterAll, describe, it } from 'vitest'

import { openTestDevice } from '../../test/test-adapter.ts'

const device = await openTestDevice()

describe.skipIf(!device)('wgpu-kernels passes the conformance suite', () => {
  if (!device) return
  runConformance({ device, describe, it })
  afterAll(() => device.destroy())
})
