// Checks every package's shape: each entry of `exports` has one door under src/, a door holds named re-exports only, what a door
// lets out is documented, and imports between packages go down the layers of the architecture.

import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { readJson, root } from './bootstrap/state.mjs'

/** A package may import those of a lower layer, and of its own layer only what is listed. */
const layers = {
  stage: 0,
  safetensors: 0,
  'kernel-api': 0,
  'config-schema': 1,
  'wgpu-kernels': 1,
  'cpu-kernels': 1,
  media: 1,
  'lora-files': 1,
  'clip-prep': 2,
  captioner: 2,
  bucketer: 2,
  'run-log': 2,
  wan: 2,
  'trainer-core': 3,
  sampler: 3,
  exporter: 3,
  'tiny-wan': 0,
}
/** The dataset packages must install without these. */
const gpuPackages = new Set([
  'kernel-api',
  'wgpu-kernels',
  'cpu-kernels',
  'wan',
  'trainer-core',
  'sampler',
])
const backends = new Set(['wgpu-kernels', 'cpu-kernels'])
const datasetPackages = new Set(['clip-prep', 'captioner', 'bucketer'])

const problems = []
for (const name of readdirSync(join(root, 'packages'))) checkPackage(name)
if (problems.length > 0) {
  console.error(problems.map((problem) => `- ${problem}`).join('\n'))
  console.error(`${problems.length} problems with the packages' doors.`)
  process.exit(1)
}
console.log('Doors, documentation and layers are as they should be.')

function checkPackage(name) {
  const folder = join(root, 'packages', name)
  const manifest = readJson(join(folder, 'package.json'))
  if (!manifest) return
  checkLayers(name, manifest)
  if (!existsSync(join(folder, 'README.md'))) problems.push(`packages/${name} has no README.md`)
  for (const [entry, target] of Object.entries(manifest.exports)) {
    if (typeof target === 'string') continue
    const source = target['@kinora/source']
    const door = entry === '.' ? './src/index.ts' : `./src/${entry.slice(2)}.ts`
    if (source !== door && source !== door.replace(/\.ts$/, '/index.ts')) {
      problems.push(
        `packages/${name}: exports["${entry}"] should have its door at ${door}, not ${source}`,
      )
    } else if (!existsSync(join(folder, source))) {
      problems.push(`packages/${name}: exports["${entry}"] has no door at ${source}`)
    } else checkDoor(join(folder, source))
  }
}

function checkLayers(name, manifest) {
  const layer = layers[name]
  if (layer === undefined)
    return problems.push(`packages/${name} has no layer in tooling/check-doors.mjs`)
  const imports = Object.keys({ ...manifest.dependencies, ...manifest.peerDependencies })
    .filter((dependency) => dependency.startsWith('@kinora/'))
    .map((dependency) => dependency.slice('@kinora/'.length))
  for (const other of imports) {
    if (!(layers[other] < layer))
      problems.push(`packages/${name} imports ${other}, which is not below it`)
    if (backends.has(other))
      problems.push(`packages/${name} names a backend, ${other}; only apps may`)
    if (datasetPackages.has(name) && gpuPackages.has(other)) {
      problems.push(`packages/${name} is a dataset package and imports ${other}`)
    }
  }
}

function checkDoor(file) {
  const place = relative(root, file)
  const text = withoutComments(readFileSync(file, 'utf8'))
  if (/export\s*\*/.test(text)) problems.push(`${place}: export * hides what the door lets out`)
  const reExport = /export\s+(?:type\s+)?\{([^}]*)\}\s*from\s*'([^']+)'/g
  const rest = text
    .replace(reExport, '')
    .replace(/export\s*\*[^\n]*/g, '')
    .trim()
  if (rest !== '')
    problems.push(`${place}: a door only re-exports, and this has: ${rest.split('\n')[0]}`)
  for (const [, names, from] of text.matchAll(reExport)) {
    if (!from.startsWith('.')) {
      problems.push(`${place}: re-exports ${from}, another package's names`)
      continue
    }
    const source = join(dirname(file), from)
    if (!existsSync(source)) continue
    const code = readFileSync(source, 'utf8')
    for (const part of names.split(',')) {
      const exported = part
        .trim()
        .replace(/^type\s+/, '')
        .split(/\s+as\s+/)[0]
      if (exported && !isDocumented(code, exported)) {
        problems.push(`${relative(root, source)}: ${exported} leaves by a door and has no comment`)
      }
    }
  }
}

/** Types that only name what a documented schema holds explain themselves. */
function isDocumented(code, name) {
  const declaration = new RegExp(
    `^export (?:declare )?(?:async )?(?:abstract )?(function\\*?|class|const|interface|type)\\s+${name}\\b([^\\n]*)`,
    'm',
  )
  const found = declaration.exec(code)
  if (!found) return true
  const [, kind, rest] = found
  // An interface of options or context is documented field by field.
  if (kind === 'interface' && /(Options|Context)$/.test(name)) return true
  if (kind === 'type' && /z\.(input|output|infer)<|\(typeof|keyof typeof/.test(rest)) return true
  if (kind === 'const' && /Options\b|Schema\b|Errors\b/.test(name)) return true
  return /\*\/\s*$/.test(code.slice(0, found.index))
}

function withoutComments(text) {
  return text
    .replace(/\/\*[\s\S]*?\*\//g, '')
    .replace(/^\s*\/\/.*$/gm, '')
    .replace(/^#!.*$/m, '')
}
