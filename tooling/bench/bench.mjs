// The one way to the benches: `npm run bench -- [command] [flags]`.
//
//   (none), all    kernels, blocks, step: a table and, with --json=FILE, their results in one file
//   kernels        every kernel at the sizes of the real model, beside the copy bandwidth of the run
//   blocks         one block of the transformer: forward, and forward with backward, dense and packed
//   step           training steps at each size: seconds, TFLOP/s, peak memory under a recompute plan
//   vae            encoding and decoding at full size
//   text           the text encoder at full size: seconds, bytes read, memory on the device and on the host
//   numerics       one block at full width against torch (full_width.py makes the reference)
//   packing        what packing costs in accuracy on tiny-wan
//   checkpoint     writes a random checkpoint of any size in the diffusers layout
//   load           loading rate beside the disk's own, and seconds of a change of the expert
//   e2e            training for real through the ordinary command line: cache, train, resume, sample
//
//   --quick        sizes for a software adapter
//   --pack=OUT     writes everything to a folder that runs on a machine without a network; --bare leaves out Node and Dawn
//
// Each bench is TypeScript over the packages' sources; esbuild makes one file of it.
import { spawn } from 'node:child_process'
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const here = dirname(fileURLToPath(import.meta.url))
/** A packed folder holds the benches ready to run. */
const isPacked = existsSync(join(here, 'packed.json'))
const built = isPacked ? here : join(here, '..', 'node_modules', '.cache', 'kinora-bench')

/** By command: the file, and the flags that make it small enough for a processor. */
export const benches = {
  kernels: {
    file: 'kernels',
    quick:
      '--tokens=160 --long-tokens=320 --channels=256 --ffn=512 --heads=2 --pixels=32 --repeat=3',
  },
  blocks: {
    file: 'blocks',
    quick: '--cases=64x64x17 --heads=2 --head-dim=64 --ffn=512 --text-dim=128 --text-length=32',
  },
  step: {
    file: 'step',
    quick:
      '--cases=64x64x17 --layers=2 --heads=2 --head-dim=64 --ffn=512 --text-dim=128 --text-length=32 --repeat=1',
  },
  vae: { file: 'vae', quick: '--cases=64x64x17 --base-dim=16' },
  text: { file: 'text', quick: '--captions=4' },
  numerics: { file: 'full-width', quick: '' },
  packing: { file: 'packing-error', quick: '' },
  checkpoint: { file: 'checkpoint', quick: '--layers=2 --heads=2 --head-dim=64 --ffn=512' },
  load: { file: 'load', quick: '' },
  e2e: { file: 'e2e', quick: '--size=64 --frames=17' },
}

const args = process.argv.slice(2)
const command = args[0] === undefined || args[0].startsWith('--') ? 'all' : args.shift()
const take = (name) => {
  const index = args.findIndex((arg) => arg === `--${name}` || arg.startsWith(`--${name}=`))
  if (index < 0) return undefined
  const [flag] = args.splice(index, 1)
  if (flag.includes('=')) return flag.slice(flag.indexOf('=') + 1)
  return args[index] !== undefined && !args[index].startsWith('--') ? args.splice(index, 1)[0] : ''
}

/** Makes one file of each bench; the packages' sources go in, what is not JavaScript stays out. */
export async function buildBenches(names, outdir) {
  const { build } = await import('esbuild')
  await build({
    entryPoints: names.map((name) => join(here, `${benches[name].file}.ts`)),
    outdir,
    outExtension: { '.js': '.mjs' },
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    conditions: ['@kinora/source'],
    external: ['webgpu', 'sharp', '@kinora/tiny-wan'],
    // Packages written for require find it.
    banner: {
      js: "import { createRequire as kinoraRequire } from 'node:module'; const require = kinoraRequire(import.meta.url);",
    },
    logLevel: 'warning',
  })
}

function run(name, flags) {
  const child = spawn(process.execPath, [join(built, `${benches[name].file}.mjs`), ...flags], {
    stdio: 'inherit',
  })
  return new Promise((resolve) => child.on('close', (code, signal) => resolve(signal ? 1 : code)))
}

const pack = take('pack')
if (pack !== undefined) {
  const { packBenches } = await import('./pack.mjs')
  await packBenches(pack, benches, buildBenches, { bare: take('bare') !== undefined })
  process.exit(0)
}
const names = command === 'all' ? ['kernels', 'blocks', 'step'] : [command]
if (names.some((name) => !Object.hasOwn(benches, name))) {
  console.error(`There is no bench ${command}. There are: all, ${Object.keys(benches).join(', ')}.`)
  process.exit(2)
}
const quick = args.includes('--quick')
const flags = args.filter((arg) => arg !== '--quick')
if (!isPacked) await buildBenches(names, built)
const forSmall = (name) => (quick ? benches[name].quick.split(' ').filter(Boolean) : [])
if (command !== 'all') process.exit(await run(command, [...forSmall(command), ...flags]))

const json = take('json')
const parts = join(built, `results-${process.pid}`)
await mkdir(parts, { recursive: true })
let failed = 0
const results = {}
for (const name of names) {
  console.log(`\n${name}`)
  const file = join(parts, `${name}.json`)
  const code = await run(name, [...forSmall(name), `--json=${file}`])
  if (code !== 0) failed = code
  else results[name] = JSON.parse(await readFile(file, 'utf8'))
}
// The rival runs beside, where it can.
const torch = spawn('python3', ['-c', 'import torch; assert torch.cuda.is_available()'], {
  stdio: 'ignore',
})
const hasTorch = await new Promise((resolve) => {
  torch.on('error', () => resolve(false))
  torch.on('close', (code) => resolve(code === 0))
})
if (hasTorch && !quick) {
  console.log('\npytorch')
  const peer = spawn('python3', [join(here, 'wan_torch.py'), '--cases', '512x512x41'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let text = ''
  peer.stdout.on('data', (chunk) => {
    text += chunk
    process.stdout.write(chunk)
  })
  await new Promise((resolve) => peer.on('close', resolve))
  const lines = text.trim().split('\n')
  results.pytorch = lines.map((line) => JSON.parse(line))
  const ours = results.step?.results ?? []
  for (const theirs of results.pytorch) {
    const own = ours.find((each) => each.case === theirs.case)
    if (own)
      console.log(`${own.case}: ${(own.seconds / theirs.seconds).toFixed(2)} of PyTorch's time`)
  }
}
if (json) await writeFile(json, `${JSON.stringify(results, null, 2)}\n`)
await rm(parts, { recursive: true, force: true })
process.exit(failed)
