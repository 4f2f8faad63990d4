import { execFile } from 'node:child_process'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { workspacePackages } from './bootstrap/install.mjs'
import { npmCommand } from './bootstrap/run-command.mjs'
import { readJson, root } from './bootstrap/state.mjs'

// Packs packages as they would be published, installs them in an empty folder, and starts their bins there.

interface Manifest {
  name: string
  dependencies?: Record<string, string>
}

const run = promisify(execFile)
const packages = new Map<string, { folder: string; manifest: Manifest }>(
  workspacePackages().map((entry: { folder: string; manifest: Manifest }) => [
    entry.manifest.name,
    entry,
  ]),
)
const gpuPackages = ['kernel-api', 'wgpu-kernels', 'cpu-kernels', 'wan', 'trainer-core', 'sampler']

let archives: string
beforeAll(async () => {
  archives = await mkdtemp(join(tmpdir(), 'kinora-pack-'))
})
afterAll(() => rm(archives, { recursive: true, force: true }))

/** The packages and all of ours that they depend on. */
function closure(names: readonly string[]): string[] {
  const found = new Set<string>()
  const visit = (name: string): void => {
    if (found.has(name)) return
    found.add(name)
    const { dependencies = {} } = packages.get(name)!.manifest
    for (const dependency of Object.keys(dependencies))
      if (packages.has(dependency)) visit(dependency)
  }
  names.forEach(visit)
  return [...found].toSorted()
}

const packed = new Map<string, Promise<string>>()

/** Path of a package's archive; each is packed once. */
function pack(name: string): Promise<string> {
  let archive = packed.get(name)
  if (!archive) {
    archive = packNow(name)
    packed.set(name, archive)
  }
  return archive
}

async function packNow(name: string): Promise<string> {
  const npx = npmCommand('npx')
  const { packageManager } = readJson(join(root, 'package.json'))
  const args = [
    ...npx.args,
    '--yes',
    packageManager,
    'pack',
    '--pack-destination',
    archives,
    '--json',
  ]
  const { stdout } = await run(npx.file, args, { cwd: join(root, packages.get(name)!.folder) })
  return (JSON.parse(stdout) as { filename: string }).filename
}

/** Installs packages in an empty folder with npm, and runs `use` there. */
async function installed(
  names: readonly string[],
  use: (folder: string) => Promise<void>,
): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'kinora-install-'))
  try {
    const files: string[] = []
    for (const name of closure(names)) files.push(await pack(name))
    await writeFile(join(folder, 'package.json'), '{"private":true}')
    const npm = npmCommand('npm')
    await run(
      npm.file,
      [...npm.args, 'install', '--no-audit', '--no-fund', '--no-package-lock', ...files],
      { cwd: folder },
    )
    await use(folder)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

function bin(folder: string, name: string, ...args: string[]): Promise<{ stdout: string }> {
  return run(join(folder, 'node_modules/.bin', name), args, { cwd: folder })
}

describe('installed on their own', () => {
  it(
    'the dataset packages bring no GPU package, and make a dataset',
    { timeout: 240_000 },
    async () => {
      const names = ['@kinora/clip-prep', '@kinora/captioner', '@kinora/bucketer']
      await installed([...names, '@kinora/media'], async (folder) => {
        const ours = await readdir(join(folder, 'node_modules/@kinora'))
        expect(ours.filter((name) => gpuPackages.includes(name))).toEqual([])
        expect(await readdir(join(folder, 'node_modules'))).not.toContain('webgpu')

        const footage = join(root, 'packages/tiny-wan/footage/take-2.mp4')
        await bin(folder, 'clip-prep', footage, '--out', 'dataset', '--no-strips', '--no-report')
        await bin(
          folder,
          'captioner',
          'caption',
          'dataset',
          '--trigger',
          'crane',
          '--default-caption',
          '[trigger] moves',
        )
        await bin(
          folder,
          'bucketer',
          'plan',
          'dataset',
          '--num-frames',
          '9',
          '--resolutions',
          '64',
          '--out',
          'plan.json',
        )
        const plan = JSON.parse(await readFile(join(folder, 'plan.json'), 'utf8')) as {
          buckets: { items: unknown[] }[]
        }
        expect(plan.buckets.flatMap(({ items }) => items).length).toBeGreaterThan(0)
      })
    },
  )

  it('exporter checks a LoRA', { timeout: 240_000 }, async () => {
    await installed(['@kinora/exporter'], async (folder) => {
      const ours = await readdir(join(folder, 'node_modules/@kinora'))
      expect(ours.filter((name) => gpuPackages.includes(name))).toEqual([])
      const { stdout } = await bin(folder, 'exporter', '--help')
      expect(stdout).toContain('verify')
    })
  })

  it('sampler generates a clip with the kernels beside it', { timeout: 240_000 }, async () => {
    await installed(['@kinora/sampler', '@kinora/cpu-kernels'], async (folder) => {
      const tinyWan = join(root, 'packages/tiny-wan')
      const size = [
        '--width',
        '32',
        '--height',
        '32',
        '--num-frames',
        '5',
        '--steps',
        '1',
        '--guidance',
        '1',
      ]
      await bin(
        folder,
        'sampler',
        join(tinyWan, 'checkpoint'),
        '--image',
        join(tinyWan, 'eval/1.png'),
        '--prompt',
        'crane',
        '--backend',
        '@kinora/cpu-kernels',
        '--out',
        'clip.mp4',
        ...size,
      )
      expect(await readdir(folder)).toContain('clip.mp4')
    })
  })
})
