// A folder that runs the benches and the ordinary command line on a machine without a network: the built benches, the packages
// with their dependencies in one node_modules, and Node itself. What it does not hold is said in its README: the Vulkan loader,
// the driver, and ffmpeg where clips are read.
import { cp, mkdir, readFile, realpath, rm, stat, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const here = dirname(fileURLToPath(import.meta.url))
const root = join(here, '..', '..')
const platform = `${process.platform}-${process.arch}`

/** Packages of other platforms, and what running does not need. */
function isWanted(inside) {
  if (/\.(map|d\.ts|d\.mts|d\.cts|md|test\.js)$/.test(inside)) return false
  if (/(^|\/)node_modules$/.test(inside)) return false
  // At the top alone: deeper down such a name may be a folder of the program.
  return !/^(tests?|docs?|coverage|examples?|\.turbo)$/.test(inside)
}

async function findPackage(name, from) {
  // Not through `exports`, which need not let package.json out.
  for (let folder = from; ; folder = dirname(folder)) {
    const found = join(folder, 'node_modules', name)
    if (await stat(join(found, 'package.json')).catch(() => undefined)) return realpath(found)
    if (folder === dirname(folder)) return undefined
  }
}

/** Copies a package and all it depends on, side by side; a second version of one is left where the first is. */
async function copyPackage(folder, out, done) {
  const manifest = JSON.parse(await readFile(join(folder, 'package.json'), 'utf8'))
  const { name } = manifest
  if (done.has(name)) return
  done.set(name, manifest.version)
  const isOurs = name === 'kinora' || name.startsWith('@kinora/')
  const target = join(out, 'node_modules', name)
  await mkdir(target, { recursive: true })
  await cp(folder, target, {
    recursive: true,
    dereference: true,
    filter: (file) => {
      if (file === folder) return true
      const inside = file.slice(folder.length + 1)
      if (!isWanted(inside)) return false
      if (isOurs && inside.split('/')[0] === 'src') return false
      // Of tiny-wan what a random checkpoint borrows: configuration and tokenizer.
      if (name === '@kinora/tiny-wan')
        return !/^(footage|eval)\b/.test(inside) && !file.endsWith('.safetensors')
      // Dawn for this platform alone.
      const build = /^dist\/([^/]+)/.exec(inside)
      return name !== 'webgpu' || build === null || !build[1].includes('-') || build[1] === platform
    },
  })
  const optional = Object.keys(manifest.optionalDependencies ?? {}).filter((other) =>
    other.includes(platform),
  )
  for (const dependency of [...Object.keys(manifest.dependencies ?? {}), ...optional]) {
    const found = await findPackage(dependency, folder)
    if (found) await copyPackage(found, out, done)
    else if (!optional.includes(dependency))
      throw new Error(`${dependency}, which ${name} needs, is not installed.`)
  }
}

/** @param bare leaves out Node and Dawn, which are most of it, for a machine that has them */
export async function packBenches(out, benches, buildBenches, { bare = false } = {}) {
  await rm(out, { recursive: true, force: true })
  await mkdir(out, { recursive: true })
  await buildBenches(Object.keys(benches), out)
  const require = createRequire(join(root, 'package.json'))
  const done = new Map()
  await copyPackage(dirname(require.resolve('kinora/package.json')), out, done)
  for (const name of [
    '@kinora/cpu-kernels',
    '@kinora/wgpu-kernels',
    '@kinora/tiny-wan',
    'webgpu',
  ]) {
    const found =
      (await findPackage(name, here)) ?? (await findPackage(name, join(root, 'apps', 'cli')))
    if (found) await copyPackage(found, out, done)
  }
  for (const file of ['bench.mjs', 'wan_torch.py', 'full_width.py'])
    await cp(join(here, file), join(out, file))
  if (!bare) await cp(process.execPath, join(out, 'node'))
  await writeFile(
    join(out, 'packed.json'),
    `${JSON.stringify({ platform, node: process.version, packages: Object.fromEntries(done) }, null, 2)}\n`,
  )
  await writeFile(
    join(out, 'README.md'),
    `# Kinora's benches, packed for ${platform}

    ./node bench.mjs [command] [flags]          the benches
    ./node node_modules/kinora/bin/kinora.js    the command line

Wanted of the machine: a Vulkan driver and its loader (libvulkan1 of Debian), and ffmpeg with ffprobe for \`e2e\` (on the PATH, or by
FFMPEG_PATH and FFPROBE_PATH).
`,
  )
  console.log(`${out}: ${done.size} packages, Node ${process.version}, ${platform}.`)
}
