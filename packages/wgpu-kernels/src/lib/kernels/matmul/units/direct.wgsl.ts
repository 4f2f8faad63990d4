import type { KernelText } from '../../../program/define-kernel.ts'
import { tileIndex, type DirectSchedule, type MatmulVariant } from '../matmul-variant.ts'

const components = ['x', 'y', 'z', 'w'] as const

/** One operand of a contraction, as the generated loop reads it. */
interface Operand {
  /** Binding, and prefix of the registers. */
  readonly name: string
  /** Rows of the register tile. */
  readonly tile: number
  /** K is contiguous; else the tile's rows are. */
  readonly kContiguous: boolean
  readonly width: 1 | 4
  /** WGSL: element index of row 0 at k 0, distance between rows, first row of the tile, number of rows. */
  readonly first: string
  readonly stride: string
  readonly row: string
  readonly rows: string
}

/** Declarations before the loop: where each row of the tile starts. Rows past the end repeat the last, unused. */
function rowStarts({
  name,
  tile,
  kContiguous,
  width,
  first,
  stride,
  row,
  rows,
}: Operand): string[] {
  const lines: string[] = []
  if (kContiguous) {
    for (let i = 0; i < tile; i++) {
      lines.push(`let ${name}_at${i} = ${first} + min(${row} + ${i}u, ${rows} - 1u) * ${stride};`)
    }
  } else {
    for (let i = 0; i < tile; i += width) {
      lines.push(`let ${name}_at${i} = ${first} + min(${row} + ${i}u, ${rows} - ${width}u);`)
    }
  }
  return lines
}

/** Loads of one step of `step` values of k, and the expression of the value in row i at k + c. */
function loads(
  operand: Operand,
  step: 1 | 4,
): { lines: string[]; at: (i: number, c: number) => string } {
  const { name, tile, kContiguous, width, stride } = operand
  const lines: string[] = []
  if (kContiguous && width === 4) {
    for (let i = 0; i < tile; i++) {
      lines.push(`let ${name}${i} = vec4<f32>(${name}[(${name}_at${i} + k) / 4u]);`)
    }
    return { lines, at: (i, c) => `${name}${i}.${components[c]}` }
  }
  for (let c = 0; c < step; c++) {
    for (let i = 0; i < tile; i += kContiguous ? 1 : width) {
      const index = kContiguous
        ? `${name}_at${i} + k + ${c}u`
        : `${name}_at${i} + (k + ${c}u) * ${stride}`
      lines.push(
        width === 4 && !kContiguous
          ? `let ${name}${i}_${c} = vec4<f32>(${name}[(${index}) / 4u]);`
          : `let ${name}${i}_${c} = f32(${name}[${index}]);`,
      )
    }
  }
  return {
    lines,
    at:
      width === 4 && !kContiguous
        ? (i, c) => `${name}${i - (i % 4)}_${c}.${components[i % 4]}`
        : (i, c) => `${name}${i}_${c}`,
  }
}

/** Loop that adds a contraction to the accumulators `c{i}_{j}`. */
function contraction(a: Operand, b: Operand, from: string, to: string, factor?: string): string {
  const step = [a, b].some((operand) => operand.kContiguous && operand.width === 4) ? 4 : 1
  const ofA = loads(a, step)
  const ofB = loads(b, step)
  const sums: string[] = []
  for (let c = 0; c < step; c++) {
    for (let i = 0; i < a.tile; i++) {
      for (let j = 0; j < b.tile; j++) {
        const value = factor === undefined ? ofA.at(i, c) : `(${factor} * ${ofA.at(i, c)})`
        sums.push(`c${i}_${j} = fma(${value}, ${ofB.at(j, c)}, c${i}_${j});`)
      }
    }
  }
  return [
    ...rowStarts(a),
    ...rowStarts(b),
    `for (var k = ${from}; k < ${to}; k += ${step}u) {`,
    ...ofA.lines,
    ...ofB.lines,
    ...sums,
    `}`,
  ].join('\n')
}

/**
 * A tile of registers an invocation, straight from global memory. On a software adapter a load costs some twenty times a
 * multiply-add and workgroup memory is no faster than global, so what counts is products per load: 4 × 8 is best there.
 */
export function directText(variant: MatmulVariant): KernelText {
  const { layout, aWidth, bWidth, yWidth, bias, sideWidth } = variant
  const { tileM, tileN, workgroupSize } = variant.schedule as DirectSchedule
  const zeros: string[] = []
  for (let i = 0; i < tileM; i++) {
    for (let j = 0; j < tileN; j++) zeros.push(`var c${i}_${j} = 0.0;`)
  }
  const a: Operand = {
    name: 'a',
    tile: tileM,
    kContiguous: layout !== 'tn',
    width: aWidth,
    first: 'a0',
    stride: 'u.lda',
    row: 'm0',
    rows: 'u.M',
  }
  const b: Operand = {
    name: 'b',
    tile: tileN,
    kContiguous: layout === 'nt',
    width: bWidth,
    first: 'b0',
    stride: 'u.ldb',
    row: 'n0',
    rows: 'u.N',
  }
  const side =
    sideWidth === 0
      ? ''
      : `if (split == 0u) {
${contraction(
  { ...a, name: 'side_a', kContiguous: true, width: sideWidth, first: '0u', stride: 'u.rank' },
  {
    ...b,
    name: 'side_b',
    width: sideWidth,
    first: layout === 'nt' ? 'u.n_first * u.side_ldb' : '0u',
    stride: 'u.side_ldb',
  },
  '0u',
  'u.rank',
  'u.scale',
)}
}`
  const stores: string[] = []
  for (let i = 0; i < tileM; i++) {
    stores.push(`if (m0 + ${i}u < u.M) {`, `let at = y0 + (m0 + ${i}u) * u.ldy + u.n_first + n0;`)
    for (let j = 0; j < tileN; j += yWidth) {
      const value = (at: number): string =>
        bias === 'none' ? `c${i}_${at}` : `c${i}_${at} + bias${at}`
      stores.push(
        yWidth === 4
          ? `if (n0 + ${j}u < u.N) { y[(at + ${j}u) / 4u] = y_t(vec4<f32>(${[0, 1, 2, 3].map((n) => value(j + n)).join(', ')})${sideWidth ? '' : ' * u.scale'}); }`
          : `if (n0 + ${j}u < u.N) { y[at + ${j}u] = y_t((${value(j)})${sideWidth ? '' : ' * u.scale'}); }`,
      )
    }
    stores.push('}')
  }
  const biases: string[] = []
  if (bias !== 'none') {
    for (let j = 0; j < tileN; j++) {
      biases.push(`let bias${j} = f32(bias[u.n_first + min(n0 + ${j}u, u.N - 1u)]);`)
    }
  }
  return {
    main: [
      `let tile = group * ${workgroupSize}u + local;`,
      `if (tile >= u.tiles) { return; }`,
      tileIndex({ M: tileM, N: tileN }),
      ...zeros,
      contraction(a, b, 'k_start', 'k_end'),
      side,
      ...biases,
      ...stores,
    ].join('\n'),
  }
}
