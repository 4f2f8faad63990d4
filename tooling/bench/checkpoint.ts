// Writes a random checkpoint in the diffusers layout, of the release's size unless told otherwise: experts in shards, VAE, a text
// encoder of one small layer (its width is the transformer's) with the tokenizer of tiny-wan.
//
//   bench checkpoint OUT [--expert=high,low] [--dtype=bf16|f16|f32] [--same] [--shards=12] [--layers=40] [--heads=40] [--head-dim=128]
//                    [--ffn=13824] [--base-dim=96] [--text-encoder=small|full] [--text-layers=24] [--only=text_encoder] [--seed=1]
//
// `--same`: the low-noise expert's files are links to the high-noise one's, so that a full-size checkpoint is 28 GB and not 57.
// `--text-encoder=full`: the text encoder is of the release's size too, 11.4 GB of bf16 in three shards, with a vocabulary as long.
// `--only=text_encoder`: writes the text encoder and its tokenizer into a checkpoint that is there already, and nothing else.
// Numbers are normal, from a counter-based generator: a pool of 4 Mi of them, which each tensor enters at a place of its own and
// scales to a variance of 1/inputs.
import { cp, mkdir, readFile, readdir, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { basename, dirname, join, relative } from 'node:path'
import { parseArgs } from 'node:util'

import { normals } from '@kinora/kernel-api'
import { f32ToBf16, f32ToF16, writeSafetensors, type TensorToWrite } from '@kinora/safetensors'
import {
  parseTextEncoderConfig,
  parseTransformerConfig,
  parseVaeConfig,
  transformerTensors,
  umt5Tensors,
  vaeTensors,
  type TensorTable,
} from '@kinora/wan'

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    expert: { type: 'string', default: 'high,low' },
    dtype: { type: 'string', default: 'bf16' },
    same: { type: 'boolean', default: false },
    shards: { type: 'string', default: '12' },
    layers: { type: 'string', default: '40' },
    heads: { type: 'string', default: '40' },
    'head-dim': { type: 'string', default: '128' },
    ffn: { type: 'string', default: '13824' },
    'base-dim': { type: 'string', default: '96' },
    'text-encoder': { type: 'string', default: 'small' },
    'text-layers': { type: 'string', default: '24' },
    only: { type: 'string' },
    seed: { type: 'string', default: '1' },
  },
})
const [out] = positionals
if (!out) {
  console.error('Say where: bench checkpoint OUT')
  process.exit(2)
}
const withFullText = flags['text-encoder'] === 'full'
if (!withFullText && flags['text-encoder'] !== 'small') {
  console.error('A text encoder is small or full.')
  process.exit(2)
}
if (flags.only !== undefined && flags.only !== 'text_encoder') {
  console.error('The only part that is written alone is text_encoder.')
  process.exit(2)
}
type FileDType = 'bf16' | 'f16' | 'f32'
const POOL = 1 << 22
const pool = normals(Number(flags.seed), 0, POOL)

/** Where a tensor enters the pool: FNV-1a of its name, on an even element. */
function offsetOf(name: string): number {
  let hash = 0x811c9dc5 ^ Number(flags.seed)
  for (const byte of new TextEncoder().encode(name)) hash = Math.imul(hash ^ byte, 0x01000193)
  return ((hash >>> 0) % POOL) & ~1
}

/** The pool at one scale, as the bytes of a dtype. */
const scaled = new Map<string, Uint8Array>()
function bytesAt(scale: number, dtype: FileDType): Uint8Array {
  const key = `${scale} ${dtype}`
  let bytes = scaled.get(key)
  if (!bytes) {
    const values = pool.map((value) => value * scale)
    const array = dtype === 'f32' ? values : dtype === 'bf16' ? f32ToBf16(values) : f32ToF16(values)
    bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength)
    scaled.set(key, bytes)
  }
  return bytes
}

/** What a network of these layers keeps near unit size: norms near one, biases small, weights by their inputs. */
function entry(name: string, shape: readonly number[], dtype: FileDType): TensorToWrite {
  const size = shape.reduce((product, extent) => product * extent, 1)
  const isNorm = /(norm\w*\.(weight|gamma)|layer_norm\.weight|gamma)$/.test(name)
  const inputs = shape.slice(1).reduce((product, extent) => product * extent, 1)
  const scale = name.endsWith('.bias')
    ? 0.02
    : shape.length === 1
      ? 0.1
      : name === 'shared.weight'
        ? 1
        : // UMT5 does not scale its scores, so its queries are born small, by the root of its 64 channels a head.
          1 / Math.sqrt(inputs * (name.endsWith('SelfAttention.q.weight') ? 64 : 1))
  const fileDType = ({ bf16: 'BF16', f16: 'F16', f32: 'F32' } as const)[dtype]
  if (isNorm) {
    return { name, dtype: fileDType, shape, data: () => new Float32Array(size).fill(1) }
  }
  const width = dtype === 'f32' ? 4 : 2
  return {
    name,
    dtype: fileDType,
    shape,
    *data() {
      const bytes = bytesAt(scale, dtype)
      let at = offsetOf(name) * width
      for (let left = size * width; left > 0;) {
        const part = bytes.subarray(at, Math.min(bytes.length, at + left))
        yield part
        left -= part.length
        at = 0
      }
    },
  }
}

/** Shards of about equal size, written side by side. Weights of the same stem that were there are no more. */
async function writeShards(
  folder: string,
  table: TensorTable,
  dtype: FileDType,
  numShards: number,
  stem = 'diffusion_pytorch_model',
) {
  await mkdir(folder, { recursive: true })
  for (const file of await readdir(folder)) {
    if (file.startsWith(stem)) await rm(join(folder, file))
  }
  const sizeOf = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1)
  const total = [...table.values()].reduce((sum, shape) => sum + sizeOf(shape), 0)
  const shards: (readonly [string, readonly number[]])[][] = Array.from(
    { length: numShards },
    () => [],
  )
  let done = 0
  for (const [name, shape] of table) {
    shards[Math.min(numShards - 1, Math.floor((done / total) * numShards))]!.push([name, shape])
    done += sizeOf(shape)
  }
  const filled = shards.filter((tensors) => tensors.length > 0)
  const weightMap: Record<string, string> = {}
  const number = (i: number): string => String(i).padStart(5, '0')
  const jobs = filled.map((tensors, i) => async () => {
    const file =
      filled.length === 1
        ? `${stem}.safetensors`
        : `${stem}-${number(i + 1)}-of-${number(filled.length)}.safetensors`
    for (const [name] of tensors) weightMap[name] = file
    await writeSafetensors(
      join(folder, file),
      tensors.map(([name, shape]) => entry(name, shape, dtype)),
    )
  })
  const width = 4
  await Promise.all(
    Array.from({ length: width }, async (_, lane) => {
      for (let i = lane; i < jobs.length; i += width) await jobs[i]!()
    }),
  )
  if (filled.length > 1) {
    await writeFile(
      join(folder, `${stem}.safetensors.index.json`),
      JSON.stringify({
        metadata: { total_size: total * (dtype === 'f32' ? 4 : 2) },
        weight_map: weightMap,
      }),
    )
  }
  return total * (dtype === 'f32' ? 4 : 2)
}

const require = createRequire(import.meta.url)
const tiny = join(dirname(require.resolve('@kinora/tiny-wan/package.json')), 'checkpoint')
const readJson = async (file: string): Promise<Record<string, unknown>> =>
  JSON.parse(await readFile(join(tiny, file), 'utf8')) as Record<string, unknown>
const writeJson = async (file: string, value: unknown): Promise<void> => {
  await mkdir(dirname(join(out, file)), { recursive: true })
  await writeFile(join(out, file), `${JSON.stringify(value, null, 2)}\n`)
}
/** How long the vocabulary of UMT5's tokenizer is without the 300 sentinels at its end. */
const PIECES = 256_000

/**
 * The tokenizer of tiny-wan, its vocabulary made as long as the release's by pieces of four letters, five in nine of all there can
 * be, so that words of any caption have tokens from all over the embedding table.
 */
async function writeLongTokenizer(): Promise<void> {
  const tokenizer = await readJson('tokenizer/tokenizer.json')
  const model = tokenizer['model'] as { vocab: [string, number][] }
  const known = new Set(model.vocab.map(([piece]) => piece))
  const vocab = [...model.vocab]
  for (let i = 0; vocab.length < PIECES; i++) {
    // 5 has no divisor in common with 26⁴: each piece comes once.
    let at = (i * 5) % 26 ** 4
    let piece = ''
    for (let n = 0; n < 4; n++, at = Math.floor(at / 26))
      piece += String.fromCharCode(97 + (at % 26))
    if (!known.has(piece)) vocab.push([piece, -8])
  }
  await writeJson('tokenizer/tokenizer.json', { ...tokenizer, model: { ...model, vocab } })
  await writeJson('tokenizer/tokenizer_config.json', {
    ...(await readJson('tokenizer/tokenizer_config.json')),
    max_length: 512,
    model_max_length: 512,
  })
}

/** The release's text encoder, or one small layer of its vocabulary's length; returns its bytes. */
async function writeTextEncoder(textDim: number): Promise<number> {
  const folder = join(out!, 'text_encoder')
  const json = {
    ...(await readJson('text_encoder/config.json')),
    d_model: textDim,
    ...(withFullText
      ? {
          d_ff: 10240,
          d_kv: 64,
          num_heads: 64,
          num_layers: Number(flags['text-layers']),
          vocab_size: 256384,
        }
      : { d_ff: 256, d_kv: 64, num_heads: 4, num_layers: 1 }),
  }
  await writeJson('text_encoder/config.json', json)
  const config = parseTextEncoderConfig(json)
  const embedding = ['shared.weight', [config.vocabSize, config.dim]] as const
  const table = new Map([embedding, ...umt5Tensors(config)])
  return writeShards(folder, table, 'bf16', withFullText ? 3 : 1, 'model')
}

/** The experts, the VAE and what joins the parts; returns the bytes of weights. */
async function writeOtherParts(textDim: number): Promise<number> {
  for (const part of ['model_index.json', 'scheduler']) {
    await mkdir(out!, { recursive: true })
    await cp(join(tiny, part), join(out!, part), { recursive: true })
  }
  const transformerJson = {
    ...(await readJson('transformer/config.json')),
    num_attention_heads: Number(flags.heads),
    attention_head_dim: Number(flags['head-dim']),
    ffn_dim: Number(flags.ffn),
    num_layers: Number(flags.layers),
    text_dim: textDim,
  }
  const dtype = flags.dtype as FileDType
  const table = transformerTensors(parseTransformerConfig(transformerJson))
  let bytes = 0
  const asked = flags.expert.split(',')
  for (const [expert, folder] of [
    ['high', 'transformer'],
    ['low', 'transformer_2'],
  ] as const) {
    await writeJson(`${folder}/config.json`, transformerJson)
    if (!asked.includes(expert) || (expert === 'low' && flags.same)) continue
    bytes += await writeShards(join(out!, folder), table, dtype, Number(flags.shards))
  }
  if (flags.same || !asked.includes('low')) {
    for (const file of await readdir(join(out!, 'transformer'))) {
      if (file === 'config.json') continue
      const link = join(out!, 'transformer_2', file)
      if (await stat(link).catch(() => undefined)) continue
      await symlink(relative(dirname(link), join(out!, 'transformer', file)), link)
    }
  }
  const vaeJson = {
    ...(await readJson('vae/config.json')),
    base_dim: Number(flags['base-dim']),
    num_res_blocks: Number(flags['base-dim']) === 96 ? 2 : 1,
  }
  await writeJson('vae/config.json', vaeJson)
  const vae = vaeTensors(parseVaeConfig(vaeJson))
  return bytes + (await writeShards(join(out!, 'vae'), vae, 'f32', 1))
}

/** What the text encoder's states must be as wide as. */
async function widthOfText(): Promise<number> {
  if (flags.only === undefined) return withFullText || Number(flags.heads) === 40 ? 4096 : 128
  const file = join(out!, 'transformer', 'config.json')
  const text = await readFile(file, 'utf8').catch(() => {
    console.error(`There is no checkpoint to write a text encoder into: ${file} is missing.`)
    process.exit(2)
  })
  const { text_dim: width } = JSON.parse(text) as { text_dim: number }
  if (withFullText && width !== 4096) {
    console.error(`The transformer reads texts of width ${width}, the full encoder's have 4096.`)
    process.exit(2)
  }
  return width
}

const started = performance.now()
const textDim = await widthOfText()
let bytes = flags.only === undefined ? await writeOtherParts(textDim) : 0
if (withFullText) await writeLongTokenizer()
else await cp(join(tiny, 'tokenizer'), join(out, 'tokenizer'), { recursive: true })
bytes += await writeTextEncoder(textDim)
const seconds = (performance.now() - started) / 1000
console.log(
  JSON.stringify({
    checkpoint: basename(out),
    gigabytes: Number((bytes / 1e9).toFixed(2)),
    seconds: Number(seconds.toFixed(1)),
    gigabytesPerSecond: Number((bytes / 1e9 / seconds).toFixed(2)),
  }),
)
