import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseTrainJob } from '@kinora/config-schema'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { runKinora } from './run-kinora.ts'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kinora-cli-'))
})
afterEach(() => rm(folder, { recursive: true, force: true }))

const verbs = [
  'init',
  'doctor',
  'prep',
  'caption',
  'plan',
  'cache',
  'train',
  'sample',
  'export',
  'demo',
]

describe('kinora', () => {
  it('lists its commands, and says which was meant', async () => {
    const { stdout, exitCode } = await runKinora(['--help'])
    expect(exitCode).toBe(0)
    for (const verb of verbs) expect(stdout).toMatch(new RegExp(`^  ${verb} `, 'm'))
    const wrong = await runKinora(['trian'])
    expect(wrong.exitCode).toBe(2)
    expect(wrong.stderr).toContain('Did you mean train?')
    expect((await runKinora([])).exitCode).toBe(2)
  })

  it.each(verbs)(
    '%s has a help with every flag explained, and refuses unknown flags',
    async (verb) => {
      const help = await runKinora([verb, '--help'])
      expect(help.exitCode).toBe(0)
      expect(help.stdout).toContain(`Usage: kinora ${verb}`)
      const flags = help.stdout.split('\n').filter((line) => /^ {2}--/.test(line))
      expect(flags.length).toBeGreaterThan(4)
      const unknown = await runKinora([verb, '--no-such-flag-at-all', '1', '--json'])
      expect(unknown.exitCode).toBe(2)
      expect(unknown.stderr).toContain('--no-such-flag-at-all is not a flag.')
      expect(unknown.events.at(-1)).toMatchObject({ type: 'error', code: 'KINORA_BAD_OPTIONS' })
    },
  )

  it('init writes a job that parses, with its schema, and does not overwrite', async () => {
    const job = join(folder, 'job.yaml')
    const args = ['init', job, '--recipe', 'style', '--vram', '48', '--trigger', 'inkwash']
    const { exitCode, stderr } = await runKinora(args)
    expect(exitCode, stderr).toBe(0)
    const text = await readFile(job, 'utf8')
    const [, schema] = /\$schema=\.\/(\S+)/.exec(text)!
    expect(JSON.parse(await readFile(join(folder, schema!), 'utf8'))).toHaveProperty('$schema')
    const [process] = parseTrainJob(text, { fileName: job }).config.process
    expect(process.trigger_word).toBe('inkwash')
    const again = await runKinora(args)
    expect(again.exitCode).toBe(1)
    expect(again.stderr).toContain('error KINORA_FILE_EXISTS')
    expect((await runKinora([...args, '--force'])).exitCode).toBe(0)
  })

  it('doctor says what the machine has', async () => {
    const { exitCode, stderr, events } = await runKinora(['doctor', '--json'])
    expect(exitCode, stderr).toBe(0)
    const checks = (events.at(-1) as { result: { name: string; status: string }[] }).result
    expect(checks.map(({ name }) => name)).toEqual(['node', 'machine', 'ffmpeg', 'adapter', 'disk'])
    expect(checks.find(({ name }) => name === 'ffmpeg')!.status).toBe('ok')
  })
})
