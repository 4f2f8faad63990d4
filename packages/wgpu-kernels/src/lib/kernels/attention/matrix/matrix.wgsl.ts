// Flash attention on tensor cores (Dao 2023), head size 128, in WGSL with subgroup matrices. Measured on one H100
// (docs/log.md): forward 255 TFLOP/s at 11264 and at 45056 tokens, backward 202 and 201 (counted as 2.5 forwards).
//
// Axes: N queries, M keys, both with H heads of 128 beside each other; a row of one head is 16 vectors of eight f16.
//
// What the three texts share:
// - 256 invocations, eight subgroups of 32 in pairs. A pair owns 32 rows of what the workgroup owns (128 queries, or 128
//   keys), and its members share the work.
// - Tiles of the other side stream through workgroup memory, rows padded from 16 to 17 vectors against bank conflicts.
// - Fragments can only be loaded, multiplied and stored, so scores visit workgroup memory to be exponentiated. Tensor cores wait
//   meanwhile, unless the scores of the next tile are multiplied between the same barriers. That pays where a tile has most
//   products: dk and dv take 9 % less time with it, the forward pass gains nothing and dq takes 4 % more (docs/log.md).
// - The last block of a ragged length is moved back to end with the rows; rows it shares with its neighbour are computed twice
//   and stored once. Rows of the streamed side past the end read the last row and weigh nothing.
import type { KernelText } from '../../../program/define-kernel.ts'
import {
  lines,
  loadMatrix,
  matrixType,
  multiplyAccumulate,
  packHalves,
  storeMatrix,
  subgroupMatrixDirectives,
  zeroMatrix,
} from '../../../wgsl/subgroup-matrix.ts'

/** What decides the text. */
export interface MatrixAttentionVariant {
  /** The streamed length does not fill its tiles. */
  readonly ragged: boolean
}

export const MATRIX_ATTENTION_SIZE = 256
/** Rows a workgroup owns; neither length may be shorter. */
export const MATRIX_ATTENTION_BLOCK = 128
/** Bytes of workgroup memory that suffice for each of the three texts: the forward one takes 46.5 KiB, dk dv 42, dq 38.75. */
export const MATRIX_ATTENTION_BYTES = 48 * 1024

/** Streamed rows a tile: keys of the forward pass, either side's of the backward texts. */
export const FORWARD_TILE = 32
export const BACKWARD_TILE = 16
/** Vectors a row of a tile. */
const ROW = 17
const LOG2E = 1.4426950408889634

/** What every invocation works on. `scores0` and `scores1` are of two times 16 owned rows. */
const setup = /* wgsl */ `
  // Neighbouring workgroups share a head, and so its keys and values in the cache.
  let blocks = (u.owned + 127u) / 128u;
  let head_index = group / blocks;
  if (head_index >= u.all_heads) { return; }
  let block_first = (group % blocks) * 128u;
  let first = min(block_first, u.owned - 128u);
  let batch = head_index / u.heads;
  let stride = u.heads * 16u;
  let q0 = batch * u.N * stride + (head_index % u.heads) * 16u;
  let k0 = batch * u.M * stride + (head_index % u.heads) * 16u;
  let subgroup = local / 32u;
  let lane = local % 32u;
  let pair = subgroup / 2u;
  let member = subgroup % 2u;
  let tile_row = local / 16u;
  let tile_column = local % 16u;
  let tile_at = tile_row * ${ROW}u + tile_column;
  var scores0 = ${zeroMatrix};
  var scores1 = ${zeroMatrix};`

const clearScores = /* wgsl */ `
    scores0 = ${zeroMatrix};
    scores1 = ${zeroMatrix};`

/** The sums of two times 16 owned rows, 16 channels a fragment. */
function declareSums(fragmentsN: number): string {
  return lines(2, (i) => lines(fragmentsN, (j) => `  var o${i}_${j} = ${zeroMatrix};`))
}

/** The row this invocation reads of a tile, as an index of the streamed side; past the end the last one. */
function streamedRow(
  tile: string,
  rows: number,
  length: string,
  ragged: boolean,
  offset = 0,
): string {
  const row = `(${tile}) * ${rows}u + tile_row + ${offset}u`
  return ragged ? `min(${row}, ${length} - 1u)` : `(${row})`
}

/** The weight of the scores of four keys from `key` + 4 i on: of keys past the end none. */
function weightOfKeys(i: number, score: string, offset: string, ragged: boolean): string {
  const weight = `exp2(fma(${score}, scale, ${offset}))`
  const keys = [0, 1, 2, 3].map((c) => `${i * 4 + c}u`).join(', ')
  return ragged
    ? `select(vec4<f32>(0.0), ${weight}, key + vec4<u32>(${keys}) < vec4<u32>(u.M))`
    : weight
}

/** Adds to the sums: `weights` loads those of two times 16 owned rows, `part(j)` what they weigh in 16 channels. */
function addProducts(
  weights: readonly [string, string],
  fragmentsN: number,
  part: (j: number) => string,
): string {
  return /* wgsl */ `
    {
      let w0 = ${weights[0]};
      let w1 = ${weights[1]};
${lines(
  fragmentsN,
  (j) => `      {
        let part = ${part(j)};
        ${multiplyAccumulate('w0', 'part', `o0_${j}`)}
        ${multiplyAccumulate('w1', 'part', `o1_${j}`)}
      }`,
)}
    }`
}

/** Writes eight f16 of every row of the pair's fragments, through its subgroup's place in `strip`. */
function storeRows(
  fragmentsN: number,
  output: (column: number) => string,
  factor: (rowOffset: number) => string,
): string {
  return lines(2, (i) =>
    lines(
      fragmentsN,
      (j) => /* wgsl */ `
  ${storeMatrix('row_major', 'strip', 'subgroup * 80u', `o${i}_${j}`, 5)}
  workgroupBarrier();
  {
    let at = subgroup * 80u + (lane & 15u) * 5u + (lane >> 4u) * 2u;
    let row = first + pair * 32u + ${i * 16}u + (lane & 15u);
    let factor = ${factor(i * 16)};
    let low = bitcast<vec4<f32>>(strip[at]) * factor;
    let high = bitcast<vec4<f32>>(strip[at + 1u]) * factor;
    let packed = ${packHalves('low', 'high')};
    if (row >= block_first) { ${output(j * 2)} }
  }
  workgroupBarrier();`,
    ),
  )
}

/**
 * `out` and `lse`. A pair's members take 16 of a tile's 32 keys each for the scores, and 64 of the 128 channels each for the
 * result. No running maximum: a sample of the tiles gives a reference, all weights are relative to it, and a row whose
 * weights overflow makes the workgroup start again with the exact maximum (`attempt`), which takes half as long again. That a row's
 * largest score is more than 10.4 above all sampled ones must be rare, so what a row attends to most is sampled where it is
 * known: the tiles of the rows themselves in self-attention. Beyond them every 16th tile, of few tiles at least eight.
 */
export function matrixForwardText({ ragged }: MatrixAttentionVariant): KernelText {
  const fetch = (name: string, binding: string, tile: string): string =>
    lines(
      2,
      (i) =>
        `      ${name}${i} = ${binding}[k0 + ${streamedRow(tile, FORWARD_TILE, 'u.M', ragged, i * 16)} * stride + tile_column];`,
    )
  const put = (tile: string, name: string): string =>
    lines(2, (i) => `      ${tile}[tile_at + ${i * 16 * ROW}u] = ${name}${i};`)
  // The products are keys by queries; stored by columns they lie as queries by keys.
  const scoresToStrip = /* wgsl */ `
${clearScores}
${lines(
  8,
  (c) => `      {
        let k_part = ${loadMatrix('left', 'row_major', 'k_tile', `member * ${16 * ROW}u + ${c * 2}u`, ROW)};
        ${multiplyAccumulate('k_part', `q0_${c}`, 'scores0')}
        ${multiplyAccumulate('k_part', `q1_${c}`, 'scores1')}
      }`,
)}
      ${storeMatrix('col_major', 'strip', 'strip_first + member * 4u', 'scores0', 9)}
      ${storeMatrix('col_major', 'strip', 'strip_first + member * 4u + 144u', 'scores1', 9)}`
  // Of a row's 32 scores this invocation handles 16.
  const readScores = lines(
    4,
    (i) => `        let s${i} = bitcast<vec4<f32>>(strip[score_at + ${i}u]);`,
  )
  const weigh = /* wgsl */ `
      {
        ${ragged ? `let key = vec4<u32>(t * ${FORWARD_TILE}u + half * 16u);` : ''}
${readScores}
${lines(4, (i) => `        let p${i} = ${weightOfKeys(i, `s${i}`, 'reference', ragged)};`)}
        let p = p0 + p1 + p2 + p3;
        let tile_sum = (p.x + p.y) + (p.z + p.w);
        sum += tile_sum;
        most = max(most, tile_sum);
        weights[weight_at] = ${packHalves('p0', 'p1')};
        weights[weight_at + 1u] = ${packHalves('p2', 'p3')};
      }`
  const addValues = lines(2, (f) =>
    addProducts(
      [
        loadMatrix('left', 'row_major', 'weights', `pair * 160u + ${f * 2}u`, 5),
        loadMatrix('left', 'row_major', 'weights', `pair * 160u + ${80 + f * 2}u`, 5),
      ],
      4,
      (j) =>
        loadMatrix('right', 'row_major', 'v_tile', `member * 8u + ${f * 16 * ROW + j * 2}u`, ROW),
    ),
  )
  // A weight that f16 cannot hold, seen by any invocation so far.
  const tellOverflow = /* wgsl */ `
        {
          let most_here = subgroupMax(most);
          if (lane == 0u) { partial[subgroup] = most_here; }
          workgroupBarrier();
          if (local == 0u) {
            let of_all = ${Array.from({ length: 7 }, (_, i) => `max(partial[${i}], `).join('')}partial[7]${')'.repeat(7)};
            overflowed = select(0u, 1u, of_all > 32768.0);
          }
        }`
  return {
    directives: subgroupMatrixDirectives,
    declarations: /* wgsl */ `
var<workgroup> k_tile: array<vec4<u32>, ${FORWARD_TILE * ROW}>;
var<workgroup> v_tile: array<vec4<u32>, ${FORWARD_TILE * ROW}>;
var<workgroup> strip: array<vec4<u32>, 1152>;
var<workgroup> weights: array<vec4<u32>, 640>;
var<workgroup> row_factor: array<f32, 128>;
var<workgroup> partial: array<f32, 256>;
var<workgroup> overflowed: u32;`,
    main: /* wgsl */ `
${setup}
  let tiles = (u.M + ${FORWARD_TILE - 1}u) / ${FORWARD_TILE}u;
  let row = local % 32u;
  let half = (local / 32u) % 2u;
  let own_row = pair * 32u + row;
  let strip_first = pair * 288u;
  let score_at = strip_first + row * 9u + half * 4u;
  let weight_at = own_row * 5u + half * 2u;
  let scale = vec4<f32>(u.scale * ${LOG2E});
${lines(2, (i) => lines(8, (c) => `  let q${i}_${c} = ${loadMatrix('right', 'col_major', 'q', `q0 + (first + pair * 32u + ${i * 16}u) * stride + ${c * 2}u`, 'stride')};`))}
${declareSums(4)}
  var maximum = 0.0;
  var sum = 0.0;
  var most = 0.0;
${lines(2, (i) => `  var k_next${i}: vec4<u32>; var v_next${i}: vec4<u32>;`)}
  for (var attempt = 0u; attempt < 2u; attempt++) {
    let skip = select(1u, clamp(tiles / 8u, 1u, 16u), attempt == 0u);
    let near = select(0u, ${MATRIX_ATTENTION_BLOCK / FORWARD_TILE + 1}u, attempt == 0u && u.N == u.M);
    let samples = near + (tiles + skip - 1u) / skip;
    var largest = -1e30;
    for (var s = 0u; s < samples; s++) {
      let t = select((group * 4u + (s - near) * skip) % tiles, min(first / ${FORWARD_TILE}u + s, tiles - 1u), s < near);
${fetch('k_next', 'k', 't')}
${put('k_tile', 'k_next')}
      workgroupBarrier();
${scoresToStrip}
      workgroupBarrier();
      {
${readScores}
        let m = max(max(s0, s1), max(s2, s3));
        largest = max(largest, max(max(m.x, m.y), max(m.z, m.w)));
      }
    }
    partial[half * 128u + own_row] = largest * scale.x;
    workgroupBarrier();
    maximum = max(partial[own_row], partial[128u + own_row]);
    let reference = vec4<f32>(-maximum);
    sum = 0.0;
    most = 0.0;
${lines(2, (i) => lines(4, (j) => `    o${i}_${j} = ${zeroMatrix};`))}
${fetch('k_next', 'k', '0u')}
${put('k_tile', 'k_next')}
    workgroupBarrier();
    for (var t = 0u; t < tiles; t++) {
${scoresToStrip}
      workgroupBarrier();
${fetch('v_next', 'v', 't')}
${fetch('k_next', 'k', 'min(t + 1u, tiles - 1u)')}
${weigh}
${put('v_tile', 'v_next')}
${put('k_tile', 'k_next')}
      workgroupBarrier();
${addValues}
      if (attempt == 0u && t % 32u == 31u) {
${tellOverflow}
        if (workgroupUniformLoad(&overflowed) != 0u) { break; }
      }
    }
${tellOverflow}
    if (workgroupUniformLoad(&overflowed) == 0u) { break; }
  }
  workgroupBarrier();
  partial[half * 128u + own_row] = sum;
  workgroupBarrier();
  let total = partial[own_row] + partial[128u + own_row];
  if (half == 0u) {
    if (first + own_row >= block_first) {
      lse[head_index * u.N + first + own_row] = (maximum + log2(total)) * ${1 / LOG2E};
    }
    row_factor[own_row] = 1.0 / total;
  }
  workgroupBarrier();
${storeRows(
  4,
  (column) => `out[q0 + row * stride + member * 8u + ${column}u + (lane >> 4u)] = packed;`,
  (offset) => `row_factor[pair * 32u + ${offset}u + (lane & 15u)]`,
)}`,
  }
}

/**
 * Weights of the backward texts are exp2(score − lse) · 2^6: small weights of long rows would vanish in f16. The factor is
 * taken out at the end.
 */
const SHIFT = 6

/**
 * What both backward texts begin with. The pair's member 0 multiplies by the first, member 1 by the second of the two matrices
 * `own`, whose head begins at `base`. Vectors of tiles on their way wait in `next0` and `next1`.
 */
function backwardSetup(own: readonly [string, string], base: string, fragmentsN: number): string {
  const load = (binding: string): string =>
    lines(2, (i) =>
      lines(
        8,
        (c) =>
          `    a${i}_${c} = ${loadMatrix('left', 'row_major', binding, `${base} + (first + pair * 32u + ${i * 16}u) * stride + ${c * 2}u`, 'stride')};`,
      ),
    )
  return /* wgsl */ `
  let scale = vec4<f32>(u.scale * ${LOG2E});
${lines(2, (i) => lines(8, (c) => `  var a${i}_${c}: ${matrixType('left')};`))}
  if (member == 0u) {
${load(own[0])}
  } else {
${load(own[1])}
  }
${declareSums(fragmentsN)}
  var next0: vec4<u32>;
  var next1: vec4<u32>;`
}

/** Reads a tile of each of two streamed tensors, whose head begins at `base`: a vector of each an invocation. */
function fetchPair(
  [first, second]: readonly [string, string],
  base: string,
  tile: string,
  length: string,
  ragged: boolean,
): string {
  return /* wgsl */ `
    {
      let at_next = ${base} + ${streamedRow(tile, BACKWARD_TILE, length, ragged)} * stride + tile_column;
      next0 = ${first}[at_next];
      next1 = ${second}[at_next];
    }`
}

/** Own rows times those of the tile that begins at `tile`. */
function multiplyScores(tile: string): string {
  return /* wgsl */ `
${clearScores}
    {
      let tile = ${tile};
${lines(
  8,
  (c) => `      {
        let part = ${loadMatrix('right', 'col_major', 'tiles', `tile + ${c * 2}u`, ROW)};
        ${multiplyAccumulate(`a0_${c}`, 'part', 'scores0')}
        ${multiplyAccumulate(`a1_${c}`, 'part', 'scores1')}
      }`,
)}
    }`
}

/**
 * `dk` and `dv`. The workgroup owns keys and streams queries. Member 0 computes Sᵀ = K Qᵀ and dV += Pᵀ dO, member 1 computes
 * dPᵀ = V dOᵀ and dK += dSᵀ Q: the index selects fragments, tile and strip, so neither branches.
 *
 * It runs ahead by a tile. Of three stages, each a tile of Q and one of dO, `now` gives what is added to the sums and `next` the
 * scores, while `then` is filled.
 */
export function matrixGradKvText({ ragged }: MatrixAttentionVariant): KernelText {
  const TILE = BACKWARD_TILE * ROW
  const STAGE = 2 * TILE
  const fetch = (tile: string): string => fetchPair(['q', 'dout'], 'q0', tile, 'u.N', ragged)
  const put = (stage: string): string => /* wgsl */ `
    tiles[${stage} + tile_at] = next0;
    tiles[${stage} + tile_at + ${TILE}u] = next1;`
  const scoresOf = (stage: string): string => multiplyScores(`${stage} + member * ${TILE}u`)
  const storeScores = /* wgsl */ `
    ${storeMatrix('col_major', 'strip', 'strip_first + pair * 8u', 'scores0', 33)}
    ${storeMatrix('col_major', 'strip', 'strip_first + pair * 8u + 4u', 'scores1', 33)}`
  const readQuery = /* wgsl */ `
    let query_index = ${ragged ? `min(t * ${BACKWARD_TILE}u + query, u.N - 1u)` : `t * ${BACKWARD_TILE}u + query`};
    let log_sum = ${SHIFT}.0 - lse[head_index * u.N + query_index] * ${LOG2E};
    let offset = vec4<f32>(${ragged ? `select(log_sum, -1e30, t * ${BACKWARD_TILE}u + query >= u.N)` : 'log_sum'});
    let delta_row = vec4<f32>(delta[head_index * u.N + query_index]);`
  const weigh = /* wgsl */ `
    {
${lines(
  2,
  (i) => `      let p${i} = exp2(fma(bitcast<vec4<f32>>(strip[score_at + ${i}u]), scale, offset));
      let ds${i} = p${i} * (bitcast<vec4<f32>>(strip[score_at + ${528 + i}u]) - delta_row);`,
)}
      strip[weight_at] = ${packHalves('p0', 'p1')};
      strip[weight_at + 528u] = ${packHalves('ds0', 'ds1')};
    }`
  const addGradients = addProducts(
    [
      loadMatrix('left', 'col_major', 'strip', 'strip_first + 1u + pair * 8u', 33),
      loadMatrix('left', 'col_major', 'strip', 'strip_first + 5u + pair * 8u', 33),
    ],
    8,
    (j) =>
      loadMatrix('right', 'row_major', 'tiles', `now + (1u - member) * ${TILE}u + ${j * 2}u`, ROW),
  )
  return {
    directives: subgroupMatrixDirectives,
    declarations: /* wgsl */ `
var<workgroup> tiles: array<vec4<u32>, ${3 * STAGE}>;
var<workgroup> strip: array<vec4<u32>, 1056>;`,
    main: /* wgsl */ `
${setup}
  let num_tiles = (u.N + ${BACKWARD_TILE - 1}u) / ${BACKWARD_TILE}u;
  let query = local % 16u;
  let chunk = local / 16u;
  let score_at = query * 33u + chunk * 2u;
  // Eight f16 replace the eight f32 they came from, one in two vectors: fragments of them keep the strip's stride.
  let weight_at = query * 33u + (chunk >> 1u) * 4u + 1u + (chunk & 1u);
  let strip_first = member * 528u;
${backwardSetup(['k', 'v'], 'k0', 8)}
  var now = 0u;
  var next = ${STAGE}u;
  var then = ${2 * STAGE}u;
${fetch('0u')}
${put('now')}
${fetch('1u')}
${put('next')}
  workgroupBarrier();
${scoresOf('now')}
${storeScores}
  workgroupBarrier();
  for (var t = 0u; t < num_tiles; t++) {
    // Read before the products, which hide the way.
${readQuery}
${scoresOf('next')}
${weigh}
${fetch('min(t + 2u, num_tiles - 1u)')}
    workgroupBarrier();
${addGradients}
    // A subgroup stores scores where it alone has just read weights. Between stands no barrier: the 32 lanes of NVIDIA's adapters,
    // for which this is, load a fragment together. The interpreter looks for races between subgroups only.
${storeScores}
${put('then')}
    workgroupBarrier();
    let done = now;
    now = next;
    next = then;
    then = done;
  }
  let unscale = select(1.0, u.scale, member == 1u) * ${2 ** -SHIFT};
${storeRows(
  8,
  (column) => /* wgsl */ `
      let at_out = k0 + row * stride + ${column}u + (lane >> 4u);
      if (member == 0u) { dv[at_out] = packed; } else { dk[at_out] = packed; }`,
  () => 'unscale',
)}`,
  }
}

/**
 * `dq`. The workgroup owns queries and streams keys. Member 0 computes S = Q Kᵀ, member 1 dP = dO Vᵀ; then each adds
 * dS K to 64 of the 128 channels.
 */
export function matrixGradQText({ ragged }: MatrixAttentionVariant): KernelText {
  const TILE = BACKWARD_TILE * ROW
  // K is multiplied again after the next tile was put, so it has two tiles in turns; V is not, and has one behind them.
  const V_TILE = 2 * TILE
  const fetch = (tile: string): string => fetchPair(['k', 'v'], 'k0', tile, 'u.M', ragged)
  const put = (tileK: string): string => /* wgsl */ `
    tiles[${tileK} + tile_at] = next0;
    tiles[${V_TILE}u + tile_at] = next1;`
  return {
    directives: subgroupMatrixDirectives,
    declarations: /* wgsl */ `
var<workgroup> tiles: array<vec4<u32>, ${3 * TILE}>;
var<workgroup> strip: array<vec4<u32>, 1280>;
var<workgroup> weights: array<vec4<u32>, 384>;`,
    main: /* wgsl */ `
${setup}
  let num_tiles = (u.M + ${BACKWARD_TILE - 1}u) / ${BACKWARD_TILE}u;
  let own_row = local % 128u;
  let half = local / 128u;
  let score_at = own_row * 5u + half * 2u;
  let strip_first = member * 640u + pair * 160u;
  let offset = vec4<f32>(${SHIFT}.0 - lse[head_index * u.N + first + own_row] * ${LOG2E});
  let delta_row = vec4<f32>(delta[head_index * u.N + first + own_row]);
${backwardSetup(['q', 'dout'], 'q0', 4)}
${fetch('0u')}
${put('0u')}
  workgroupBarrier();
  for (var t = 0u; t < num_tiles; t++) {
    let now = (t & 1u) * ${TILE}u;
    let then = ${TILE}u - now;
${fetch('min(t + 1u, num_tiles - 1u)')}
${multiplyScores(`select(now, ${V_TILE}u, member == 1u)`)}
    ${storeMatrix('row_major', 'strip', 'strip_first', 'scores0', 5)}
    ${storeMatrix('row_major', 'strip', 'strip_first + 80u', 'scores1', 5)}
    workgroupBarrier();
    {
      ${ragged ? `let key = vec4<u32>(t * ${BACKWARD_TILE}u + half * 8u);` : ''}
${lines(2, (i) => {
  const p = weightOfKeys(i, `bitcast<vec4<f32>>(strip[score_at + ${i}u])`, 'offset', ragged)
  return `      let ds${i} = ${p} * (bitcast<vec4<f32>>(strip[score_at + ${640 + i}u]) - delta_row);`
})}
      weights[own_row * 3u + half] = ${packHalves('ds0', 'ds1')};
    }
${put('then')}
    workgroupBarrier();
${addProducts(
  [
    loadMatrix('left', 'row_major', 'weights', 'pair * 96u', 3),
    loadMatrix('left', 'row_major', 'weights', 'pair * 96u + 48u', 3),
  ],
  4,
  (j) => loadMatrix('right', 'row_major', 'tiles', `now + member * 8u + ${j * 2}u`, ROW),
)}
  }
  workgroupBarrier();
  let unscale = u.scale * ${2 ** -SHIFT};
${storeRows(
  4,
  (column) => `dq[q0 + row * stride + member * 8u + ${column}u + (lane >> 4u)] = packed;`,
  () => 'unscale',
)}`,
  }
}
