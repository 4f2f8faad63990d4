// Products with a thin operand, the f32 factor of an adapter (rank r ≤ 64), on tensor cores. They read the wide f16 operand
// once and do little with it, so what counts is to keep many loads in flight. The thin operand is rounded to f16 on its way
// into workgroup memory; sums are f32.
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
import type { MatmulVariant, ThinSchedule } from '../matmul-variant.ts'

const SUBGROUP = 32
export const THIN_SIZE = 128
/** Rows of a block of the projections: small, so that a few thousand tokens fill a GPU. */
const ROWS = 32
/** Contraction of a step, which the four subgroups share. */
const STEP = 128
/** Columns of a block of the gradients, and tokens of a step. */
const COLUMNS = 128
const TOKENS = 64

/** Output columns a workgroup computes; rows of the output of a projection. */
export function thinBlock({ kind, rank }: ThinSchedule): { M: number; N: number } {
  if (kind === 'project') return { M: ROWS, N: rank }
  return kind === 'gradient-a' ? { M: rank, N: COLUMNS } : { M: COLUMNS, N: rank }
}

/** Bytes of workgroup memory. */
export function thinBytes({ kind, rank }: ThinSchedule): number {
  return 16 * (kind === 'project' ? projectVectors(rank).total : gradientVectors(rank).total)
}

function projectVectors(rank: number): { tileA: number; total: number; strip: number } {
  const tileA = ROWS * (STEP / 8 + 1)
  // The thin block lies [rank][k] or [k][rank]: the larger decides.
  const tileB = Math.max(rank * (STEP / 8 + 1), STEP * (rank / 8 + 1))
  const strip = rank / 4 + 1
  return { tileA, strip, total: Math.max(tileA + tileB, 4 * ROWS * strip) }
}

function gradientVectors(rank: number): { wide: number; total: number; strip: number } {
  const wide = TOKENS * (COLUMNS / 8 + 1)
  const strip = SUBGROUP / 4 + 1
  return { wide, strip, total: Math.max(wide + TOKENS * (rank / 8 + 1), 4 * rank * strip) }
}

/** y [M, r] f32 = a bᵀ (`nt`, b [r, K]) or a b (`nn`, b [K, r]), a f16. Each subgroup sums a quarter of K. */
export function projectText(variant: MatmulVariant): KernelText {
  const { layout } = variant
  const { rank, K, lda } = variant.schedule as ThinSchedule
  const { tileA, strip, total } = projectVectors(rank)
  const rowA = STEP / 8 + 1
  const rowB = layout === 'nt' ? STEP / 8 + 1 : rank / 8 + 1
  const loadsA = (ROWS * STEP) / 8 / THIN_SIZE
  const eightsB = (rank * STEP) / 8
  const loadsB = Math.ceil(eightsB / THIN_SIZE)
  const perB = layout === 'nt' ? STEP / 8 : rank / 8
  const fragmentsN = rank / 16

  const fetch = `${lines(loadsA, (i) => `    a_next${i} = a[a_at${i} + step * ${STEP / 8}u];`)}
${lines(loadsB, (i) => {
  const q = `(local + ${i * THIN_SIZE}u)`
  // Rows and columns past the thin operand's own rank read its last; their sums are not stored.
  const at =
    layout === 'nt'
      ? `(min(${q} / ${perB}u, u.N - 1u) * ${K}u + step * ${STEP}u + (${q} % ${perB}u) * 8u)`
      : `((step * ${STEP}u + min(${q} / ${perB}u, ${STEP - 1}u)) * u.N + min((${q} % ${perB}u) * 8u, u.N - 8u))`
  return `    b_low${i} = b[${at} / 4u]; b_high${i} = b[${at} / 4u + 1u];`
})}`
  return {
    directives: subgroupMatrixDirectives,
    declarations: `var<workgroup> tiles: array<vec4<u32>, ${total}>;`,
    main: /* wgsl */ `
  let m0 = group * ${ROWS}u;
  if (m0 >= u.M) { return; }
  let subgroup = local / ${SUBGROUP}u;
  let row_a = local / ${STEP / 8}u; let column_a = local % ${STEP / 8}u;
${lines(loadsA, (i) => `  let a_at${i} = u.a_first / 8u + min(m0 + row_a + ${i * (THIN_SIZE / (STEP / 8))}u, u.M - 1u) * ${lda / 8}u + column_a;\n  var a_next${i}: vec4<u32>;`)}
${lines(loadsB, (i) => `  var b_low${i}: vec4<f32>; var b_high${i}: vec4<f32>;`)}
${lines(2 * fragmentsN, (i) => `  var c${Math.floor(i / fragmentsN)}_${i % fragmentsN} = ${zeroMatrix};`)}
  {
    let step = 0u;
${fetch}
  }
  for (var k = 0u; k < ${K / STEP}u; k++) {
${lines(loadsA, (i) => `    tiles[(row_a + ${i * (THIN_SIZE / (STEP / 8))}u) * ${rowA}u + column_a] = a_next${i};`)}
${lines(loadsB, (i) => {
  const q = `(local + ${i * THIN_SIZE}u)`
  const put = `tiles[${tileA}u + (${q} / ${perB}u) * ${rowB}u + ${q} % ${perB}u] = ${packHalves(`b_low${i}`, `b_high${i}`)};`
  return (i + 1) * THIN_SIZE <= eightsB ? `    ${put}` : `    if (${q} < ${eightsB}u) { ${put} }`
})}
    workgroupBarrier();
    let step = min(k + 1u, ${K / STEP - 1}u);
${fetch}
${lines(
  2,
  (h) => `    {
      let column = subgroup * 4u + ${h * 2}u;
      let a0 = ${loadMatrix('left', 'row_major', 'tiles', 'column', rowA)};
      let a1 = ${loadMatrix('left', 'row_major', 'tiles', `${16 * rowA}u + column`, rowA)};
${lines(
  fragmentsN,
  (j) => `      {
        let b0 = ${
          layout === 'nt'
            ? loadMatrix('right', 'col_major', 'tiles', `${tileA + j * 16 * rowB}u + column`, rowB)
            : loadMatrix(
                'right',
                'row_major',
                'tiles',
                `${tileA + j * 2}u + (subgroup * ${SUBGROUP}u + ${h * 16}u) * ${rowB}u`,
                rowB,
              )
        };
        ${multiplyAccumulate('a0', 'b0', `c0_${j}`)}
        ${multiplyAccumulate('a1', 'b0', `c1_${j}`)}
      }`,
)}
    }`,
)}
    workgroupBarrier();
  }
  let strip = subgroup * ${ROWS * strip}u;
${lines(2 * fragmentsN, (i) => {
  const r = Math.floor(i / fragmentsN)
  const j = i % fragmentsN
  return `  ${storeMatrix('row_major', 'tiles', `strip + ${r * 16 * strip + j * 4}u`, `c${r}_${j}`, strip)}`
})}
  workgroupBarrier();
  for (var q = local; q < ${(ROWS * rank) / 4}u; q += ${THIN_SIZE}u) {
    let row = q / ${rank / 4}u; let column = q % ${rank / 4}u; let m = m0 + row; let n = column * 4u;
    if (m < u.M && n < u.N) {
      let at = row * ${strip}u + column;
      var sum = bitcast<vec4<f32>>(tiles[at]);
${lines(3, (s) => `      sum += bitcast<vec4<f32>>(tiles[at + ${(s + 1) * ROWS * strip}u]);`)}
      y[(u.y_first + m * u.ldy + n) / 4u] = sum * u.scale;
    }
  }`,
  }
}

/**
 * The contraction over tokens: `gradient-a` y [r, N] = aᵀ b with the thin a [K, r] f32 and the wide b [K, N] f16;
 * `gradient-b` y [M, r] = aᵀ b with the wide a [K, M] f16 and the thin b [K, r] f32. A workgroup sums one split.
 */
export function gradientText(variant: MatmulVariant): KernelText {
  const { kind, rank, lda, ldb } = variant.schedule as ThinSchedule
  const isA = kind === 'gradient-a'
  const { wide, strip, total } = gradientVectors(rank)
  const [wideName, thinName] = isA ? ['b', 'a'] : ['a', 'b']
  const stride = isA ? ldb : lda
  const extent = isA ? 'u.N' : 'u.M'
  const ownRank = isA ? 'u.M' : 'u.N'
  const rowW = COLUMNS / 8 + 1
  const rowT = rank / 8 + 1
  const loadsW = (TOKENS * COLUMNS) / 8 / THIN_SIZE
  const eightsT = (TOKENS * rank) / 8
  const loadsT = Math.ceil(eightsT / THIN_SIZE)
  const fragmentsM = rank / 16
  // Tokens past the end read the last one and count as zero in the thin operand.
  const fetch = `${lines(loadsW, (i) => `    w_next${i} = ${wideName}[min(k + row_w + ${i * 8}u, k_end - 1u) * ${stride / 8}u + column_w];`)}
${lines(loadsT, (i) => {
  const q = `(local + ${i * THIN_SIZE}u)`
  const at = `(min(k + ${q} / ${rank / 8}u, k_end - 1u) * ${ownRank} + min((${q} % ${rank / 8}u) * 8u, ${ownRank} - 8u))`
  return `    t_low${i} = ${thinName}[${at} / 4u]; t_high${i} = ${thinName}[${at} / 4u + 1u];
    if (k + ${q} / ${rank / 8}u >= k_end) { t_low${i} = vec4<f32>(0.0); t_high${i} = vec4<f32>(0.0); }`
})}`
  const store = isA
    ? /* wgsl */ `
  for (var q = lane; q < ${rank * 8}u; q += ${SUBGROUP}u) {
    let r = q / 8u; let column = (q % 8u) * 4u; let n = n0 + subgroup * ${SUBGROUP}u + column;
    if (r < u.M && n < u.N) {
      y[(u.y_first + split * u.y_split + r * u.ldy + n) / 4u] = bitcast<vec4<f32>>(tiles[strip + r * ${strip}u + column / 4u]) * u.scale;
    }
  }`
    : /* wgsl */ `
  for (var q = lane; q < ${rank * 8}u; q += ${SUBGROUP}u) {
    let column = q / ${rank / 4}u; let r = (q % ${rank / 4}u) * 4u; let m = n0 + subgroup * ${SUBGROUP}u + column;
    if (m < u.M && r < u.N) {
      let at = strip + r * ${strip}u + column / 4u;
      let c = column % 4u;
      y[(u.y_first + split * u.y_split + m * u.ldy + r) / 4u] = vec4<f32>(${[0, 1, 2, 3].map((i) => `bitcast<f32>(tiles[at + ${i * strip}u][c])`).join(', ')}) * u.scale;
    }
  }`
  return {
    directives: subgroupMatrixDirectives,
    declarations: `var<workgroup> tiles: array<vec4<u32>, ${total}>;`,
    main: /* wgsl */ `
  let blocks = (${extent} + ${COLUMNS - 1}u) / ${COLUMNS}u;
  if (group >= blocks * u.splits) { return; }
  let n0 = (group % blocks) * ${COLUMNS}u;
  let split = group / blocks;
  let k_start = split * u.split_k;
  let k_end = min(u.K, k_start + u.split_k);
  let subgroup = local / ${SUBGROUP}u; let lane = local % ${SUBGROUP}u;
  let row_w = local / 16u; let column_w = min(n0 / 8u + local % 16u, ${extent} / 8u - 1u);
${lines(loadsW, (i) => `  var w_next${i}: vec4<u32>;`)}
${lines(loadsT, (i) => `  var t_low${i}: vec4<f32>; var t_high${i}: vec4<f32>;`)}
${lines(2 * fragmentsM, (i) => `  var c${Math.floor(i / 2)}_${i % 2} = ${zeroMatrix};`)}
  if (k_start < k_end) {
  {
    let k = k_start;
${fetch}
  }
  for (var k0 = k_start; k0 < k_end; k0 += ${TOKENS}u) {
${lines(loadsW, (i) => `    tiles[(row_w + ${i * 8}u) * ${rowW}u + local % 16u] = w_next${i};`)}
${lines(loadsT, (i) => {
  const q = `(local + ${i * THIN_SIZE}u)`
  const put = `tiles[${wide}u + (${q} / ${rank / 8}u) * ${rowT}u + ${q} % ${rank / 8}u] = ${packHalves(`t_low${i}`, `t_high${i}`)};`
  return (i + 1) * THIN_SIZE <= eightsT ? `    ${put}` : `    if (${q} < ${eightsT}u) { ${put} }`
})}
    workgroupBarrier();
    let k = k0 + ${TOKENS}u;
    if (k < k_end) {
${fetch}
    }
${lines(
  TOKENS / 16,
  (h) => `    {
${lines(2, (j) => `      let w${j} = ${loadMatrix('right', 'row_major', 'tiles', `${h * 16 * rowW + j * 2}u + subgroup * 4u`, rowW)};`)}
${lines(
  fragmentsM,
  (i) => `      {
        let t = ${loadMatrix('left', 'col_major', 'tiles', `${wide + h * 16 * rowT + i * 2}u`, rowT)};
        ${multiplyAccumulate('t', 'w0', `c${i}_0`)}
        ${multiplyAccumulate('t', 'w1', `c${i}_1`)}
      }`,
)}
    }`,
)}
    workgroupBarrier();
  }
  }
  let strip = subgroup * ${rank * strip}u;
${lines(2 * fragmentsM, (i) => {
  const r = Math.floor(i / 2)
  const j = i % 2
  return `  ${storeMatrix('row_major', 'tiles', `strip + ${r * 16 * strip + j * 4}u`, `c${r}_${j}`, strip)}`
})}
  workgroupBarrier();
${store}`,
  }
}
