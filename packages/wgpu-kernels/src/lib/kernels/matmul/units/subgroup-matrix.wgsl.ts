// Products on tensor cores. What they cost on an H100, measured (docs/log.md):
// - A load of 16 bytes a lane costs by the cache lines that eight neighbouring lanes touch: whole lines of 128 bytes cost half
//   of what halves of lines cost. So a step takes 64 of a row of `a` at once, and `b` beside `nt` lies in blocks of 32 of K.
// - Loads, stores to workgroup memory and fragments share one path, so tiles lie there with hardly any padding, and are
//   written in the order of the lanes.
import type { KernelText } from '../../../program/define-kernel.ts'
import {
  lines,
  loadMatrix,
  multiplyAccumulate,
  packHalves,
  storeMatrix,
  subgroupMatrixDirectives,
  zeroMatrix,
} from '../../../wgsl/subgroup-matrix.ts'
import type { MatmulVariant, SubgroupMatrixSchedule } from '../matmul-variant.ts'

const SUBGROUP = 32
/** Rows and columns of a subgroup's tile, in fragments of 16. */
const FRAGMENTS = 4
const TILE = 16 * FRAGMENTS
/** Elements of K that a step multiplies; a step of `a` may hold two of them. */
const STEP = 32
const STEP_VECTORS = STEP / 8

/** Rows of blocks that are computed column after column, before the next rows. */
export const ROW_GROUP = 1024

/** K in one block of a weight for `nt`: [K / 32, N, 32], see `blocked-weight.ts`. */
export const WEIGHT_BLOCK = STEP

/**
 * A tile whose rows are `vectors` of eight f16: fragment f of a subgroup holds every fourth row from row f on, so that its rows
 * lie at an odd distance, which has no bank conflicts, with one vector of padding for four rows.
 */
interface InterleavedTile {
  readonly vectors: number
  /** Vectors between the rows of a fragment. */
  readonly pitch: number
}
const interleaved = (vectors: number): InterleavedTile => ({
  vectors,
  pitch: FRAGMENTS * vectors + 1,
})
/** Vectors of a tile of `rows`. */
const sizeOf = ({ pitch }: InterleavedTile, rows: number): number => (rows / FRAGMENTS) * pitch
/** Where vector `index` of a tile lies, counted row by row. */
const placeOf = ({ vectors }: InterleavedTile, index: string): string =>
  `${index} + ${index} / ${FRAGMENTS * vectors}u`

/** A tile of `b` beside `nn`: rows of K, as long as the block is wide, one vector apart. */
const plainRow = (blockN: number): number => blockN / 8 + 1

/**
 * Workgroup blocks of blockM × blockN, a subgroup for each 64 × 64 of them. A step: store the block that waits in
 * registers, barrier, fetch what takes its place there, multiply, barrier. With 64 of `a` at once a step of it is two of `b`, and
 * everything is fetched that long ahead: drivers wait for all loads together before the first store, so none may be young
 * then. The first fragments of the second half are loaded before its barrier, since they do not wait for b. Sizes and strides
 * are literals: with uniforms the same text runs at 60 % of the speed. The last block of rows or columns is moved back to end
 * with them; what it shares with its neighbour is computed twice and stored once.
 *
 * The side branch is one more step along K, its operands rounded to f16 on the way into workgroup memory. Of several parts of
 * the contraction the first takes it.
 */
export function subgroupMatrixText(variant: MatmulVariant): KernelText {
  const { layout, bias, sideWidth, y } = variant
  const schedule = variant.schedule as SubgroupMatrixSchedule
  const { blockM, blockN, depthA, parts, K, lda, ldb } = schedule
  const isBlocked = layout === 'nt'
  const subgroupsN = blockN / TILE
  const size = subgroupMatrixSize(schedule)
  const a = interleaved(depthA / 8)
  const b = interleaved(STEP_VECTORS)
  const rowB = plainRow(blockN)
  const firstB = sizeOf(a, blockM)
  const strip = TILE / 4 + 1

  const loadsA = (blockM * a.vectors) / size
  const loadsB = (blockN * STEP_VECTORS) / size
  const vectorsN = blockN / 8
  const subSteps = depthA / STEP
  const steps = K / depthA
  const stepB = isBlocked ? ldb * STEP_VECTORS : (STEP * ldb) / 8
  const addressB = (i: number): number =>
    isBlocked ? i * size : ((i * size) / vectorsN) * (ldb / 8)
  /** Where this block's columns are in b and side_b; y has only those of its own. */
  const weightColumn = parts > 1 ? 'u.n_first + n0' : 'n0'
  const partOf = (vectors: number): string => (parts > 1 ? ` + part * ${vectors}u` : '')
  /** The share of a's vectors that is fetched beside a sub step. */
  const fetchA = (subStep: number): string =>
    lines(loadsA / subSteps, (n) => {
      const i = (subStep * loadsA) / subSteps + n
      return `    a_next${i} = a[a_at + ${(i * size * lda) / depthA}u + next * ${a.vectors}u];`
    })
  const fetchB = (subStep: number): string =>
    lines(
      loadsB,
      (i) =>
        `    b_next${subStep}_${i} = b[b_at + ${subStep * stepB + addressB(i)}u + next * ${subSteps * stepB}u];`,
    )
  const storeA = lines(
    loadsA,
    (i) => `    tiles[put_a + ${i * (size + size / (FRAGMENTS * a.vectors))}u] = a_next${i};`,
  )
  const putB = (i: number): number =>
    isBlocked ? i * (size + size / (FRAGMENTS * b.vectors)) : (i * size * rowB) / vectorsN
  const storeB = (subStep: number): string =>
    lines(loadsB, (i) => `    tiles[put_b + ${putB(i)}u] = b_next${subStep}_${i};`)

  const fragmentA = (i: number, column: number): string =>
    loadMatrix('left', 'row_major', 'tiles', `fragment_a + ${i * a.vectors + column}u`, a.pitch)
  /** Multiplies a step of `b` with the same of `a`. In the second half the first fragments of `a` are there already. */
  const multiply = (subStep: number): string =>
    lines(STEP / 16, (k) => {
      const isAhead = subStep > 0 && k === 0
      const fragmentB = (j: number): string =>
        isBlocked
          ? loadMatrix(
              'right',
              'col_major',
              'tiles',
              `fragment_b + ${j * b.vectors + k * 2}u`,
              b.pitch,
            )
          : loadMatrix(
              'right',
              'row_major',
              'tiles',
              `fragment_b + ${k * 16 * rowB + j * 2}u`,
              rowB,
            )
      return `    {
${lines(FRAGMENTS, (i) => `      let a${i} = ${isAhead ? `ahead${i}` : fragmentA(i, subStep * STEP_VECTORS + k * 2)};`)}
${lines(
  FRAGMENTS,
  (j) => `      {
        let b0 = ${fragmentB(j)};
${lines(FRAGMENTS, (i) => `        ${multiplyAccumulate(`a${i}`, 'b0', `c${i}_${j}`)}`)}
      }`,
)}
    }`
    })

  // What a thread takes of the side branch is loaded at once, whole steps beyond the rank too, which count as zero.
  const loadsSideA = (blockM * STEP_VECTORS) / size
  const rowOf = (i: number, vectors: number): string =>
    `local / ${vectors}u + ${(i * size) / vectors}u`
  const placeA = (i: number): string =>
    `(${rowOf(i, STEP_VECTORS)}) * ${a.vectors}u + local % ${STEP_VECTORS}u`
  const sideAddress = (i: number): string =>
    isBlocked
      ? `((${weightColumn} + ${rowOf(i, STEP_VECTORS)}) * u.side_ldb + min(k, u.rank - 8u)) / 4u`
      : `(min(r0 + ${rowOf(i, vectorsN)}, u.rank - 1u) * u.side_ldb + ${weightColumn}) / 4u + local % ${vectorsN}u * 2u`
  const isSideUsed = (i: number): string =>
    isBlocked ? 'k < u.rank' : `r0 + ${rowOf(i, vectorsN)} < u.rank`
  const side = /* wgsl */ `
  let rank = ${parts > 1 ? 'select(0u, u.rank, part == 0u)' : 'u.rank'};
  for (var r0 = 0u; r0 < rank; r0 += ${STEP}u) {
    let k = r0 + local % ${STEP_VECTORS}u * 8u;
${lines(
  loadsSideA,
  (i) => `    let a_at${i} = ((m0 + ${rowOf(i, STEP_VECTORS)}) * u.rank + min(k, u.rank - 8u)) / 4u;
    let a_low${i} = side_a[a_at${i}]; let a_high${i} = side_a[a_at${i} + 1u];`,
)}
${lines(
  loadsB,
  (i) => `    let b_at${i} = ${sideAddress(i)};
    let b_low${i} = side_b[b_at${i}]; let b_high${i} = side_b[b_at${i} + 1u];`,
)}
    let zero = vec4<u32>(0u);
${lines(
  loadsSideA,
  (i) => `    let a_place${i} = ${placeA(i)};
    tiles[${placeOf(a, `a_place${i}`)}] = select(zero, ${packHalves(`(a_low${i} * u.scale)`, `(a_high${i} * u.scale)`)}, k < u.rank);`,
)}
${lines(loadsB, (i) => `    tiles[put_b + ${putB(i)}u] = select(zero, ${packHalves(`b_low${i}`, `b_high${i}`)}, ${isSideUsed(i)});`)}
    workgroupBarrier();
${multiply(0)}
    workgroupBarrier();
  }`

  // Sums leave through strips of 16 rows, since a fragment can neither be rounded nor have a bias added where it is.
  const width = y === 'f16' ? 8 : 4
  const perRow = TILE / width
  const biasOf = (offset: number): string =>
    `vec4<f32>(${[0, 1, 2, 3].map((c) => `f32(bias[n + ${offset + c}u])`).join(', ')})`
  const scale = sideWidth ? '' : ' * u.scale'
  const yFirst = parts > 1 ? 'part * u.y_split + ' : ''
  /** Four columns of the strip from `column` on, as f32. */
  const sums = (offset: number): string =>
    isBlocked
      ? `vec4<f32>(${[0, 1, 2, 3].map((j) => `four${j}.${offset === 0 ? 'x' : 'y'}`).join(', ')})`
      : `bitcast<vec4<f32>>(tiles[at + column / 4u + ${offset / 4}u])`
  // Columns are interleaved as rows are: four neighbours lie in the same column of four fragments.
  const gather =
    y === 'f16'
      ? (j: number) =>
          `      let both${j} = bitcast<vec4<f32>>(tiles[at + ${j * 4}u + column / 16u]);
      let four${j} = select(both${j}.xy, both${j}.zw, (column & 8u) != 0u);`
      : (j: number) =>
          `      let both${j} = bitcast<vec4<f32>>(tiles[at + ${j * 4}u + column / 16u]);
      let pair${j} = select(both${j}.xy, both${j}.zw, (column & 8u) != 0u);
      let four${j} = select(pair${j}.xx, pair${j}.yy, (column & 4u) != 0u);`
  const value = (offset: number): string =>
    `(${sums(offset)}${bias === 'none' ? '' : ` + bias${offset}`})${scale}`
  const out = `
  // A lane stores the same columns of each row.
  let column = lane % ${perRow}u * ${width}u;
  let n = n0 + subgroup_n + column;
${bias === 'none' ? '' : lines(width / 4, (i) => `  let bias${i * 4} = ${biasOf(i * 4)};`)}
${lines(
  FRAGMENTS,
  (i) => /* wgsl */ `
${lines(FRAGMENTS, (j) => `  ${storeMatrix('row_major', 'tiles', `strip + ${j * 4}u`, `c${i}_${j}`, strip)}`)}
  workgroupBarrier();
  for (var row = lane / ${perRow}u; row < 16u; row += ${SUBGROUP / perRow}u) {
    let m = m0 + subgroup_m + row * ${FRAGMENTS}u + ${i}u;
    if (m >= block_m && n >= block_n) {
      let at = strip + row * ${strip}u;
${isBlocked ? lines(FRAGMENTS, gather) : ''}
      ${
        y === 'f16'
          ? `let low = ${value(0)}; let high = ${value(4)};
      y[(${yFirst}m * u.ldy + n) / 8u] = ${packHalves('low', 'high')};`
          : `y[(${yFirst}m * u.ldy + n) / 4u] = ${value(0)};`
      }
    }
  }
  workgroupBarrier();`,
)}`

  return {
    directives: subgroupMatrixDirectives,
    declarations: `var<workgroup> tiles: array<vec4<u32>, ${subgroupMatrixBytes(schedule, layout) / 16}>;`,
    main: /* wgsl */ `
  // Groups of ${ROW_GROUP} rows, column after column: both operands of a wave of workgroups stay in the cache.
${
  parts > 1
    ? `  let part = group / (u.tiles_m * u.tiles_n);
  if (part >= ${parts}u) { return; }
  let tile = group % (u.tiles_m * u.tiles_n);`
    : '  let tile = group;'
}
  let per_group = ${ROW_GROUP / blockM}u * u.tiles_n;
  let first_m = (tile / per_group) * ${ROW_GROUP / blockM}u;
  if (first_m >= u.tiles_m) { return; }
  let group_m = min(u.tiles_m - first_m, ${ROW_GROUP / blockM}u);
  let in_group = tile % per_group;
  if (in_group >= group_m * u.tiles_n) { return; }
  let block_m = (first_m + in_group % group_m) * ${blockM}u;
  let block_n = (in_group / group_m) * ${blockN}u;
  let m0 = min(block_m, u.M - ${blockM}u);
  let n0 = min(block_n, u.N - ${blockN}u);
  let subgroup = local / ${SUBGROUP}u;
  let lane = local % ${SUBGROUP}u;
  let subgroup_m = (subgroup / ${subgroupsN}u) * ${TILE}u;
  let subgroup_n = (subgroup % ${subgroupsN}u) * ${TILE}u;
  let put_a = ${placeOf(a, 'local')};
  let put_b = ${firstB}u + ${isBlocked ? placeOf(b, 'local') : `(local / ${vectorsN}u) * ${rowB}u + local % ${vectorsN}u`};
  let fragment_a = (subgroup_m / ${FRAGMENTS}u) * ${a.pitch}u;
  let fragment_b = ${firstB}u + ${isBlocked ? `(subgroup_n / ${FRAGMENTS}u) * ${b.pitch}u` : 'subgroup_n / 8u'};
  let strip = subgroup * ${16 * strip}u;
  let a_at = (m0 + local / ${a.vectors}u) * ${lda / 8}u + local % ${a.vectors}u${partOf(K / 8)};
  let b_at = ${isBlocked ? `(${weightColumn}) * ${STEP_VECTORS}u + local` : `(local / ${vectorsN}u) * ${ldb / 8}u + (${weightColumn}) / 8u + local % ${vectorsN}u`}${partOf((K / STEP) * stepB)};
${lines(loadsA, (i) => `  var a_next${i}: vec4<u32>;`)}
${lines(subSteps, (s) => lines(loadsB, (i) => `  var b_next${s}_${i}: vec4<u32>;`))}
${lines(FRAGMENTS, (i) => lines(FRAGMENTS, (j) => `  var c${i}_${j} = ${zeroMatrix};`))}
  {
    let next = 0u;
${lines(subSteps, fetchA)}
${lines(subSteps, fetchB)}
  }
  for (var step = 0u; step < ${steps}u; step++) {
    let next = min(step + 1u, ${steps - 1}u);
${lines(
  subSteps,
  (s) => `${s === 0 ? storeA : ''}
${storeB(s)}
    workgroupBarrier();
${fetchA(s)}
${fetchB(s)}
${multiply(s)}
${s + 1 < subSteps ? lines(FRAGMENTS, (i) => `    let ahead${i} = ${fragmentA(i, (s + 1) * STEP_VECTORS)};`) : ''}
    workgroupBarrier();`,
)}
  }
${sideWidth ? side : ''}
${out}`,
  }
}

/** Invocations a workgroup. */
export function subgroupMatrixSize({
  blockM,
  blockN,
}: Pick<SubgroupMatrixSchedule, 'blockM' | 'blockN'>): number {
  return (blockM / TILE) * (blockN / TILE) * SUBGROUP
}

/** Bytes of workgroup memory, to check against the adapter's limit before a schedule is chosen. */
export function subgroupMatrixBytes(
  { blockM, blockN, depthA }: Pick<SubgroupMatrixSchedule, 'blockM' | 'blockN' | 'depthA'>,
  layout: MatmulVariant['layout'],
): number {
  const a = sizeOf(interleaved(depthA / 8), blockM)
  const b = layout === 'nt' ? sizeOf(interleaved(STEP_VECTORS), blockN) : STEP * plainRow(blockN)
  const strips = (subgroupMatrixSize({ blockM, blockN }) / SUBGROUP) * 16 * (TILE / 4 + 1)
  return Math.max(a + b, strips) * 16
}
