import { assembleKernel, type Kernel } from '../program/define-kernel.ts'
import { programName } from '../program/program-cache.ts'
import { adamwKernel } from './adamw/adamw.ts'
import { adamw8bitKernel } from './adamw8bit/adamw8bit.ts'
import { addIntoKernel } from './add-into/add-into.ts'
import { flashKernel } from './attention/flash/flash.ts'
import { matrixForward, matrixGradKv, matrixGradQ } from './attention/matrix/matrix.ts'
import { binary } from './binary/binary.ts'
import { cast } from './cast/cast.ts'
import { conv3dKernel } from './conv3d/conv3d.ts'
import { convMatrixKernel, convWeightKernel } from './conv3d/matrix/matrix.ts'
import { dequantizeKernel } from './dequantize/dequantize.ts'
import { embeddingKernel } from './embedding/embedding.ts'
import { gatedAddKernel } from './gated-add/gated-add.ts'
import { lossGradKernel, lossKernel } from './loss/loss.ts'
import { matmulKernel } from './matmul/matmul.ts'
import { norm } from './norm/norm.ts'
import { pointwise } from './pointwise/pointwise.ts'
import { quantizeFloat8Kernel, quantizeUint4Kernel } from './quantize/quantize.ts'
import { reduceSplitsKernel } from './reduce-splits/reduce-splits.ts'
import { ropeKernel } from './rope/rope.ts'
import { rowDotKernel } from './row-dot/row-dot.ts'
import { rowSumKernel } from './row-sum/row-sum.ts'
import { softmaxKernel } from './softmax/softmax.ts'
import { splice } from './splice/splice.ts'
import { stridedCopy } from './strided-copy/strided-copy.ts'
import { sumSquaresKernel } from './sum-squares/sum-squares.ts'

/** A kernel with its type forgotten: what its variants are called, and their WGSL. */
export interface KernelSources {
  readonly name: string
  readonly variants: readonly { readonly name: string; readonly code: () => string }[]
}

function sources<Variant>(kernel: Kernel<Variant>): KernelSources {
  return {
    name: kernel.name,
    variants: kernel.variants().map((variant) => ({
      name: programName(kernel, variant),
      code: () => assembleKernel(kernel, variant),
    })),
  }
}

/** Every kernel there is: a new one is added here, and the compile test builds its variants. */
export function allKernels(): readonly KernelSources[] {
  return [
    sources(adamwKernel),
    sources(adamw8bitKernel),
    sources(addIntoKernel),
    sources(binary),
    sources(cast),
    sources(conv3dKernel),
    sources(convMatrixKernel),
    sources(convWeightKernel),
    sources(dequantizeKernel),
    sources(embeddingKernel),
    sources(flashKernel),
    sources(gatedAddKernel),
    sources(lossGradKernel),
    sources(lossKernel),
    sources(matmulKernel),
    sources(matrixForward),
    sources(matrixGradKv),
    sources(matrixGradQ),
    sources(norm),
    sources(pointwise),
    sources(quantizeFloat8Kernel),
    sources(quantizeUint4Kernel),
    sources(reduceSplitsKernel),
    sources(ropeKernel),
    sources(rowDotKernel),
    sources(rowSumKernel),
    sources(softmaxKernel),
    sources(splice),
    sources(stridedCopy),
    sources(sumSquaresKernel),
  ]
}
