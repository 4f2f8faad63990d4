// Causal and other 3-D convolutions on tensor cores: an implicit product of matrices, pixels of the result by channels, whose
// contraction runs over (tap, channel).
//
// Axes: M pixels of the result, T frames, Y rows, X columns, K channels in, O channels out.
//
// f32 operands are split into two f16 each, high and low: high · high + high · low + low · high leaves about 2^-22 of each
// product, less than tensor cores lose when they add (they cut off instead of rounding: some 2e-5 after 2592 products).
import { reads, writes, type BindingDecl, type KernelText } from '../../../program/define-kernel.ts'
import {
  lines,
  loadMatrix,
  multiplyAccumulate,
  packHalves,
  storeMatrix,
  subgroupMatrixDirectives,
  zeroMatrix,
} from '../../../wgsl/subgroup-matrix.ts'
import { convGeometry } from '../geometry.wgsl.ts'

export interface ConvMatrixVariant {
  /** f32 is computed from two halves of each operand, f16 from one. */
  readonly dtype: 'f32' | 'f16'
  readonly bias: 'none' | 'f32' | 'f16'
  /** Channels of the result that a workgroup computes; with 32 its subgroups lie above each other. */
  readonly blockN: 32 | 96
  /** Elements an index of y covers: 1 where the channels do not fill vectors, as in images. */
  readonly yWidth: 1 | 4
}

const SUBGROUP = 32
export const CONV_MATRIX_SIZE = 128
export const CONV_MATRIX_BLOCK_M = 128

/** Channels a step of the contraction takes. With two halves of each operand 16, so that two workgroups fit a multiprocessor. */
export function convMatrixStep(dtype: 'f32' | 'f16'): 16 | 32 {
  return dtype === 'f32' ? 16 : 32
}

/** Halves an f32 or f16 weight becomes. */
export function weightParts(dtype: 'f32' | 'f16'): 1 | 2 {
  return dtype === 'f32' ? 2 : 1
}

/** Vectors of workgroup memory: a row is padded by eight halves, which keeps eight rows apart in the banks. */
function layoutOf({ dtype, blockN }: ConvMatrixVariant) {
  const subgroupsN = blockN === 32 ? 1 : 2
  const tileM = (CONV_MATRIX_BLOCK_M * subgroupsN) / (CONV_MATRIX_SIZE / SUBGROUP)
  const tileN = blockN / subgroupsN
  const parts = weightParts(dtype)
  const row = convMatrixStep(dtype) / 8 + 1
  const firstB = parts * CONV_MATRIX_BLOCK_M * row
  const strip = tileN / 4 + 1
  const strips = (CONV_MATRIX_SIZE / SUBGROUP) * 16 * strip
  return {
    parts,
    row,
    firstB,
    strip,
    subgroupsN,
    tileM,
    tileN,
    total: Math.max(firstB + parts * blockN * row, strips),
  }
}

/** Bytes of workgroup memory. */
export function convMatrixBytes(variant: ConvMatrixVariant): number {
  return layoutOf(variant).total * 16
}

export function convMatrixBindings(variant: ConvMatrixVariant): Record<string, BindingDecl> {
  const { dtype, bias, yWidth } = variant
  return {
    x: reads(dtype === 'f32' ? 'f32' : 'u32', 4),
    weight: reads('u32', 4),
    ...(bias === 'none' ? {} : { bias: reads(bias) }),
    y: yWidth === 1 ? writes(dtype) : writes(dtype === 'f32' ? 'f32' : 'u32', 4),
  }
}

export function convMatrixText(variant: ConvMatrixVariant): KernelText {
  const { dtype, bias, blockN, yWidth } = variant
  const isSplit = dtype === 'f32'
  const { parts, row, firstB, strip, subgroupsN, tileM, tileN, total } = layoutOf(variant)
  const step = convMatrixStep(dtype)
  const vectors = step / 8
  const lowA = CONV_MATRIX_BLOCK_M * row
  const rowsA = CONV_MATRIX_SIZE / vectors
  const loadsA = CONV_MATRIX_BLOCK_M / rowsA
  const loadsB = (parts * blockN) / rowsA
  const fragmentsM = tileM / 16
  const fragmentsN = tileN / 16

  // Eight neighbours that store together take rows whose 16-byte places differ modulo the 128 bytes of all banks.
  const rowInBlock = isSplit
    ? `(place & 3u) * 2u + ((place >> 2u) & 1u) + (place >> 3u) * 8u`
    : `(place & 1u) * 4u + ((place >> 1u) & 3u) + (place >> 3u) * 8u`

  const fetchA = lines(loadsA, (i) =>
    isSplit
      ? /* wgsl */ `
    { let at = (max(e${i}, 0) + i32(k + column * 8u)) / 4;
      a${i}_0 = select(vec4<f32>(0.0), x[at], e${i} >= 0);
      a${i}_1 = select(vec4<f32>(0.0), x[at + 1], e${i} >= 0); }`
      : /* wgsl */ `
    a${i}_0 = select(vec4<u32>(0u), x[(max(e${i}, 0) + i32(k + column * 8u)) / 8], e${i} >= 0);`,
  )
  const fetch = `${fetchA}
${lines(loadsB, (i) => `    b${i} = weight[b_at${i} + step * ${vectors}u];`)}`

  const held = isSplit ? 'vec4<f32>' : 'vec4<u32>'
  const storeA = lines(loadsA, (i) => {
    const at = `at + ${i * rowsA * row}u`
    if (!isSplit) return `    tiles[${at}] = a${i}_0;`
    return /* wgsl */ `    {
      let halves = split(a${i}_0, a${i}_1);
      tiles[${at}] = halves.high;
      tiles[${at} + ${lowA}u] = halves.low;
    }`
  })
  const store = `${storeA}
${lines(loadsB, (i) => `    tiles[${firstB}u + at + ${i * rowsA * row}u] = b${i};`)}`

  const advance = /* wgsl */ `
    k += ${step}u;
    if (k >= u.K) {
      k = 0u;
      tap = min(tap + 1u, u.kT * u.kY * u.kX - 1u);
      let kx = tap % u.kX;
      let ky = (tap / u.kX) % u.kY;
      let kt = tap / (u.kX * u.kY);
${lines(loadsA, (i) => `      e${i} = element_of(p${i}, kt, ky, kx);`)}
    }`

  const multiply = lines(
    step / 16,
    (q) => `    {
${lines(fragmentsM * parts, (n) => {
  const [part, i] = [Math.floor(n / fragmentsM), n % fragmentsM]
  return `      let a${part}_${i} = ${loadMatrix('left', 'row_major', 'tiles', `fragment_a + ${part * lowA + i * 16 * row + q * 2}u`, row)};`
})}
${lines(
  fragmentsN,
  (j) => `      {
${lines(parts, (part) => `        let b${part} = ${loadMatrix('right', 'col_major', 'tiles', `fragment_b + ${part * blockN * row + j * 16 * row + q * 2}u`, row)};`)}
${lines(fragmentsM, (i) =>
  (isSplit
    ? [
        ['a1', 'b0'],
        ['a0', 'b1'],
        ['a0', 'b0'],
      ]
    : [['a0', 'b0']]
  )
    .map(([a, b]) => `        ${multiplyAccumulate(`${a}_${i}`, b!, `c${i}_${j}`)}`)
    .join('\n'),
)}
      }`,
)}
    }`,
  )

  const width = yWidth === 1 ? 1 : isSplit ? 4 : 8
  const perRow = tileN / width
  const biasOf = (offset: number): string =>
    bias === 'none'
      ? ''
      : ` + vec4<f32>(${[0, 1, 2, 3].map((c) => `f32(bias[n + ${offset + c}u])`).join(', ')})`
  const value = (offset: number): string =>
    `bitcast<vec4<f32>>(tiles[cell + ${offset / 4}u])${biasOf(offset)}`
  const out = lines(
    fragmentsM,
    (i) => /* wgsl */ `
${lines(fragmentsN, (j) => `  ${storeMatrix('row_major', 'tiles', `strip + ${j * 4}u`, `c${i}_${j}`, strip)}`)}
  workgroupBarrier();
  for (var q = lane; q < ${16 * perRow}u; q += ${SUBGROUP}u) {
    let m = m0 + subgroup_m + ${i * 16}u + q / ${perRow}u;
    let n = n0 + subgroup_n + (q % ${perRow}u) * ${width}u;
    if (m < u.M && n < u.O) {
      let cell = strip + (q / ${perRow}u) * ${strip}u + (q % ${perRow}u) * ${width}u / 4u;
      ${
        yWidth === 1
          ? `y[u.y_first + m * u.O + n] = y_t(bitcast<f32>(tiles[cell][(q % ${perRow}u) % 4u])${bias === 'none' ? '' : ' + f32(bias[n])'});`
          : isSplit
            ? `y[(u.y_first + m * u.O + n) / 4u] = ${value(0)};`
            : `let low = ${value(0)}; let high = ${value(4)};
      y[(u.y_first + m * u.O + n) / 8u] = ${packHalves('low', 'high')};`
      }
    }
  }
  workgroupBarrier();`,
  )

  return {
    directives: subgroupMatrixDirectives,
    declarations: [
      convGeometry,
      `var<workgroup> tiles: array<vec4<u32>, ${total}>;`,
      isSplit ? splitText : '',
    ].join('\n'),
    main: /* wgsl */ `
  // Neighbouring workgroups share their pixels.
  let tiles_n = (u.O + ${blockN - 1}u) / ${blockN}u;
  let m0 = (group / tiles_n) * ${CONV_MATRIX_BLOCK_M}u;
  let n0 = (group % tiles_n) * ${blockN}u;
  if (m0 >= u.M) { return; }
  let subgroup = local / ${SUBGROUP}u;
  let lane = local % ${SUBGROUP}u;
  let subgroup_m = (subgroup / ${subgroupsN}u) * ${tileM}u;
  let subgroup_n = (subgroup % ${subgroupsN}u) * ${tileN}u;
  let place = local / ${vectors}u;
  let column = local % ${vectors}u;
  let row = ${rowInBlock};
  let at = row * ${row}u + column;
  let fragment_a = subgroup_m * ${row}u;
  let fragment_b = ${firstB}u + subgroup_n * ${row}u;
  let strip = subgroup * ${16 * strip}u;
${lines(loadsA, (i) => `  let p${i} = pixel_of(min(m0 + row + ${i * rowsA}u, u.M - 1u));\n  var a${i}_0: ${held};${isSplit ? ` var a${i}_1: ${held};` : ''}`)}
${lines(loadsB, (i) => {
  const n = `min(n0 + (row + ${i * rowsA}u) % ${blockN}u, u.O - 1u)`
  return `  let b_at${i} = (${n} * ${parts}u + (row + ${i * rowsA}u) / ${blockN}u) * u.depth_vectors + column;\n  var b${i}: vec4<u32>;`
})}
${lines(fragmentsM, (i) => lines(fragmentsN, (j) => `  var c${i}_${j} = ${zeroMatrix};`))}
  var tap = 0u;
  var k = 0u;
${lines(loadsA, (i) => `  var e${i} = element_of(p${i}, 0u, 0u, 0u);`)}
  let steps = u.depth_vectors / ${vectors}u;
  {
    let step = 0u;
${fetch}
  }
  for (var s = 0u; s < steps; s++) {
${store}
    workgroupBarrier();
    let step = min(s + 1u, steps - 1u);
${advance}
${fetch}
${multiply}
    workgroupBarrier();
  }
${out}`,
  }
}

/**
 * Eight f32 as two f16 each. The high one is cut off, not rounded: NVIDIA's compiler takes `unpack2x16float(pack2x16float(x))`
 * for x, and with it the low one for 0.
 */
const splitText = /* wgsl */ `
struct Halves { high: vec4<u32>, low: vec4<u32> }
fn cut(value: vec4<f32>) -> vec4<f32> {
  return bitcast<vec4<f32>>(bitcast<vec4<u32>>(value) & vec4<u32>(0xffffe000u));
}
fn split(first: vec4<f32>, second: vec4<f32>) -> Halves {
  let a = cut(first);
  let b = cut(second);
  let low_a = first - a;
  let low_b = second - b;
  return Halves(${packHalves('a', 'b')}, ${packHalves('low_a', 'low_b')});
}`

/** How weights lie in memory before they are packed. */
export interface ConvWeightVariant {
  readonly weight: 'f32' | 'f16'
  readonly parts: 1 | 2
}

/** One invocation packs eight of a row's elements: [O, parts, depth_vectors] vectors of eight f16, zero past the row's end. */
export function convWeightText({ parts }: ConvWeightVariant): KernelText {
  const element = (c: number): string => `element(o, e * 8u + ${c}u)`
  return {
    declarations: /* wgsl */ `${parts === 2 ? splitText : ''}
fn element(o: u32, kk: u32) -> f32 {
  if (kk >= u.depth) { return 0.0; }
  return f32(weight[o * u.depth + kk]);
}`,
    main: /* wgsl */ `
  let i = group * 64u + local;
  let o = i / u.depth_vectors;
  let e = i % u.depth_vectors;
  if (o >= u.O) { return; }
  let first = vec4<f32>(${[0, 1, 2, 3].map(element).join(', ')});
  let second = vec4<f32>(${[4, 5, 6, 7].map(element).join(', ')});
  ${
    parts === 2
      ? `let halves = split(first, second);
  packed[o * 2u * u.depth_vectors + e] = halves.high;
  packed[(o * 2u + 1u) * u.depth_vectors + e] = halves.low;`
      : `packed[o * u.depth_vectors + e] = ${packHalves('first', 'second')};`
  }`,
  }
}
