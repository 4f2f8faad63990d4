import { runConformance } from '@kinora/kernel-api/testing'
import { describe, it } from 'vitest'
import { openDevice } from './open-device.ts'

const f32 = await openDevice()
const f64 = await openDevice({ precision: 'f64' })

// f16 tensors are storage here (results are rounded to it), and every op takes them.
describe('f32', () => runConformance({ device: f32, describe, it, dtypes: ['f32', 'f16'] }))
describe('f64', () => runConformance({ device: f64, describe, it, dtypes: ['f32', 'f16'] }))
