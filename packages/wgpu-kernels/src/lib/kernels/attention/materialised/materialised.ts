// Axes: B batch, N queries, M keys, H heads, D head channels.
import type { Runner } from '../../../program/runner.ts'
import type { WgpuTensor } from '../../../tensor/wgpu-tensor.ts'
import { addInto } from '../../add-into/add-into.ts'
import { castInto } from '../../cast/cast.ts'
import { batchedMatmul } from '../../matmul/matmul.ts'
import { softmaxBlock } from '../../softmax/softmax.ts'
import type { AttentionCall, AttentionUnit } from '../attention-call.ts'

/** Bytes of scores held at once: what a processor's cache can use, and what fills a GPU. */
const SCORE_BYTES = { software: 32 * 2 ** 20, gpu: 256 * 2 ** 20 } as const

/** A range of queries of some batch items whose scores fit. */
interface QueryBlock {
  readonly firstBatch: number
  readonly batches: number
  readonly firstRow: number
  readonly rows: number
}

function queryBlocks(run: Runner, { B, N, M, H }: AttentionCall): QueryBlock[] {
  const budget = Math.min(SCORE_BYTES[run.profile.adapterClass], run.profile.limits.maxBindingBytes)
  const perRow = H * M * 4
  if (B * N * perRow <= budget) return [{ firstBatch: 0, batches: B, firstRow: 0, rows: N }]
  const rows = Math.max(1, Math.min(N, Math.floor(budget / perRow)))
  const blocks: QueryBlock[] = []
  for (let firstBatch = 0; firstBatch < B; firstBatch++) {
    for (let firstRow = 0; firstRow < N; firstRow += rows) {
      blocks.push({ firstBatch, batches: 1, firstRow, rows: Math.min(rows, N - firstRow) })
    }
  }
  return blocks
}

/** Strides of a [B, tokens, H, D] tensor and of a block of scores, and where a block starts in each. */
function geometry({ N, M, H, D }: AttentionCall, { firstBatch, firstRow, rows }: QueryBlock) {
  return {
    ofTokens: (tokens: number) => ({ ld: H * D, batch: tokens * H * D, head: D }),
    ofScores: { ld: M, batch: H * rows * M, head: rows * M },
    firstQuery: (firstBatch * N + firstRow) * H * D,
    firstKey: firstBatch * M * H * D,
  }
}

/**
 * Attention by its definition, from products of matrices and a softmax over rows, a block of queries at a time. On a software
 * adapter, which has no fast workgroup memory, it is the fastest; anywhere it is the oracle of the fused kernels.
 */
export function materialised(run: Runner): AttentionUnit {
  /** scores = scale · x yᵀ for a block of queries; x and y are [B, tokens, H, D]. */
  function products(
    call: AttentionCall,
    block: QueryBlock,
    x: WgpuTensor,
    y: WgpuTensor,
    scale: number,
  ): WgpuTensor {
    const { N, M, H, D } = call
    const { ofTokens, ofScores, firstQuery, firstKey } = geometry(call, block)
    const queries = ofTokens(N)
    const keys = ofTokens(M)
    const scores = run.alloc([block.batches, H, block.rows, M], 'f32')
    batchedMatmul(run, {
      layout: 'nt',
      M: block.rows,
      N: M,
      K: D,
      batches: block.batches,
      heads: H,
      a: x,
      b: y,
      y: scores,
      strides: {
        lda: queries.ld,
        aBatch: queries.batch,
        aHead: queries.head,
        ldb: keys.ld,
        bBatch: keys.batch,
        bHead: keys.head,
        ldy: ofScores.ld,
        yBatch: ofScores.batch,
        yHead: ofScores.head,
      },
      aFirst: firstQuery,
      bFirst: firstKey,
      scale,
    })
    return scores
  }

  /** result = weights · y: a row for each query of the block. */
  function overKeys(
    call: AttentionCall,
    block: QueryBlock,
    weights: WgpuTensor,
    y: WgpuTensor,
    result: WgpuTensor,
  ): void {
    const { N, M, H, D } = call
    const { ofTokens, ofScores, firstQuery, firstKey } = geometry(call, block)
    const queries = ofTokens(N)
    const keys = ofTokens(M)
    batchedMatmul(run, {
      layout: 'nn',
      M: block.rows,
      N: D,
      K: M,
      batches: block.batches,
      heads: H,
      a: weights,
      b: y,
      y: result,
      strides: {
        lda: ofScores.ld,
        aBatch: ofScores.batch,
        aHead: ofScores.head,
        ldb: keys.ld,
        bBatch: keys.batch,
        bHead: keys.head,
        ldy: queries.ld,
        yBatch: queries.batch,
        yHead: queries.head,
      },
      bFirst: firstKey,
      yFirst: firstQuery,
    })
  }

  /** result = weightsᵀ · x: a row for each key. */
  function overQueries(
    call: AttentionCall,
    block: QueryBlock,
    weights: WgpuTensor,
    x: WgpuTensor,
    result: WgpuTensor,
  ): void {
    const { N, M, H, D } = call
    const { ofTokens, ofScores, firstQuery, firstKey } = geometry(call, block)
    const queries = ofTokens(N)
    const keys = ofTokens(M)
    batchedMatmul(run, {
      layout: 'tn',
      M,
      N: D,
      K: block.rows,
      batches: block.batches,
      heads: H,
      a: weights,
      b: x,
      y: result,
      strides: {
        lda: ofScores.ld,
        aBatch: ofScores.batch,
        aHead: ofScores.head,
        ldb: queries.ld,
        bBatch: queries.batch,
        bHead: queries.head,
        ldy: keys.ld,
        yBatch: keys.batch,
        yHead: keys.head,
      },
      bFirst: firstQuery,
      yFirst: firstKey,
    })
  }

  return {
    forward(call, out, lse) {
      for (const block of queryBlocks(run, call)) {
        run.scope(() => {
          const scores = products(call, block, call.q, call.k, call.scale)
          softmaxBlock(run, { ...call, ...block, scores, lse })
          overKeys(call, block, scores, call.v, out)
        })
      }
    },

    backward(call, dq, dk, dv) {
      const blocks = queryBlocks(run, call)
      const gradients = (block: QueryBlock, toK: WgpuTensor, toV: WgpuTensor): void => {
        const scores = products(call, block, call.q, call.k, call.scale)
        const dscores = products(call, block, call.dout, call.v, 1)
        softmaxBlock(run, { ...call, ...block, scores, dscores })
        overKeys(call, block, dscores, call.k, dq)
        overQueries(call, block, dscores, call.q, toK)
        overQueries(call, block, scores, call.dout, toV)
      }
      if (blocks.length === 1) {
        run.scope(() => gradients(blocks[0]!, dk, dv))
        return
      }
      // Each block gives a share of every key's gradient; the shares are added in order, in f32.
      run.scope(() => {
        const sums = [dk, dv].map((gradient) => {
          const sum = run.alloc(gradient.shape, 'f32')
          run.clear(sum)
          return sum
        })
        for (const block of blocks) {
          run.scope(() => {
            const shares = [dk, dv].map((gradient) => {
              const share = run.alloc(gradient.shape, 'f32')
              run.clear(share)
              return share
            })
            gradients(block, shares[0]!, shares[1]!)
            sums.forEach((sum, i) => addInto(run, sum, shares[i]!))
          })
        }
        castInto(run, sums[0]!, dk)
        castInto(run, sums[1]!, dv)
      })
    },
  }
}
