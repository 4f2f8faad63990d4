// Axes: N queries, M keys, D head channels. All tensors are [B, tokens, H, D].
import { reads, writes, type BindingDecl, type KernelText } from '../../../program/define-kernel.ts'

/** Queries and keys of a tile; both passes use square tiles. */
export const TILE = 32
/** Invocations a workgroup: each has a 2 × 4 patch of a tile of scores. */
export const FLASH_WORKGROUP = 128
/** Channels staged at once for the results: eight invocations with four each. */
const COLUMNS = 32
/**
 * Floats of staging memory. It holds a tile of `COLUMNS` channels while results are summed, and two (forward) or four
 * (backward) tiles of fewer channels while scores are; with the weights that stays below the 16 KiB every adapter has.
 */
const STAGING = TILE * COLUMNS

export interface FlashVariant {
  readonly pass: 'forward' | 'dq' | 'dkv'
  /** Dtypes of q, k, v, and of the results. */
  readonly q: 'f32' | 'f16'
  readonly k: 'f32' | 'f16'
  readonly v: 'f32' | 'f16'
  readonly dout: 'f32' | 'f16'
  readonly bias: boolean
  readonly keyBias: boolean
  /** Channels of the result a workgroup computes: a multiple of 32 up to 128. Wider heads are computed in slices. */
  readonly columns: 32 | 64 | 96 | 128
}

export function flashBindings(variant: FlashVariant): Record<string, BindingDecl> {
  const { pass, q, k, v, dout, bias, keyBias } = variant
  return {
    q: reads(q),
    k: reads(k),
    v: reads(v),
    ...(pass === 'forward' ? {} : { dout: reads(dout), lse: reads('f32'), delta: reads('f32') }),
    ...(bias ? { bias: reads('f32') } : {}),
    ...(keyBias ? { key_bias: reads('f32') } : {}),
    ...(pass === 'forward'
      ? { out: writes(q), lse: writes('f32') }
      : pass === 'dq'
        ? { dq: writes(q) }
        : { dk: writes(k), dv: writes(v) }),
  }
}

/** Loads `TILE` rows of `width` channels of a [tokens, H·D] tensor into the staging memory, with zeros outside. */
function stage(
  offset: number,
  source: string,
  first: string,
  row0: string,
  rows: string,
  channel0: string,
  width: number,
): string {
  return /* wgsl */ `
    for (var e = local; e < ${TILE * width}u; e += ${FLASH_WORKGROUP}u) {
      let r = ${row0} + e / ${width}u;
      let c = ${channel0} + e % ${width}u;
      var value = 0.0;
      if (r < ${rows} && c < u.D) { value = f32(${source}[${first} + r * u.H * u.D + c]); }
      staged[${offset}u + e] = value;
    }`
}

const PATCH_ROWS = 2
const PATCH_COLUMNS = 4

/** Products of a tile of rows with a tile of rows over all channels: adds to `name{i}_{j}`. */
function scoreLoop(
  chunk: number,
  pairs: readonly { name: string; rows: number; columns: number }[],
): string {
  const lines: string[] = []
  for (const { name, rows, columns } of pairs) {
    for (let i = 0; i < PATCH_ROWS; i++) {
      lines.push(`let ${name}_r${i} = staged[${rows}u + (patch_row + ${i}u) * ${chunk}u + c];`)
    }
    for (let j = 0; j < PATCH_COLUMNS; j++) {
      lines.push(
        `let ${name}_c${j} = staged[${columns}u + (patch_column + ${j}u) * ${chunk}u + c];`,
      )
    }
    for (let i = 0; i < PATCH_ROWS; i++) {
      for (let j = 0; j < PATCH_COLUMNS; j++) {
        lines.push(`${name}${i}_${j} = fma(${name}_r${i}, ${name}_c${j}, ${name}${i}_${j});`)
      }
    }
  }
  // The bound is no constant, so that the loop stays one: unrolled, a software adapter compiles it for a minute.
  return `for (var c = 0u; c < min(${chunk}u, u.D - d0); c++) {\n      ${lines.join('\n      ')}\n    }`
}

function declarePatch(name: string, rows: number, columns: number): string {
  const lines: string[] = []
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) lines.push(`var ${name}${i}_${j} = 0.0;`)
  }
  return lines.join('\n  ')
}

/** Adds weights · values of the tile's `tokens` to an accumulator: `weight(i)` is the weight of row i of the patch for token t. */
function accumulate(
  name: string,
  columns: number,
  tokens: string,
  stageColumns: (slice: number) => string,
  weight: (i: number) => string,
): string {
  return Array.from({ length: columns / COLUMNS }, (_, slice) => {
    const lines: string[] = []
    for (let i = 0; i < PATCH_ROWS; i++) lines.push(`let w${i} = ${weight(i)};`)
    for (let j = 0; j < 4; j++) {
      lines.push(`let x${j} = staged[t * ${COLUMNS}u + column + ${j}u];`)
      for (let i = 0; i < PATCH_ROWS; i++) {
        const at = `${name}${i}_${4 * slice + j}`
        lines.push(`${at} = fma(w${i}, x${j}, ${at});`)
      }
    }
    return /* wgsl */ `
    workgroupBarrier();
    ${stageColumns(slice)}
    workgroupBarrier();
    for (var t = 0u; t < min(${TILE}u, ${tokens}); t++) {
      ${lines.join('\n      ')}
    }`
  }).join('\n')
}

function storePatch(
  name: string,
  target: string,
  columns: number,
  first: string,
  rows: string,
  factor: (i: number) => string,
): string {
  const lines: string[] = []
  for (let i = 0; i < PATCH_ROWS; i++) {
    lines.push(`if (row0 + patch_row + ${i}u < ${rows}) {
    let at = ${first} + (row0 + patch_row + ${i}u) * u.H * u.D;`)
    for (let j = 0; j < columns / 8; j++) {
      const channel = `column0 + ${COLUMNS * Math.floor(j / 4)}u + column + ${j % 4}u`
      lines.push(
        `    if (${channel} < u.D) { ${target}[at + ${channel}] = ${target}_t(${name}${i}_${j}${factor(i)}); }`,
      )
    }
    lines.push('  }')
  }
  return lines.join('\n')
}

/** Score of a pair as the softmax sees it; a pair outside the matrix has the score of a masked one. */
function finishFunction({ bias, keyBias }: FlashVariant): string {
  return /* wgsl */ `
fn finish(score: f32, n: u32, m: u32, head: u32, batch: u32) -> f32 {
  if (n >= u.N || m >= u.M) { return -1e30; }
  var s = score * u.scale;
  ${bias ? 's += bias[(head * u.N + n) * u.M + m];' : ''}
  ${keyBias ? 's += key_bias[batch * u.M + m];' : ''}
  // −Infinity masks a key; arithmetic on it is not portable, and this is as good.
  return max(s, -1e30);
}`
}

const prologue = (rows: string, columns: number): string => /* wgsl */ `
  let blocks = (${rows} + ${TILE - 1}u) / ${TILE}u;
  let slices = (u.D + ${columns - 1}u) / ${columns}u;
  if (group >= blocks * slices * u.H * u.B) { return; }
  let row0 = (group % blocks) * ${TILE}u;
  let column0 = ((group / blocks) % slices) * ${columns}u;
  let head = (group / (blocks * slices)) % u.H;
  let batch = group / (blocks * slices * u.H);
  let q0 = (batch * u.N * u.H + head) * u.D;
  let k0 = (batch * u.M * u.H + head) * u.D;
  let stat0 = (batch * u.H + head) * u.N;
  let patch_row = (local / 8u) * ${PATCH_ROWS}u;
  let patch_column = (local % 8u) * ${PATCH_COLUMNS}u;
  let column = patch_column;`

/** Output and log-sum-exp: a workgroup has a block of queries and walks the keys, rescaling as the maximum grows. */
function forwardText(variant: FlashVariant): KernelText {
  const { columns } = variant
  const chunk = STAGING / TILE / 2
  const patch = (body: (i: number, j: number) => string): string =>
    Array.from({ length: PATCH_ROWS * PATCH_COLUMNS }, (_, ij) =>
      body(Math.floor(ij / PATCH_COLUMNS), ij % PATCH_COLUMNS),
    ).join('\n      ')
  return {
    declarations: /* wgsl */ `
var<workgroup> staged: array<f32, ${STAGING}>;
var<workgroup> weights: array<f32, ${TILE * (TILE + 1)}>;
var<workgroup> peaks: array<f32, ${TILE}>;
var<workgroup> sums: array<f32, ${TILE}>;
var<workgroup> shrink: array<f32, ${TILE}>;
${finishFunction(variant)}`,
    main: /* wgsl */ `${prologue('u.N', columns)}
  ${declarePatch('o', PATCH_ROWS, columns / 8)}
  if (local < ${TILE}u) {
    peaks[local] = -1e30;
    sums[local] = 0.0;
  }
  for (var m0 = 0u; m0 < u.M; m0 += ${TILE}u) {
    ${declarePatch('s', PATCH_ROWS, PATCH_COLUMNS)}
    for (var d0 = 0u; d0 < u.D; d0 += ${chunk}u) {
      workgroupBarrier();
      ${stage(0, 'q', 'q0', 'row0', 'u.N', 'd0', chunk)}
      ${stage(STAGING / 2, 'k', 'k0', 'm0', 'u.M', 'd0', chunk)}
      workgroupBarrier();
      ${scoreLoop(chunk, [{ name: 's', rows: 0, columns: STAGING / 2 }])}
    }
    ${patch(
      (i, j) =>
        `weights[(patch_row + ${i}u) * ${TILE + 1}u + patch_column + ${j}u] = finish(s${i}_${j}, row0 + patch_row + ${i}u, m0 + patch_column + ${j}u, head, batch);`,
    )}
    workgroupBarrier();
    // One invocation a row; the rows are padded by one so that they fall into different banks.
    if (local < ${TILE}u) {
      let base = local * ${TILE + 1}u;
      let tokens = min(${TILE}u, u.M - m0);
      var peak = peaks[local];
      for (var t = 0u; t < tokens; t++) { peak = max(peak, weights[base + t]); }
      let keep = exp(peaks[local] - peak);
      var sum = sums[local] * keep;
      for (var t = 0u; t < tokens; t++) {
        let p = exp(weights[base + t] - peak);
        weights[base + t] = p;
        sum += p;
      }
      peaks[local] = peak;
      sums[local] = sum;
      shrink[local] = keep;
    }
    workgroupBarrier();
    ${Array.from({ length: PATCH_ROWS }, (_, i) => `let keep${i} = shrink[patch_row + ${i}u];`).join('\n    ')}
    ${Array.from({ length: (PATCH_ROWS * columns) / 8 }, (_, ij) => {
      const i = ij % PATCH_ROWS
      return `o${i}_${Math.floor(ij / PATCH_ROWS)} *= keep${i};`
    }).join('\n    ')}
    ${accumulate(
      'o',
      columns,
      'u.M - m0',
      (slice) => stage(0, 'v', 'k0', 'm0', 'u.M', `column0 + ${slice * COLUMNS}u`, COLUMNS),
      (i) => `weights[(patch_row + ${i}u) * ${TILE + 1}u + t]`,
    )}
  }
  ${storePatch('o', 'out', columns, 'q0', 'u.N', (i) => ` / sums[patch_row + ${i}u]`)}
  if (column0 == 0u && local < ${TILE}u && row0 + local < u.N) {
    lse[stat0 + row0 + local] = peaks[local] + log(sums[local]);
  }`,
  }
}

/** WGSL that recomputes P and dS of a tile of rows (row0) and of others (t0) into `weights` and `dscores`. */
function recompute(rowsAre: 'queries' | 'keys', keepWeights: boolean): string {
  const queries = rowsAre === 'queries'
  const [n, m] = queries
    ? ['row0 + patch_row', 't0 + patch_column']
    : ['t0 + patch_column', 'row0 + patch_row']
  const chunk = STAGING / TILE / 4
  const place = { q: 0, k: STAGING / 4, dout: STAGING / 2, v: (3 * STAGING) / 4 }
  const tile = (source: keyof typeof place): string => {
    const isQuery = source === 'q' || source === 'dout'
    return stage(
      place[source],
      source,
      isQuery ? 'q0' : 'k0',
      isQuery === queries ? 'row0' : 't0',
      isQuery ? 'u.N' : 'u.M',
      'd0',
      chunk,
    )
  }
  const finish = Array.from({ length: PATCH_ROWS * PATCH_COLUMNS }, (_, ij) => {
    const i = Math.floor(ij / PATCH_COLUMNS)
    const j = ij % PATCH_COLUMNS
    const query = queries ? `${n} + ${i}u` : `${n} + ${j}u`
    const key = queries ? `${m} + ${j}u` : `${m} + ${i}u`
    const at = `(patch_row + ${i}u) * ${TILE + 1}u + patch_column + ${j}u`
    return /* wgsl */ `{
      let n = ${query};
      let m = ${key};
      var p = 0.0;
      var d = 0.0;
      if (n < u.N && m < u.M) {
        p = exp(finish(s${i}_${j}, n, m, head, batch) - lse[stat0 + n]);
        d = p * (g${i}_${j} - delta[stat0 + n]) * u.scale;
      }
      ${keepWeights ? `weights[${at}] = p;` : ''}
      dscores[${at}] = d;
    }`
  }).join('\n    ')
  return /* wgsl */ `
    ${declarePatch('s', PATCH_ROWS, PATCH_COLUMNS)}
    ${declarePatch('g', PATCH_ROWS, PATCH_COLUMNS)}
    for (var d0 = 0u; d0 < u.D; d0 += ${chunk}u) {
      workgroupBarrier();
      ${tile('q')}
      ${tile('k')}
      ${tile('dout')}
      ${tile('v')}
      workgroupBarrier();
      ${scoreLoop(chunk, [
        queries
          ? { name: 's', rows: place.q, columns: place.k }
          : { name: 's', rows: place.k, columns: place.q },
        queries
          ? { name: 'g', rows: place.dout, columns: place.v }
          : { name: 'g', rows: place.v, columns: place.dout },
      ])}
    }
    ${finish}`
}

function backwardDeclarations(variant: FlashVariant): string {
  return /* wgsl */ `
var<workgroup> staged: array<f32, ${STAGING}>;
${variant.pass === 'dkv' ? `var<workgroup> weights: array<f32, ${TILE * (TILE + 1)}>;` : ''}
var<workgroup> dscores: array<f32, ${TILE * (TILE + 1)}>;
${finishFunction(variant)}`
}

/** dq: a workgroup has a block of queries and walks the keys. */
function dqText(variant: FlashVariant): KernelText {
  const { columns } = variant
  return {
    declarations: backwardDeclarations(variant),
    main: /* wgsl */ `${prologue('u.N', columns)}
  ${declarePatch('o', PATCH_ROWS, columns / 8)}
  for (var t0 = 0u; t0 < u.M; t0 += ${TILE}u) {
    ${recompute('queries', false)}
    ${accumulate(
      'o',
      columns,
      'u.M - t0',
      (slice) => stage(0, 'k', 'k0', 't0', 'u.M', `column0 + ${slice * COLUMNS}u`, COLUMNS),
      (i) => `dscores[(patch_row + ${i}u) * ${TILE + 1}u + t]`,
    )}
  }
  ${storePatch('o', 'dq', columns, 'q0', 'u.N', () => '')}`,
  }
}

/** dk and dv: a workgroup has a block of keys and walks the queries, so no sum crosses workgroups. */
function dkvText(variant: FlashVariant): KernelText {
  const { columns } = variant
  return {
    declarations: backwardDeclarations(variant),
    main: /* wgsl */ `${prologue('u.M', columns)}
  ${declarePatch('gk', PATCH_ROWS, columns / 8)}
  ${declarePatch('gv', PATCH_ROWS, columns / 8)}
  for (var t0 = 0u; t0 < u.N; t0 += ${TILE}u) {
    ${recompute('keys', true)}
    ${accumulate(
      'gk',
      columns,
      'u.N - t0',
      (slice) => stage(0, 'q', 'q0', 't0', 'u.N', `column0 + ${slice * COLUMNS}u`, COLUMNS),
      (i) => `dscores[(patch_row + ${i}u) * ${TILE + 1}u + t]`,
    )}
    ${accumulate(
      'gv',
      columns,
      'u.N - t0',
      (slice) => stage(0, 'dout', 'q0', 't0', 'u.N', `column0 + ${slice * COLUMNS}u`, COLUMNS),
      (i) => `weights[(patch_row + ${i}u) * ${TILE + 1}u + t]`,
    )}
  }
  ${storePatch('gk', 'dk', columns, 'k0', 'u.M', () => '')}
  ${storePatch('gv', 'dv', columns, 'k0', 'u.M', () => '')}`,
  }
}

export function flashText(variant: FlashVariant): KernelText {
  switch (variant.pass) {
    case 'forward':
      return forwardText(variant)
    case 'dq':
      return dqText(variant)
    case 'dkv':
      return dkvText(variant)
  }
}
