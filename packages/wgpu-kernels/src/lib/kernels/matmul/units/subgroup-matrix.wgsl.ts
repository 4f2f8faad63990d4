// Products on tensor cores. Measured on one H100 (docs/log.md): 290 TFLOP/s at 11264 × 5120 × 5120 for every single-stage
// shape that keeps 2 · 128 · 128 · 32 products a multiprocessor in flight; the ceiling of the same instructions with operands
// from workgroup memory and no loads is 420.
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

/** Halves a row of workgroup memory is padded by: rows of 80 bytes let eight of them be read without bank conflicts. */
const PAD = 8
const SUBGROUP = 32

/**
 * Workgroup blocks of blockM × blockN, a subgroup for each 64 × 64 of them. A step: store the block that waits in
 * registers, barrier, fetch the next block, multiply, barrier. Sizes and strides are literals: with uniforms the same text
 * runs at 60 % of the speed.
 *
 * The side branch is one more step along K, its operands rounded to f16 on the way into workgroup memory.
 */
export function subgroupMatrixText(variant: MatmulVariant): KernelText {
  const { layout, bias, sideWidth, y } = variant
  const schedule = variant.schedule as SubgroupMatrixSchedule
  const { blockM, blockN, blockK, tileM, tileN, K, lda, ldb } = schedule
  const subgroupsN = blockN / tileN
  const size = (blockM / tileM) * subgroupsN * SUBGROUP
  const rowA = (blockK + PAD) / 8
  const rowB = layout === 'nt' ? rowA : (blockN + PAD) / 8
  const firstB = blockM * rowA
  const tiles = firstB + (layout === 'nt' ? blockN : blockK) * rowB
  const strip = tileN / 4 + 1
  const strips = (size / SUBGROUP) * 16 * strip
  const fragmentsM = tileM / 16
  const fragmentsN = tileN / 16

  const vectorsK = blockK / 8
  const vectorsN = blockN / 8
  const loadsA = (blockM * vectorsK) / size
  const loadsB = (blockN * vectorsK) / size
  const rowsA = size / vectorsK
  const rowsB = layout === 'nt' ? rowsA : size / vectorsN

  // Eight neighbours that store together take rows that fall into different banks: of 80 bytes four apart, of 48 two.
  const rowOfA =
    vectorsK === 2
      ? '(quad & 3u) * 2u + ((quad >> 2u) & 1u) + (quad >> 3u) * 8u'
      : '(quad & 1u) * 4u + ((quad >> 1u) & 3u) + (quad >> 3u) * 8u'
  const addressB = (i: number): string =>
    layout === 'nt'
      ? `let b_at${i} = b0 / 8u + min(n0 + row_a + ${i * rowsB}u, u.N - 1u) * ${ldb / 8}u + column_a;`
      : `let b_at${i} = b0 / 8u + (row_b + ${i * rowsB}u) * ${ldb / 8}u + min(n0 / 8u + column_b, u.N / 8u - 1u);`
  const stepB = layout === 'nt' ? vectorsK : (blockK * ldb) / 8
  const fetch = `${lines(loadsA, (i) => `    a_next${i} = a[a_at${i} + step * ${vectorsK}u];`)}
${lines(loadsB, (i) => `    b_next${i} = b[b_at${i} + step * ${stepB}u];`)}`
  const putB = (i: number): string =>
    layout === 'nt'
      ? `at_a + ${i * rowsB * rowB}u`
      : `row_b * ${rowB}u + column_b + ${i * rowsB * rowB}u`
  const store = `${lines(loadsA, (i) => `    tiles[at_a + ${i * rowsA * rowA}u] = a_next${i};`)}
${lines(loadsB, (i) => `    tiles[${firstB}u + ${putB(i)}] = b_next${i};`)}`

  const multiply = lines(
    blockK / 16,
    (k) => `    {
${lines(fragmentsM, (i) => `      let a${i} = ${loadMatrix('left', 'row_major', 'tiles', `fragment_a + ${i * 16 * rowA + k * 2}u`, rowA)};`)}
${lines(
  fragmentsN,
  (j) => `      {
        let b0 = ${
          layout === 'nt'
            ? loadMatrix(
                'right',
                'col_major',
                'tiles',
                `fragment_b + ${j * 16 * rowB + k * 2}u`,
                rowB,
              )
            : loadMatrix(
                'right',
                'row_major',
                'tiles',
                `fragment_b + ${k * 16 * rowB + j * 2}u`,
                rowB,
              )
        };
${lines(fragmentsM, (i) => `        ${multiplyAccumulate(`a${i}`, 'b0', `c${i}_${j}`)}`)}
      }`,
)}
    }`,
  )

  const sideB =
    layout === 'nt'
      ? `for (var q = local; q < ${blockN * vectorsK}u; q += ${size}u) {
      let row = q / ${vectorsK}u; let k = r0 + (q % ${vectorsK}u) * 8u;
      let n = u.n_first + min(n0 + row, u.N - 1u);
      var low = vec4<f32>(0.0); var high = vec4<f32>(0.0);
      if (k < u.rank) { let at = (n * u.side_ldb + k) / 4u; low = side_b[at]; high = side_b[at + 1u]; }
      tiles[${firstB}u + row * ${rowB}u + q % ${vectorsK}u] = ${packHalves('low', 'high')};
    }`
      : `for (var q = local; q < ${blockK * vectorsN}u; q += ${size}u) {
      let row = q / ${vectorsN}u; let n = min(n0 + (q % ${vectorsN}u) * 8u, u.N - 8u);
      var low = vec4<f32>(0.0); var high = vec4<f32>(0.0);
      if (r0 + row < u.rank) { let at = ((r0 + row) * u.side_ldb + n) / 4u; low = side_b[at]; high = side_b[at + 1u]; }
      tiles[${firstB}u + row * ${rowB}u + q % ${vectorsN}u] = ${packHalves('low', 'high')};
    }`
  const side = /* wgsl */ `
  for (var r0 = 0u; r0 < u.rank; r0 += ${blockK}u) {
    for (var q = local; q < ${blockM * vectorsK}u; q += ${size}u) {
      let row = q / ${vectorsK}u; let k = r0 + (q % ${vectorsK}u) * 8u;
      var low = vec4<f32>(0.0); var high = vec4<f32>(0.0);
      if (k < u.rank) {
        let at = (min(m0 + row, u.M - 1u) * u.rank + k) / 4u;
        low = side_a[at] * u.scale; high = side_a[at + 1u] * u.scale;
      }
      tiles[row * ${rowA}u + q % ${vectorsK}u] = ${packHalves('low', 'high')};
    }
    ${sideB}
    workgroupBarrier();
${multiply}
    workgroupBarrier();
  }`

  // Sums leave through strips of 16 rows, since a fragment can neither be rounded nor have a bias added where it is.
  const perRow = y === 'f16' ? tileN / 8 : tileN / 4
  const width = y === 'f16' ? 8 : 4
  const biasOf = (offset: number): string =>
    bias === 'none'
      ? ''
      : ` + vec4<f32>(${[0, 1, 2, 3].map((c) => `f32(bias[u.n_first + n + ${offset + c}u])`).join(', ')})`
  const value = (offset: number): string =>
    `(bitcast<vec4<f32>>(tiles[at + ${offset / 4}u])${biasOf(offset)})${sideWidth ? '' : ' * u.scale'}`
  const out = lines(
    fragmentsM,
    (i) => /* wgsl */ `
${lines(fragmentsN, (j) => `  ${storeMatrix('row_major', 'tiles', `strip + ${j * 4}u`, `c${i}_${j}`, strip)}`)}
  workgroupBarrier();
  for (var q = lane; q < ${16 * perRow}u; q += ${SUBGROUP}u) {
    let row = q / ${perRow}u; let column = (q % ${perRow}u) * ${width}u;
    let m = m0 + subgroup_m + ${i * 16}u + row; let n = n0 + subgroup_n + column;
    if (m < u.M && n < u.N) {
      let at = strip + row * ${strip}u + column / 4u;
      ${
        y === 'f16'
          ? `let low = ${value(0)}; let high = ${value(4)};
      y[(y0 + m * u.ldy + u.n_first + n) / 8u] = ${packHalves('low', 'high')};`
          : `y[(y0 + m * u.ldy + u.n_first + n) / 4u] = ${value(0)};`
      }
    }
  }
  workgroupBarrier();`,
  )

  return {
    directives: subgroupMatrixDirectives,
    declarations: `var<workgroup> tiles: array<vec4<u32>, ${Math.max(tiles, strips)}>;`,
    main: /* wgsl */ `
  // Groups of eight rows of blocks, column after column: both operands of a wave of workgroups stay in the cache.
  let per_group = 8u * u.tiles_n;
  let first_m = (group / per_group) * 8u;
  if (first_m >= u.tiles_m) { return; }
  let group_m = min(u.tiles_m - first_m, 8u);
  let in_group = group % per_group;
  if (in_group >= group_m * u.tiles_n) { return; }
  let m0 = (first_m + in_group % group_m) * ${blockM}u;
  let n0 = (in_group / group_m) * ${blockN}u;
  let a0 = u.a_first;
  let b0 = 0u;
  let y0 = u.y_first;
  let subgroup = local / ${SUBGROUP}u;
  let lane = local % ${SUBGROUP}u;
  let subgroup_m = (subgroup / ${subgroupsN}u) * ${tileM}u;
  let subgroup_n = (subgroup % ${subgroupsN}u) * ${tileN}u;
  let quad = local / ${vectorsK}u;
  let row_a = ${rowOfA};
  let column_a = local % ${vectorsK}u;
  let at_a = row_a * ${rowA}u + column_a;
  ${layout === 'nt' ? '' : `let row_b = local / ${vectorsN}u; let column_b = local % ${vectorsN}u;`}
  let fragment_a = subgroup_m * ${rowA}u;
  let fragment_b = ${firstB}u + ${layout === 'nt' ? `subgroup_n * ${rowB}u` : 'subgroup_n / 8u'};
  let strip = subgroup * ${16 * strip}u;
${lines(loadsA, (i) => `  let a_at${i} = a0 / 8u + min(m0 + row_a + ${i * rowsA}u, u.M - 1u) * ${lda / 8}u + column_a;`)}
${lines(loadsB, (i) => `  ${addressB(i)}`)}
${lines(loadsA, (i) => `  var a_next${i}: vec4<u32>;`)}
${lines(loadsB, (i) => `  var b_next${i}: vec4<u32>;`)}
${lines(fragmentsM, (i) => lines(fragmentsN, (j) => `  var c${i}_${j} = ${zeroMatrix};`))}
  {
    let step = 0u;
${fetch}
  }
  for (var k = 0u; k < ${K / blockK}u; k++) {
${store}
    workgroupBarrier();
    let step = min(k + 1u, ${K / blockK - 1}u);
${fetch}
${multiply}
    workgroupBarrier();
  }
${sideWidth ? side : ''}
${out}`,
  }
}

/** Invocations a workgroup of either text. */
export function subgroupMatrixSize({
  blockM,
  blockN,
  tileM,
  tileN,
}: SubgroupMatrixSchedule): number {
  return (blockM / tileM) * (blockN / tileN) * SUBGROUP
}

/** Bytes of workgroup memory, to check against the adapter's limit before a schedule is chosen. */
export function subgroupMatrixBytes(
  { blockM, blockN, blockK, tileM, tileN }: SubgroupMatrixSchedule,
  layout: 'nt' | 'nn',
): number {
  const rowA = (blockK + PAD) / 8
  const tiles = blockM * rowA + (layout === 'nt' ? blockN * rowA : (blockK * (blockN + PAD)) / 8)
  const strips = (blockM / tileM) * (blockN / tileN) * 16 * (tileN / 4 + 1)
  return Math.max(tiles, strips) * 16
}
