import type { Device } from '@kinora/kernel-api'
import { isCodedError } from '@kinora/stage'

import type { AdapterProfile, Findings } from '../device/adapter-profile.ts'
import { assembleKernel, type Kernel } from '../program/define-kernel.ts'
import { matrixForward, matrixGradKv, matrixGradQ } from '../kernels/attention/matrix/matrix.ts'
import { convMatrixKernel } from '../kernels/conv3d/matrix/matrix.ts'
import { matmulKernel } from '../kernels/matmul/matmul.ts'
import { reduceSplitsKernel } from '../kernels/reduce-splits/reduce-splits.ts'
import { findFastestBlock } from './find-fastest-block.ts'
import { hasMatrixUnit, matrixUnits, type MatrixUnitName } from '../tuning/matrix-unit.ts'
import { tuningKey, type TuningCache } from '../tuning/tuning-cache.ts'
import { knownAnswers } from './known-answers.ts'

/** How a device finds out what its adapter can be trusted with. */
export interface PrepareOptions {
  /** Where what was found out is kept. */
  cache?: TuningCache | undefined
  /** What runs WebGPU, with its version: part of the cache's key. */
  runtime?: string | undefined
  /** Also measures which block of products is fastest, where that is not known: up to a minute, once. */
  tune?: boolean | undefined
  /** Hears of units that are not used, and why. */
  onNote?: ((message: string) => void) | undefined
}

/** Hash of the text of every kernel on subgroup matrices: a record is of no use for another text. */
function kernelVersion(): string {
  let hash = 0x811c9dc5
  const add = (text: string): void => {
    for (let i = 0; i < text.length; i++) {
      hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193) >>> 0
    }
  }
  const addAll = <V>(kernel: Kernel<V>, variants = kernel.variants()): void => {
    for (const variant of variants) add(assembleKernel(kernel, variant))
  }
  const isMatrix = ({ schedule }: { schedule: { unit: string } }): boolean =>
    schedule.unit === 'subgroup-matrix' || schedule.unit === 'thin'
  addAll(matmulKernel, matmulKernel.variants().filter(isMatrix))
  addAll(reduceSplitsKernel)
  addAll(matrixForward)
  addAll(matrixGradKv)
  addAll(matrixGradQ)
  addAll(convMatrixKernel)
  return hash.toString(16).padStart(8, '0')
}

/** What is wrong with a unit on this adapter, in words, or undefined. */
async function faultOf(
  device: Device,
  profile: AdapterProfile & Findings,
  unit: MatrixUnitName,
): Promise<string | undefined> {
  try {
    return await knownAnswers[unit](device, profile)
  } catch (error) {
    if (!isCodedError(error, 'WGPU_BAD_KERNEL') && !isCodedError(error, 'WGPU_VALIDATION'))
      throw error
    return error.message
  }
}

/**
 * Lets every unit on subgroup matrices prove itself, once for each adapter, driver, runtime and text of the kernels; the cache
 * remembers. A unit that gives a wrong answer or does not compile is refused, and the general one takes its place.
 */
export async function proveUnits(
  device: Device,
  profile: AdapterProfile & Findings,
  { cache, runtime = 'unknown', tune = false, onNote }: PrepareOptions,
): Promise<void> {
  const units = matrixUnits.filter((unit) => hasMatrixUnit(profile, unit))
  if (units.length === 0) return
  const key = tuningKey(profile, runtime, kernelVersion())
  const known = await cache?.load(key)
  const refuse = (unit: MatrixUnitName, why: string): void => {
    profile.refusedUnits.add(unit)
    onNote?.(
      `${profile.device} does not compute ${unit} on its tensor cores as it should (${why}); the general kernels do it, slower. A newer driver may help.`,
    )
  }
  for (const unit of known?.refused ?? []) refuse(unit, 'found earlier')
  if (!known) {
    for (const unit of units) {
      const fault = await faultOf(device, profile, unit)
      if (fault !== undefined) refuse(unit, fault)
    }
  }
  let block = known?.block
  if (tune && block === undefined && hasMatrixUnit(profile, 'linear')) {
    onNote?.(
      `Measuring which kernels are fastest on ${profile.device}: up to a minute, once for each driver and version.`,
    )
    const isRight = async (): Promise<boolean> =>
      (await faultOf(device, profile, 'linear')) === undefined
    block = await findFastestBlock(device, profile, isRight)
  }
  if (block !== undefined) profile.block = block
  if (!known || block !== known.block) {
    await cache?.save(key, {
      refused: units.filter((unit) => profile.refusedUnits.has(unit)),
      block,
    })
  }
}
