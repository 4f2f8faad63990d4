import type { KernelText } from '../../../program/define-kernel.ts'
import {
  blockOf,
  tileIndex,
  type BroadcastSchedule,
  type MatmulVariant,
} from '../matmul-variant.ts'

/** The workgroup is one subgroup, so whatever is uniform in it is uniform in the subgroup; the analysis cannot know. */
export const subgroupDirectives = `enable subgroups;
diagnostic(off, subgroup_uniformity);`

const components = ['x', 'y', 'z', 'w'] as const

/** One operand of a contraction, as the generated loop reads it. Rows are those of the result's tile. */
export interface LaneOperand {
  /** Binding, and prefix of the registers. */
  readonly name: string
  /** K is contiguous; else the rows are. */
  readonly kContiguous: boolean
  /** WGSL: element index of row 0 at k 0, distance between rows (or between values of k), first row of the tile, rows. */
  readonly first: string
  readonly stride: string
  readonly row: string
  readonly rows: string
}

/** Loads of one step of `width` values of k, what they need before the loop, and how a value is named. */
export interface LaneLoads {
  readonly before: readonly string[]
  readonly lines: readonly string[]
  readonly at: (row: number, k: number) => string
}

/** One or four elements of a binding as f32. */
export function loadFloats(name: string, width: 1 | 4, index: string): string {
  return width === 4 ? `vec4<f32>(${name}[(${index}) / 4u])` : `f32(${name}[${index}])`
}

/** Row i of a lane in the tile: a subgroup apart where K is contiguous, else neighbours. */
export function laneRow(kContiguous: boolean, tile: number, lanes: number, i: number): string {
  return kContiguous ? `lane + ${i * lanes}u` : `lane * ${tile}u + ${i}u`
}

/**
 * Rows that each lane has to itself. What lies past the end of k reads the last value, and meets a zero of the other operand;
 * rows past the end repeat the last and are not stored.
 */
function ownRows(operand: LaneOperand, tile: number, lanes: number, width: 1 | 4): LaneLoads {
  const { name, kContiguous, first, stride, row, rows } = operand
  const before: string[] = []
  const lines: string[] = []
  for (let i = 0; i < tile; i += kContiguous ? 1 : width) {
    const start = `${row} + ${laneRow(kContiguous, tile, lanes, i)}`
    before.push(
      kContiguous
        ? `let ${name}_at${i} = ${first} + min(${start}, ${rows} - 1u) * ${stride};`
        : `let ${name}_at${i} = ${first} + min(${start}, ${rows} - ${width}u);`,
    )
    if (kContiguous) {
      lines.push(`let ${name}${i} = ${loadFloats(name, width, `${name}_at${i} + k`)};`)
      continue
    }
    for (let k = 0; k < width; k++) {
      const index = `${name}_at${i} + min(k + ${k}u, k_last) * ${stride}`
      lines.push(`let ${name}${i}_${k} = ${loadFloats(name, width, index)};`)
    }
  }
  const at = (i: number, k: number): string => {
    if (width === 1) return kContiguous ? `${name}${i}` : `${name}${i}_0`
    return kContiguous
      ? `${name}${i}.${components[k]}`
      : `${name}${i - (i % 4)}_${k}.${components[i % 4]}`
  }
  return { before, lines, at }
}

/**
 * Rows that all lanes share, spread over the lanes so that one load brings a step's values for as many rows as there are lanes:
 * a lane has a row, or where rows are contiguous four rows at one of several k. A broadcast hands each value to all.
 */
export function sharedRows(
  operand: LaneOperand,
  tile: number,
  lanes: number,
  width: 1 | 4,
): LaneLoads {
  const { name, kContiguous, first, stride, row, rows } = operand
  const before: string[] = []
  const lines: string[] = []
  const zero = width === 4 ? 'vec4<f32>(0.0)' : '0.0'
  if (kContiguous || width === 1) {
    for (let j = 0; j < tile; j += lanes) {
      const start = `min(${row} + ${j}u + lane, ${rows} - 1u)`
      before.push(
        kContiguous
          ? `let ${name}_at${j} = ${first} + ${start} * ${stride};`
          : `let ${name}_at${j} = ${first} + ${start};`,
      )
      const index = kContiguous ? `${name}_at${j} + k` : `${name}_at${j} + k * ${stride}`
      lines.push(`let ${name}${j} = ${loadFloats(name, width, index)};`)
    }
    return {
      before,
      lines,
      at: (j, k) =>
        `subgroupBroadcast(${name}${j - (j % lanes)}${width === 4 ? `.${components[k]}` : ''}, ${j % lanes}u)`,
    }
  }
  const quads = Math.ceil(tile / 4)
  const perLoad = Math.max(1, Math.floor(lanes / quads))
  const loadsPerK = Math.ceil(quads / lanes)
  for (let k = 0; k < 4; k += perLoad) {
    for (let part = 0; part < loadsPerK; part++) {
      // The lane's quad of rows and its k in this load.
      const quad = `(lane % ${Math.min(quads, lanes)}u + ${part * lanes}u)`
      const own = `k + ${k}u + lane / ${Math.min(quads, lanes)}u`
      lines.push(
        `let ${name}${k}_${part} = select(${zero}, ${loadFloats(
          name,
          4,
          `${first} + min(${row} + ${quad} * 4u, ${rows} - 4u) + min(${own}, k_last) * ${stride}`,
        )}, ${own} <= k_last);`,
      )
    }
  }
  return {
    before,
    lines,
    at: (j, k) => {
      const quad = Math.floor(j / 4)
      const part = Math.floor(quad / lanes)
      const lane = (quad % lanes) + (k % perLoad) * Math.min(quads, lanes)
      return `subgroupBroadcast(${name}${k - (k % perLoad)}_${part}.${components[j % 4]}, ${lane}u)`
    },
  }
}

/** Loop that adds a contraction to the accumulators `c{i}_{j}`: i of the owned rows, j of the shared. */
export function laneContraction(
  { lanes, laneTile, sharedTile }: BroadcastSchedule,
  own: LaneOperand,
  shared: LaneOperand,
  width: 1 | 4,
  range: { readonly from: string; readonly to: string },
  factor = '',
): string {
  const ofOwn = ownRows(own, laneTile, lanes, width)
  const ofShared = sharedRows(shared, sharedTile, lanes, width)
  const sums: string[] = []
  for (let k = 0; k < width; k++) {
    for (let j = 0; j < sharedTile; j++) {
      sums.push(`{ let s = ${factor}${ofShared.at(j, k)};`)
      for (let i = 0; i < laneTile; i++) {
        sums.push(`c${i}_${j} = fma(${ofOwn.at(i, k)}, s, c${i}_${j});`)
      }
      sums.push('}')
    }
  }
  return [
    `let k_last = ${range.to} - 1u;`,
    ...ofOwn.before,
    ...ofShared.before,
    `for (var k = ${range.from}; k < ${range.to}; k += ${width}u) {`,
    ...ofOwn.lines,
    ...ofShared.lines,
    ...sums,
    `}`,
  ].join('\n')
}

/**
 * Bias of the tile's columns as `bias{j}`: loaded by the lanes together and broadcast where the lanes share the columns.
 * `columns` is the number of columns an invocation has.
 */
export function laneBias(
  owned: boolean,
  columns: number,
  lanes: number,
  at: (column: string) => string,
  ownColumn: (i: number) => string,
): string[] {
  const lines: string[] = []
  for (let j = 0; j < columns; j += owned ? 1 : lanes) {
    lines.push(`let bias_lane${j} = f32(bias[${at(owned ? ownColumn(j) : `lane + ${j}u`)}]);`)
  }
  for (let j = 0; j < columns; j++) {
    lines.push(
      owned
        ? `let bias${j} = bias_lane${j};`
        : `let bias${j} = subgroupBroadcast(bias_lane${j - (j % lanes)}, ${j % lanes}u);`,
    )
  }
  return lines
}

/**
 * One subgroup a workgroup. Lanes own the rows of one operand and broadcast the other's, whose loads are then spread over the
 * lanes instead of repeated in each. On lavapipe a load of four values costs 47 cycles of a vector, and most of the compile
 * time; a multiply-add 1, a broadcast 1.5.
 */
export function broadcastText(variant: MatmulVariant): KernelText {
  const { layout, aWidth, yWidth, bias, sideWidth } = variant
  const schedule = variant.schedule as BroadcastSchedule
  const { lanes, laneTile, sharedTile, owner } = schedule
  const a: LaneOperand = {
    name: 'a',
    kContiguous: layout !== 'tn',
    first: 'a0',
    stride: 'u.lda',
    row: 'm0',
    rows: 'u.M',
  }
  const b: LaneOperand = {
    name: 'b',
    kContiguous: layout === 'nt',
    first: 'b0',
    stride: 'u.ldb',
    row: 'n0',
    rows: 'u.N',
  }
  const sideA: LaneOperand = {
    ...a,
    name: 'side_a',
    kContiguous: true,
    first: '0u',
    stride: 'u.rank',
  }
  const sideB: LaneOperand = {
    ...b,
    name: 'side_b',
    first: layout === 'nt' ? 'u.n_first * u.side_ldb' : '0u',
    stride: 'u.side_ldb',
  }
  const order = <T>(ofA: T, ofB: T): readonly [own: T, shared: T] =>
    owner === 'a' ? [ofA, ofB] : [ofB, ofA]
  const [own, shared] = order(a, b)
  const [sideOwn, sideShared] = order(sideA, sideB)
  const ownRow = (i: number): string => laneRow(own.kContiguous, laneTile, lanes, i)
  const finish = (i: number, j: number): string => {
    const sum = `c${i}_${j}`
    const total = bias === 'none' ? sum : `(${sum} + bias${owner === 'a' ? j : i})`
    return sideWidth ? total : `${total} * u.scale`
  }
  const store = (at: string, values: readonly string[]): string =>
    yWidth === 4
      ? `y[(${at}) / 4u] = y_t(vec4<f32>(${values.join(', ')}));`
      : `y[${at}] = y_t(${values[0]});`
  const vector = Array.from({ length: yWidth }, (_, c) => c)
  const stores: string[] = []
  if (owner === 'a') {
    for (let i = 0; i < laneTile; i++) {
      stores.push(`if (m0 + ${ownRow(i)} < u.M) {`)
      stores.push(`let at = y0 + (m0 + ${ownRow(i)}) * u.ldy + u.n_first + n0;`)
      for (let j = 0; j < sharedTile; j += yWidth) {
        const values = vector.map((c) => finish(i, j + c))
        stores.push(`if (n0 + ${j}u < u.N) { ${store(`at + ${j}u`, values)} }`)
      }
      stores.push('}')
    }
  } else {
    for (let i = 0; i < laneTile; i += yWidth) {
      stores.push(`if (n0 + ${ownRow(i)} < u.N) {`)
      stores.push(`let at = y0 + m0 * u.ldy + u.n_first + n0 + ${ownRow(i)};`)
      for (let j = 0; j < sharedTile; j++) {
        const values = vector.map((c) => finish(i + c, j))
        stores.push(`if (m0 + ${j}u < u.M) { ${store(`at + ${j}u * u.ldy`, values)} }`)
      }
      stores.push('}')
    }
  }
  return {
    directives: subgroupDirectives,
    builtins: '@builtin(subgroup_invocation_id) lane: u32',
    main: [
      `let tile = group;`,
      `if (tile >= u.tiles) { return; }`,
      tileIndex(blockOf(schedule)),
      ...Array.from(
        { length: laneTile * sharedTile },
        (_, ij) => `var c${Math.floor(ij / sharedTile)}_${ij % sharedTile} = 0.0;`,
      ),
      laneContraction(schedule, own, shared, aWidth, {
        from: 'k_start',
        to: 'k_end',
      }),
      sideWidth
        ? `if (split == 0u) {\n${laneContraction(
            schedule,
            sideOwn,
            sideShared,
            sideWidth,
            { from: '0u', to: 'u.rank' },
            'u.scale * ',
          )}\n}`
        : '',
      ...(bias === 'none'
        ? []
        : laneBias(
            owner === 'b',
            owner === 'a' ? sharedTile : laneTile,
            lanes,
            (column) => `u.n_first + min(n0 + ${column}, u.N - 1u)`,
            ownRow,
          )),
      ...stores,
    ].join('\n'),
  }
}
