// Packs every public package as it would be published and looks at the archive: publint for the manifest, attw for the types.

import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { buildWorkspace } from './bootstrap/build.mjs'
import { installWorkspace, tail, workspacePackages } from './bootstrap/install.mjs'
import { npmCommand, runQuietly } from './bootstrap/run-command.mjs'
import { readJson, root } from './bootstrap/state.mjs'

await installWorkspace()
await buildWorkspace()
const folder = mkdtempSync(join(tmpdir(), 'kinora-pack-'))
const { packageManager } = readJson(join(root, 'package.json'))
const npx = npmCommand('npx')
let numFailed = 0
try {
  for (const { folder: packageFolder, manifest } of workspacePackages()) {
    if (manifest.private) continue
    const problems = await checkPackage(join(root, packageFolder), manifest)
    console.log(`${problems.length === 0 ? 'ok  ' : 'FAIL'} ${manifest.name}`)
    for (const problem of problems) console.log(problem.replace(/^/gm, '     '))
    if (problems.length > 0) numFailed++
  }
} finally {
  rmSync(folder, { recursive: true, force: true })
}
process.exitCode = numFailed > 0 ? 1 : 0

async function checkPackage(cwd, manifest) {
  const packed = await runQuietly(
    npx.file,
    [...npx.args, '--yes', packageManager, 'pack', '--pack-destination', folder],
    { cwd },
  )
  const archive = readdirSync(folder).find((name) => name.endsWith('.tgz'))
  if (packed.code !== 0 || !archive) return [tail(packed.stderr || packed.stdout)]
  const file = join(folder, archive)
  const problems = []
  const run = async (binary, args) => {
    const { code, stdout, stderr } = await runQuietly(
      process.execPath,
      [join(root, 'node_modules', binary), ...args],
      { env: { ...process.env, NO_COLOR: '1', FORCE_COLOR: '0' } },
    )
    if (code !== 0) problems.push(tail(`${stdout}\n${stderr}`, 25))
  }
  await run('publint/src/cli.js', [file, '--strict'])
  const hasTypes = Object.values(manifest.exports ?? {}).some((target) => target.types)
  if (hasTypes) {
    await run('@arethetypeswrong/cli/dist/index.js', [
      file,
      '--profile',
      'esm-only',
      '--format',
      'ascii',
    ])
  }
  rmSync(file)
  return problems
}
