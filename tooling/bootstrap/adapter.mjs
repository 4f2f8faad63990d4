// A WebGPU adapter: the machine's GPU if Dawn opens one, else a software Vulkan driver, else none (and cpu-kernels do the
// work). lavapipe comes before SwiftShader: it computes in f16 too and was three to four times as fast.

import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { brotliDecompressSync } from 'node:zlib'
import { hasApt, isRoot, openApt } from './apt.mjs'
import { fetchPackageFiles, readTar, writeFiles } from './npm-package.mjs'
import { runQuietly } from './run-command.mjs'
import { SetupError, startProgress } from './say.mjs'
import { stateFolder } from './state.mjs'

/** Older ones lack what Dawn asks of a driver. */
const oldestLavapipe = 24
const swiftShaderCarrier = '@sparticuz/chromium@153.0.0'
const lavapipeManifests = [
  '/usr/share/vulkan/icd.d/lvp_icd.json',
  `/usr/share/vulkan/icd.d/lvp_icd.${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}.json`,
]

/** The adapter's name (undefined: none), the environment that leads to it, and why it was chosen. */
export async function chooseAdapter() {
  const problems = []
  const named = process.env.VK_DRIVER_FILES ?? process.env.VK_ICD_FILENAMES
  const own = await probe({})
  if (own.name) {
    const why = named
      ? 'The Vulkan driver that the environment names.'
      : own.software
        ? 'Dawn finds no GPU here; this software driver is installed.'
        : 'The first GPU that Dawn finds on this machine.'
    return chosen(own, {}, why)
  }
  problems.push(own.problem)

  if (process.platform === 'linux') {
    // A broken driver of another kind beside it can keep Dawn from a good lavapipe.
    const installed = await probeLavapipe()
    if (installed) return installed
    const cached = await probeSwiftShader()
    if (cached) return cached
    if (hasApt() && isRoot()) {
      const problem = await installLavapipe()
      const lavapipe = problem ? undefined : await probeLavapipe('installed through apt-get')
      if (lavapipe) return lavapipe
      problems.push(`lavapipe: ${problem ?? 'installed, but Dawn does not open it'}`)
    } else problems.push('lavapipe is not installed, and installing it takes root and apt-get')
    const problem = await unpackSwiftShader()
    const swiftShader = problem ? undefined : await probeSwiftShader()
    if (swiftShader) {
      return {
        ...swiftShader,
        reason: `${swiftShader.reason} Better ones: ${problems.join('; ')}.`,
      }
    }
    problems.push(`SwiftShader: ${problem ?? 'unpacked, but Dawn does not open it'}`)
  }

  if (process.env.REQUIRE_GPU === '1') {
    throw new SetupError(
      'SETUP_NO_ADAPTER',
      `REQUIRE_GPU=1 asks for a WebGPU adapter and none opens: ${problems.join('; ')}.`,
      `Install a Vulkan driver (lavapipe ${oldestLavapipe} or newer will do), or unset REQUIRE_GPU to use cpu-kernels.`,
    )
  }
  return {
    env: {},
    reason: `${problems.join('; ')}. cpu-kernels do the work, slowly.`,
  }
}

function chosen({ name, driver, f16 }, env, why) {
  const numbers = f16 ? 'f32 and f16' : 'f32 only'
  return { name, env, reason: `${why} (${[driver, numbers].filter(Boolean).join('; ')})` }
}

async function probe(env) {
  const script = fileURLToPath(new URL('./probe-adapter.mjs', import.meta.url))
  const { code, stdout, stderr } = await runQuietly(process.execPath, [script], {
    env: { ...process.env, ...env },
  })
  try {
    return JSON.parse(stdout.trim().split('\n').at(-1))
  } catch {
    return { problem: `Dawn ended with exit code ${code}: ${stderr.trim().split('\n').at(-1)}` }
  }
}

async function probeLavapipe(how = 'already installed') {
  const manifest = lavapipeManifests.find((file) => existsSync(file))
  if (!manifest) return undefined
  const env = { VK_DRIVER_FILES: manifest, VK_ICD_FILENAMES: manifest }
  const found = await probe(env)
  return found.name
    ? chosen(found, env, `Dawn finds no GPU here; lavapipe, ${how}, computes on the processor.`)
    : undefined
}

/** @returns why not, or undefined */
async function installLavapipe() {
  const apt = await openApt()
  try {
    if (apt.problem) return apt.problem
    const versions = await apt.versions('mesa-vulkan-drivers')
    const major = ({ version }) => Number(/^(?:\d+:)?(\d+)/.exec(version)?.[1])
    const fitting = versions.filter((entry) => major(entry) >= oldestLavapipe)
    // The release's own before one from backports.
    const best = fitting.find(({ suite }) => !suite?.endsWith('-backports')) ?? fitting[0]
    if (!best) return `the distribution has no Mesa ${oldestLavapipe} or newer`
    return await apt.install(`Installing lavapipe ${best.version}`, [
      // By suite, not version: what it depends on may have to come from there too.
      best.suite ? `mesa-vulkan-drivers/${best.suite}` : `mesa-vulkan-drivers=${best.version}`,
      'libvulkan1',
    ])
  } finally {
    apt.close()
  }
}

const swiftShaderFolder = join(stateFolder, 'swiftshader')

async function probeSwiftShader() {
  const manifest = join(swiftShaderFolder, 'vk_swiftshader_icd.json')
  if (!existsSync(manifest)) return undefined
  const env = { VK_DRIVER_FILES: manifest, VK_ICD_FILENAMES: manifest }
  const why = 'Dawn finds no GPU here; SwiftShader, from an npm package, computes on the processor.'
  const found = await probe(env)
  if (found.name) return chosen(found, env, why)
  // The package has a Vulkan loader too, for machines without one.
  const withLoader = {
    ...env,
    LD_LIBRARY_PATH: [swiftShaderFolder, process.env.LD_LIBRARY_PATH].filter(Boolean).join(':'),
  }
  const foundWithLoader = await probe(withLoader)
  return foundWithLoader.name ? chosen(foundWithLoader, withLoader, why) : undefined
}

async function unpackSwiftShader() {
  if (process.arch !== 'x64') return `no npm package carries it for ${process.arch}`
  const progress = startProgress('Fetching SwiftShader from npm')
  const { files, problem } = await fetchPackageFiles(
    swiftShaderCarrier,
    (path) => path === 'package/bin/swiftshader.tar.br',
  )
  const packed = files?.get('package/bin/swiftshader.tar.br')
  progress.end(!packed)
  if (!packed) return problem ?? `${swiftShaderCarrier} does not contain it`
  const wanted = /^(libvk_swiftshader\.so|libvulkan\.so\.1|vk_swiftshader_icd\.json)$/
  const unpacked = [...readTar(brotliDecompressSync(packed))]
    .map(({ name, data }) => [name.replace(/^\.\//, ''), data])
    .filter(([name]) => wanted.test(name))
  writeFiles(swiftShaderFolder, unpacked, 0o755)
  return undefined
}
