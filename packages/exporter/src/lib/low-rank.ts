import { loraScale, type LoraModule } from '@kinora/lora-files'
import { Matrix, SingularValueDecomposition } from 'ml-matrix'
import { exporterErrors } from './errors.ts'

// Axes: O outFeatures, I inFeatures, R rank.

/** A module and the strength it is added with. */
export interface WeightedModule {
  module: LoraModule
  weight: number
}

/**
 * The sum Σ w · (alpha/r) · B A as one module, exactly: the A are stacked along the rank, and the B, times weight and scale,
 * are set side by side. The rank is the sum of the ranks, and the scale 1.
 */
export function concatenate(name: string, parts: readonly WeightedModule[]): LoraModule {
  const [first] = parts
  if (first === undefined) throw new Error('Nothing to concatenate.')
  const { inFeatures, outFeatures } = first.module
  for (const { module } of parts) {
    if (module.inFeatures !== inFeatures || module.outFeatures !== outFeatures) {
      throw exporterErrors.SHAPES_DIFFER(
        name,
        `${inFeatures} → ${outFeatures}`,
        `${module.inFeatures} → ${module.outFeatures}`,
      )
    }
  }
  const rank = parts.reduce((sum, { module }) => sum + module.rank, 0)
  const a = new Float32Array(rank * inFeatures)
  const b = new Float32Array(outFeatures * rank)
  let done = 0
  for (const { module, weight } of parts) {
    a.set(module.a, done * inFeatures)
    const factor = weight * loraScale(module)
    for (let o = 0; o < outFeatures; o++) {
      for (let r = 0; r < module.rank; r++) {
        b[o * rank + done + r] = module.b[o * module.rank + r]! * factor
      }
    }
    done += module.rank
  }
  return { a, b, rank, inFeatures, outFeatures }
}

/** A module of a lower rank, and how much of the old one is in it. */
export interface ReducedModule {
  module: LoraModule
  /** Share of the squared Frobenius norm of B A that is kept, 0 to 1. */
  kept: number
}

/**
 * The nearest module of a lower rank, in the Frobenius norm of the product (Eckart–Young): both factors are made orthonormal
 * (B = Q_b R_b, Aᵀ = Q_a R_a), the R×R core R_b R_aᵀ is decomposed, and its largest singular values are kept, their roots in
 * both factors. In f64. A rank that is no lower gives the module back as it is.
 */
export function reduceRank(module: LoraModule, rank: number): ReducedModule {
  const { rank: R, inFeatures: I, outFeatures: O } = module
  if (rank >= R) return { module, kept: 1 }
  const scale = loraScale(module)
  const columnsOfB = Array.from({ length: R }, (_, r) =>
    Float64Array.from({ length: O }, (__, o) => module.b[o * R + r]!),
  )
  const columnsOfA = Array.from({ length: R }, (_, r) =>
    Float64Array.from(module.a.subarray(r * I, (r + 1) * I)),
  )
  const triangleOfB = orthonormalise(columnsOfB)
  const triangleOfA = orthonormalise(columnsOfA)
  const core = Matrix.zeros(R, R)
  for (let p = 0; p < R; p++) {
    for (let q = 0; q < R; q++) {
      let sum = 0
      // Both are upper triangular.
      for (let k = Math.max(p, q); k < R; k++) sum += triangleOfB[p]![k]! * triangleOfA[q]![k]!
      core.set(p, q, sum * scale)
    }
  }
  const svd = new SingularValueDecomposition(core, { autoTranspose: false })
  const values = svd.diagonal
  const total = values.reduce((sum, value) => sum + value * value, 0)
  const keptSquares = values.slice(0, rank).reduce((sum, value) => sum + value * value, 0)

  const a = new Float32Array(rank * I)
  const b = new Float32Array(O * rank)
  for (let k = 0; k < rank; k++) {
    const root = Math.sqrt(values[k]!)
    const rowOfA = new Float64Array(I)
    const columnOfB = new Float64Array(O)
    for (let r = 0; r < R; r++) {
      addScaled(rowOfA, columnsOfA[r]!, svd.rightSingularVectors.get(r, k) * root)
      addScaled(columnOfB, columnsOfB[r]!, svd.leftSingularVectors.get(r, k) * root)
    }
    a.set(rowOfA, k * I)
    for (let o = 0; o < O; o++) b[o * rank + k] = columnOfB[o]!
  }
  return {
    module: { a, b, rank, inFeatures: I, outFeatures: O },
    kept: total === 0 ? 1 : keptSquares / total,
  }
}

/**
 * Makes columns orthonormal in place and returns the upper triangle T with old_k = Σ_p new_p · T[p][k]. Gram–Schmidt, each
 * column twice, which is as good as Householder's method. A column that the earlier ones span becomes zero.
 */
function orthonormalise(columns: Float64Array[]): Float64Array[] {
  const size = columns.length
  const triangle = Array.from({ length: size }, () => new Float64Array(size))
  for (let k = 0; k < size; k++) {
    const column = columns[k]!
    const before = Math.sqrt(dot(column, column))
    for (let pass = 0; pass < 2; pass++) {
      for (let p = 0; p < k; p++) {
        const overlap = dot(columns[p]!, column)
        triangle[p]![k]! += overlap
        addScaled(column, columns[p]!, -overlap)
      }
    }
    const norm = Math.sqrt(dot(column, column))
    // What is left of a column inside the span of the others is rounding.
    if (norm <= before * 1e-13) column.fill(0)
    else {
      triangle[k]![k] = norm
      for (let i = 0; i < column.length; i++) column[i]! /= norm
    }
  }
  return triangle
}

function dot(p: Float64Array, q: Float64Array): number {
  let sum = 0
  for (let i = 0; i < p.length; i++) sum += p[i]! * q[i]!
  return sum
}

function addScaled(target: Float64Array, source: Float64Array, factor: number): void {
  if (factor === 0) return
  for (let i = 0; i < target.length; i++) target[i]! += source[i]! * factor
}
