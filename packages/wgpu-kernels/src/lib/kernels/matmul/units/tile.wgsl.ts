import type { KernelText } from '../../../program/define-kernel.ts'
import {
  tileIndex,
  workgroupSizeOf,
  type MatmulVariant,
  type TileSchedule,
} from '../matmul-variant.ts'

/** How one operand comes into workgroup memory, four values at a time. */
export interface TileOperand {
  /** WGSL name of the array in workgroup memory. */
  readonly tile: string
  /** Rows of the block. */
  readonly block: number
  /** The four values of a load lie along k; else along the rows. */
  readonly alongK: boolean
  /** WGSL expression of the vec4<f32> at (row, k), with zeros outside. */
  readonly load: (row: string, k: string) => string
}

/** Statements that fill one block of an operand. `k0` is the first k of the block. */
export function stageBlock(
  { tile, block, alongK, load }: TileOperand,
  blockK: number,
  workgroupSize: number,
): string {
  const quads = (block * blockK) / 4
  const perRow = alongK ? blockK / 4 : block / 4
  return /* wgsl */ `
    for (var q = local; q < ${quads}u; q += ${workgroupSize}u) {
      ${
        alongK
          ? `let row = q / ${perRow}u; let k = (q % ${perRow}u) * 4u;
      let v = ${load('row', 'k')};
      ${[0, 1, 2, 3].map((c) => `${tile}[(k + ${c}u) * ${block}u + row] = v[${c}];`).join(' ')}`
          : `let k = q / ${perRow}u; let row = (q % ${perRow}u) * 4u;
      let v = ${load('row', 'k')};
      ${[0, 1, 2, 3].map((c) => `${tile}[k * ${block}u + row + ${c}u] = v[${c}];`).join(' ')}`
      }
    }`
}

/** The products of one staged block, added to `acc[tileM][tileN]`. */
export function multiplyBlocks(schedule: TileSchedule, tileA = 'tile_a', tileB = 'tile_b'): string {
  const { blockM, blockN, blockK, tileM, tileN } = schedule
  return /* wgsl */ `
    for (var k = 0u; k < ${blockK}u; k++) {
      ${Array.from({ length: tileM }, (_, i) => `let a${i} = ${tileA}[k * ${blockM}u + row0 + ${i}u];`).join('\n      ')}
      ${Array.from({ length: tileN }, (_, j) => `let b${j} = ${tileB}[k * ${blockN}u + col0 + ${j}u];`).join('\n      ')}
      ${Array.from({ length: tileM * tileN }, (_, ij) => {
        const i = Math.floor(ij / tileN)
        const j = ij % tileN
        return `c${i}_${j} = fma(a${i}, b${j}, c${i}_${j});`
      }).join('\n      ')}
    }`
}

/** Declares the accumulators. */
export function zeroAccumulators({ tileM, tileN }: TileSchedule): string {
  return Array.from(
    { length: tileM * tileN },
    (_, ij) => `var c${Math.floor(ij / tileN)}_${ij % tileN} = 0.0;`,
  ).join('\n  ')
}

/** Stores the accumulators; `value` wraps the sum of row i and column j, `at` is the element index of (row, column). */
export function storeAccumulators(
  { tileM, tileN }: TileSchedule,
  width: 1 | 4,
  guard: (row: string, column: string) => string,
  at: (row: string, column: string) => string,
  value: (i: number, j: number) => string,
): string {
  const lines: string[] = []
  for (let i = 0; i < tileM; i++) {
    for (let j = 0; j < tileN; j += width) {
      const row = `(m0 + row0 + ${i}u)`
      const column = `(n0 + col0 + ${j}u)`
      lines.push(
        `if (${guard(row, column)}) { ${
          width === 4
            ? `y[(${at(row, column)}) / 4u] = y_t(vec4<f32>(${[0, 1, 2, 3].map((n) => value(i, j + n)).join(', ')}));`
            : `y[${at(row, column)}] = y_t(${value(i, j)});`
        } }`,
      )
    }
  }
  return lines.join('\n  ')
}

/** A function `name(row, k) -> vec4<f32>` over a matrix, four values along k or along the rows, zeros outside. */
function loadFunction(name: string, binding: string, width: 1 | 4, alongK: boolean): string {
  const [inner, outer] = alongK ? ['k', 'row'] : ['row', 'k']
  const [innerEnd, outerEnd] = alongK ? ['k_end', 'rows'] : ['rows', 'k_end']
  return /* wgsl */ `
fn ${name}(first: u32, stride: u32, row: u32, rows: u32, k: u32, k_end: u32) -> vec4<f32> {
  if (${outer} >= ${outerEnd} || ${inner} >= ${innerEnd}) { return vec4<f32>(0.0); }
  let at = first + ${outer} * stride + ${inner};
  ${
    width === 4
      ? `return vec4<f32>(${binding}[at / 4u]);`
      : `var v = vec4<f32>(0.0);
  for (var c = 0u; c < 4u && ${inner} + c < ${innerEnd}; c++) { v[c] = f32(${binding}[at + c]); }
  return v;`
  }
}`
}

/** Blocks in workgroup memory, a tile of registers an invocation: the classic, on any GPU. */
export function tileText(variant: MatmulVariant): KernelText {
  const { layout, aWidth, bWidth, yWidth, bias, sideWidth } = variant
  const schedule = variant.schedule as TileSchedule
  const { blockM, blockN, blockK, tileM, tileN } = schedule
  const size = workgroupSizeOf(schedule)
  const aAlongK = layout !== 'tn'
  const bAlongK = layout === 'nt'
  const phase = (
    loadA: string,
    loadB: string,
    a: { first: string; stride: string; alongK: boolean },
    b: { first: string; stride: string },
    from: string,
    to: string,
    factor: string,
  ): string => /* wgsl */ `
  for (var k0 = ${from}; k0 < ${to}; k0 += ${blockK}u) {
    workgroupBarrier();
    ${stageBlock(
      {
        tile: 'tile_a',
        block: blockM,
        alongK: a.alongK,
        load: (row, k) =>
          `${factor}${loadA}(${a.first}, ${a.stride}, m0 + ${row}, u.M, k0 + ${k}, ${to})`,
      },
      blockK,
      size,
    )}
    ${stageBlock(
      {
        tile: 'tile_b',
        block: blockN,
        alongK: bAlongK,
        load: (row, k) => `${loadB}(${b.first}, ${b.stride}, n0 + ${row}, u.N, k0 + ${k}, ${to})`,
      },
      blockK,
      size,
    )}
    workgroupBarrier();
    ${multiplyBlocks(schedule)}
  }`
  const value = (i: number, j: number): string => {
    const sum =
      bias === 'none'
        ? `c${i}_${j}`
        : `(c${i}_${j} + f32(bias[u.n_first + min(n0 + col0 + ${j}u, u.N - 1u)]))`
    return sideWidth ? sum : `${sum} * u.scale`
  }
  return {
    declarations: [
      `var<workgroup> tile_a: array<f32, ${blockM * blockK}>;`,
      `var<workgroup> tile_b: array<f32, ${blockN * blockK}>;`,
      loadFunction('load_a', 'a', aWidth, aAlongK),
      loadFunction('load_b', 'b', bWidth, bAlongK),
      ...(sideWidth
        ? [
            loadFunction('load_side_a', 'side_a', sideWidth, true),
            loadFunction('load_side_b', 'side_b', sideWidth, bAlongK),
          ]
        : []),
    ].join('\n'),
    main: [
      `let tile = group;`,
      `if (tile >= u.tiles) { return; }`,
      tileIndex({ M: blockM, N: blockN }),
      `let row0 = (local / ${blockN / tileN}u) * ${tileM}u;`,
      `let col0 = (local % ${blockN / tileN}u) * ${tileN}u;`,
      zeroAccumulators(schedule),
      phase(
        'load_a',
        'load_b',
        { first: 'a0', stride: 'u.lda', alongK: aAlongK },
        { first: 'b0', stride: 'u.ldb' },
        'k_start',
        'k_end',
        '',
      ),
      sideWidth
        ? `if (split == 0u) {${phase(
            'load_side_a',
            'load_side_b',
            { first: '0u', stride: 'u.rank', alongK: true },
            {
              first: layout === 'nt' ? 'u.n_first * u.side_ldb' : '0u',
              stride: 'u.side_ldb',
            },
            '0u',
            'u.rank',
            'u.scale * ',
          )}
  }`
        : '',
      storeAccumulators(
        schedule,
        yWidth,
        (row, column) => `${row} < u.M && ${column} < u.N`,
        (row, column) => `y0 + ${row} * u.ldy + u.n_first + ${column}`,
        value,
      ),
    ].join('\n'),
  }
}
