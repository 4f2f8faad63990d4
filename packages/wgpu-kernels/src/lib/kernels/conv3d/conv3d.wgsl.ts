// Axes: T frames, Y rows, X columns of pixels, K channels in, O channels out. Pixels of the result are the rows of a product
// whose contraction runs over (tap, k).
import { reads, writes, type BindingDecl, type KernelText } from '../../program/define-kernel.ts'
import {
  blockOf,
  workgroupSizeOf,
  type BroadcastSchedule,
  type MatmulSchedule,
  type TileSchedule,
} from '../matmul/matmul-variant.ts'
import { convGeometry } from './geometry.wgsl.ts'
import {
  laneBias,
  loadFloats,
  sharedRows,
  subgroupDirectives,
} from '../matmul/units/broadcast.wgsl.ts'
import {
  multiplyBlocks,
  stageBlock,
  storeAccumulators,
  zeroAccumulators,
} from '../matmul/units/tile.wgsl.ts'

export interface Conv3dVariant {
  readonly x: 'f32' | 'f16'
  readonly weight: 'f32' | 'f16'
  readonly bias: 'none' | 'f32' | 'f16'
  readonly y: 'f32' | 'f16'
  /** Elements an index of x and weight covers; 4 where K is a multiple of 4. */
  readonly kWidth: 1 | 4
  /** Elements an index of y covers; 4 where O is a multiple of 4. */
  readonly oWidth: 1 | 4
  readonly schedule: MatmulSchedule
}

export function conv3dBindings(variant: Conv3dVariant): Record<string, BindingDecl> {
  const { x, weight, bias, y, kWidth, oWidth } = variant
  return {
    x: reads(x, kWidth),
    weight: reads(weight, kWidth),
    ...(bias === 'none' ? {} : { bias: reads(bias) }),
    y: writes(y, oWidth),
  }
}

const tileHead = (block: { M: number; N: number }): string => /* wgsl */ `
  let m0 = (tile % u.tiles_m) * ${block.M}u;
  let n0 = (tile / u.tiles_m) * ${block.N}u;`

function withBias(bias: Conv3dVariant['bias'], sum: string, column: string): string {
  return bias === 'none' ? sum : `(${sum} + f32(bias[min(${column}, u.O - 1u)]))`
}

const components = ['x', 'y', 'z', 'w'] as const

/** A tile of registers an invocation, straight from global memory: see the direct unit of matmul for why. */
function directText(variant: Conv3dVariant): KernelText {
  const { kWidth, oWidth, bias } = variant
  const { M: tileM, N: tileN } = blockOf(variant.schedule)
  const size = variant.schedule.unit === 'direct' ? variant.schedule.workgroupSize : 0
  const rows = Array.from({ length: tileM }, (_, i) => i)
  const columns = Array.from({ length: tileN }, (_, j) => j)
  const parts = kWidth === 4 ? components.map((c) => `.${c}`) : ['']
  const V = kWidth === 4 ? 'vec4<f32>' : 'f32'
  const at = (element: string): string => (kWidth === 4 ? `(${element}) / 4u` : element)
  const stores = rows.map((i) =>
    [
      `if (m0 + ${i}u < u.M) {`,
      `let at = u.y_first + (m0 + ${i}u) * u.O + n0;`,
      ...columns
        .filter((j) => j % oWidth === 0)
        .map((j) => {
          const value = (n: number): string => withBias(bias, `c${i}_${n}`, `n0 + ${n}u`)
          return oWidth === 4
            ? `if (n0 + ${j}u < u.O) { y[(at + ${j}u) / 4u] = y_t(vec4<f32>(${[0, 1, 2, 3].map((n) => value(j + n)).join(', ')})); }`
            : `if (n0 + ${j}u < u.O) { y[at + ${j}u] = y_t(${value(j)}); }`
        }),
      '}',
    ].join('\n'),
  )
  return {
    declarations: convGeometry,
    main: [
      `let tile = group * ${size}u + local;`,
      `if (tile >= u.tiles) { return; }`,
      tileHead({ M: tileM, N: tileN }),
      // Pixels and channels past the end repeat the last, unused.
      ...rows.map((i) => `let p${i} = pixel_of(min(m0 + ${i}u, u.M - 1u));`),
      `let taps = u.kT * u.kY * u.kX;`,
      ...columns.map((j) => `let w_row${j} = min(n0 + ${j}u, u.O - 1u) * taps * u.K;`),
      ...rows.flatMap((i) => columns.map((j) => `var c${i}_${j} = 0.0;`)),
      `for (var tap = 0u; tap < taps; tap++) {`,
      `let kx = tap % u.kX;`,
      `let ky = (tap / u.kX) % u.kY;`,
      `let kt = tap / (u.kX * u.kY);`,
      ...rows.map((i) => `let e${i} = element_of(p${i}, kt, ky, kx);`),
      ...rows.map((i) => `let x_at${i} = u32(max(e${i}, 0));`),
      `for (var k = 0u; k < u.K; k += ${kWidth}u) {`,
      ...rows.map(
        (i) => `let x${i} = select(${V}(0.0), ${V}(x[${at(`x_at${i} + k`)}]), e${i} >= 0);`,
      ),
      ...columns.map((j) => `let w${j} = ${V}(weight[${at(`w_row${j} + tap * u.K + k`)}]);`),
      ...parts.flatMap((part) =>
        rows.flatMap((i) =>
          columns.map((j) => `c${i}_${j} = fma(x${i}${part}, w${j}${part}, c${i}_${j});`),
        ),
      ),
      `}`,
      `}`,
      ...stores,
    ].join('\n'),
  }
}

/** Lanes own pixels and share the weights: see the broadcast unit of matmul for why. */
function broadcastText(variant: Conv3dVariant): KernelText {
  const { kWidth, oWidth, bias } = variant
  const { lanes, laneTile, sharedTile } = variant.schedule as BroadcastSchedule
  const rows = Array.from({ length: laneTile }, (_, i) => i)
  const weights = sharedRows(
    {
      name: 'weight',
      kContiguous: true,
      first: '0u',
      stride: 'depth',
      row: 'n0',
      rows: 'u.O',
    },
    sharedTile,
    lanes,
    kWidth,
  )
  const zero = kWidth === 4 ? 'vec4<f32>(0.0)' : '0.0'
  const sums: string[] = []
  for (let k = 0; k < kWidth; k++) {
    for (let j = 0; j < sharedTile; j++) {
      sums.push(`{ let s = ${weights.at(j, k)};`)
      for (const i of rows) {
        sums.push(
          `c${i}_${j} = fma(x${i}${kWidth === 4 ? `.${components[k]}` : ''}, s, c${i}_${j});`,
        )
      }
      sums.push('}')
    }
  }
  const stores = rows.flatMap((i) => [
    `if (m0 + lane + ${i * lanes}u < u.M) {`,
    `let at = u.y_first + (m0 + lane + ${i * lanes}u) * u.O + n0;`,
    ...Array.from({ length: sharedTile / oWidth }, (_, quad) => {
      const j = quad * oWidth
      const value = (n: number): string =>
        bias === 'none' ? `c${i}_${n}` : `c${i}_${n} + bias${n}`
      return oWidth === 4
        ? `if (n0 + ${j}u < u.O) { y[(at + ${j}u) / 4u] = y_t(vec4<f32>(${[0, 1, 2, 3].map((c) => value(j + c)).join(', ')})); }`
        : `if (n0 + ${j}u < u.O) { y[at + ${j}u] = y_t(${value(j)}); }`
    }),
    '}',
  ])
  return {
    directives: subgroupDirectives,
    builtins: '@builtin(subgroup_invocation_id) lane: u32',
    declarations: convGeometry,
    main: [
      `let tile = group;`,
      `if (tile >= u.tiles) { return; }`,
      tileHead(blockOf(variant.schedule)),
      // Pixels past the end repeat the last, unused.
      ...rows.map((i) => `let p${i} = pixel_of(min(m0 + lane + ${i * lanes}u, u.M - 1u));`),
      `let taps = u.kT * u.kY * u.kX;`,
      `let depth = taps * u.K;`,
      ...weights.before,
      ...rows.flatMap((i) => Array.from({ length: sharedTile }, (_, j) => `var c${i}_${j} = 0.0;`)),
      `for (var tap = 0u; tap < taps; tap++) {`,
      `let kx = tap % u.kX;`,
      `let ky = (tap / u.kX) % u.kY;`,
      `let kt = tap / (u.kX * u.kY);`,
      `let tap_k = tap * u.K;`,
      ...rows.map((i) => `let e${i} = element_of(p${i}, kt, ky, kx);`),
      ...rows.map((i) => `let x_at${i} = u32(max(e${i}, 0));`),
      `for (var k = tap_k; k < tap_k + u.K; k += ${kWidth}u) {`,
      ...rows.map(
        (i) =>
          `let x${i} = select(${zero}, ${loadFloats('x', kWidth, `x_at${i} + k - tap_k`)}, e${i} >= 0);`,
      ),
      ...weights.lines,
      ...sums,
      `}`,
      `}`,
      ...(bias === 'none'
        ? []
        : laneBias(
            false,
            sharedTile,
            lanes,
            (column) => `min(n0 + ${column}, u.O - 1u)`,
            () => '',
          )),
      ...stores,
    ].join('\n'),
  }
}

/** Implicit product of matrices with blocks in workgroup memory; the loader finds the pixel under each tap. */
function tileText(variant: Conv3dVariant): KernelText {
  const { kWidth, oWidth, bias } = variant
  const schedule = variant.schedule as TileSchedule
  const { blockM, blockN, blockK, tileN, tileM } = schedule
  const size = workgroupSizeOf(schedule)
  const element = (kk: string): string => /* wgsl */ `
  let tap = ${kk} / u.K;
  let k = ${kk} % u.K;
  let kx = tap % u.kX;
  let ky = (tap / u.kX) % u.kY;
  let kt = tap / (u.kX * u.kY);
  let e = element_of(p, kt, ky, kx);`
  return {
    declarations: [
      convGeometry,
      `var<workgroup> tile_a: array<f32, ${blockM * blockK}>;`,
      `var<workgroup> tile_b: array<f32, ${blockN * blockK}>;`,
      kWidth === 4
        ? /* wgsl */ `
fn load_x(m: u32, kk: u32, depth: u32) -> vec4<f32> {
  if (m >= u.M || kk >= depth) { return vec4<f32>(0.0); }
  let p = pixel_of(m);
  ${element('kk')}
  if (e < 0) { return vec4<f32>(0.0); }
  return vec4<f32>(x[(u32(e) + k) / 4u]);
}
fn load_weight(n: u32, kk: u32, depth: u32) -> vec4<f32> {
  if (n >= u.O || kk >= depth) { return vec4<f32>(0.0); }
  return vec4<f32>(weight[(n * depth + kk) / 4u]);
}`
        : /* wgsl */ `
fn load_x(m: u32, kk: u32, depth: u32) -> vec4<f32> {
  var v = vec4<f32>(0.0);
  if (m >= u.M) { return v; }
  let p = pixel_of(m);
  for (var c = 0u; c < 4u && kk + c < depth; c++) {
    ${element('(kk + c)')}
    if (e >= 0) { v[c] = f32(x[u32(e) + k]); }
  }
  return v;
}
fn load_weight(n: u32, kk: u32, depth: u32) -> vec4<f32> {
  var v = vec4<f32>(0.0);
  if (n >= u.O) { return v; }
  for (var c = 0u; c < 4u && kk + c < depth; c++) { v[c] = f32(weight[n * depth + kk + c]); }
  return v;
}`,
    ].join('\n'),
    main: [
      `let tile = group;`,
      `if (tile >= u.tiles) { return; }`,
      tileHead({ M: blockM, N: blockN }),
      `let depth = u.kT * u.kY * u.kX * u.K;`,
      `let row0 = (local / ${blockN / tileN}u) * ${tileM}u;`,
      `let col0 = (local % ${blockN / tileN}u) * ${tileN}u;`,
      zeroAccumulators(schedule),
      `for (var k0 = 0u; k0 < depth; k0 += ${blockK}u) {`,
      `workgroupBarrier();`,
      stageBlock(
        {
          tile: 'tile_a',
          block: blockM,
          alongK: true,
          load: (row, k) => `load_x(m0 + ${row}, k0 + ${k}, depth)`,
        },
        blockK,
        size,
      ),
      stageBlock(
        {
          tile: 'tile_b',
          block: blockN,
          alongK: true,
          load: (row, k) => `load_weight(n0 + ${row}, k0 + ${k}, depth)`,
        },
        blockK,
        size,
      ),
      `workgroupBarrier();`,
      multiplyBlocks(schedule),
      `}`,
      storeAccumulators(
        schedule,
        oWidth,
        (row, column) => `${row} < u.M && ${column} < u.O`,
        (row, column) => `u.y_first + ${row} * u.O + ${column}`,
        (i, j) => withBias(bias, `c${i}_${j}`, `n0 + col0 + ${j}u`),
      ),
    ].join('\n'),
  }
}

export function conv3dText(variant: Conv3dVariant): KernelText {
  switch (variant.schedule.unit) {
    case 'direct':
      return directText(variant)
    case 'broadcast':
      return broadcastText(variant)
    default:
      return tileText(variant)
  }
}
