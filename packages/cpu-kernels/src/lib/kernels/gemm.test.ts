import fc from 'fast-check'
import { expect, test } from 'vitest'
import { gemm, type Matrix } from './gemm.ts'

/** A matrix of small whole numbers, so that every order of sums gives the same bits; strided at will. */
const matrix = (
  rows: number,
  columns: number,
  seed: number,
  isTransposed: boolean,
  gap: number,
): Matrix => {
  const inner = (isTransposed ? rows : columns) + gap
  const outer = isTransposed ? columns : rows
  const data = Float32Array.from({ length: 3 + inner * outer }, (_, i) => ((i * 7 + seed) % 9) - 4)
  return {
    data,
    offset: 3,
    rowStride: isTransposed ? 1 : inner,
    columnStride: isTransposed ? inner : 1,
  }
}
const at = ({ data, offset, rowStride, columnStride }: Matrix, row: number, column: number) =>
  data[offset + row * rowStride + column * columnStride]!

test('any sizes, strides, α, bias and accumulation give the sum of products', () => {
  const extent = fc.oneof(fc.integer({ min: 1, max: 9 }), fc.constantFrom(63, 64, 65, 130))
  const depth = fc.oneof(fc.integer({ min: 0, max: 9 }), fc.constantFrom(255, 256, 257, 600))
  fc.assert(
    fc.property(
      extent,
      extent,
      depth,
      fc.array(fc.boolean(), { minLength: 5, maxLength: 5 }),
      fc.constantFrom(1, 0.5, -2),
      (M, N, K, [ta, tb, tc, accumulate, hasBias], alpha) => {
        const a = matrix(M, K, 1, ta!, 2)
        const b = matrix(N, K, 5, tb!, 0)
        const c = matrix(M, N, 3, tc!, 1)
        const bias = hasBias ? Float32Array.from({ length: N }, (_, n) => n % 5) : undefined
        const before = { ...c, data: c.data.slice() }
        gemm(M, N, K, a, b, c, { alpha, accumulate: accumulate!, bias })
        for (let m = 0; m < M; m++) {
          for (let n = 0; n < N; n++) {
            let sum = 0
            for (let k = 0; k < K; k++) sum += at(a, m, k) * at(b, n, k)
            const want = alpha * sum + (bias?.[n] ?? 0) + (accumulate ? at(before, m, n) : 0)
            if (at(c, m, n) !== want)
              expect({ m, n, got: at(c, m, n) }).toEqual({ m, n, got: want })
          }
        }
        // Nothing between the rows is touched.
        expect(c.data.slice(0, 3)).toEqual(before.data.slice(0, 3))
      },
    ),
    { numRuns: 120 },
  )
})
