import { spawn } from 'node:child_process'
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { z } from 'zod'
import { CodedError } from '../coded-error.ts'
import type { RunContext } from '../run-context.ts'
import type { StageEvent } from '../stage-event.ts'
import { runBin, type BinDefinition } from './run-bin.ts'

const cutOptions = z.strictObject({
  source: z.string().describe('Folder of videos.'),
  minDuration: z.number().positive().default(2).describe('Shortest clip kept, in seconds.'),
  frameCounts: z.array(z.int()).default([17]).describe('Frames of a sample.'),
  label: z.array(z.string()).default([]),
  trim: z.boolean().default(true).describe('Trims still heads and tails.'),
  mode: z.enum(['fast', 'exact']).default('fast'),
  crop: z
    .strictObject({ width: z.int().optional(), mode: z.literal(['in', 'out']).optional() })
    .optional(),
  size: z.union([z.number(), z.literal('auto')]).default('auto'),
  limit: z.number().nullable().default(null),
  tags: z.record(z.string(), z.number()).default({}),
  dryRun: z.boolean().default(false).describe('Prints the plan.'),
})

async function* cutIter(
  options: z.input<typeof cutOptions>,
  { signal }: RunContext,
): AsyncGenerator<StageEvent, unknown> {
  yield { type: 'started', phase: 'cut', total: 2 }
  if (options.source === 'bug') throw new TypeError('undefined is not a function')
  if (options.source === 'broken') {
    throw new CodedError('CUT_BROKEN', 'The clip is broken.', 'Mend it.', {
      cause: new Error('moov atom not found'),
    })
  }
  if (options.source === 'full') {
    throw Object.assign(new Error('ENOSPC: no space left'), { code: 'ENOSPC', path: 'out/a.mp4' })
  }
  if (options.source === 'interrupted') process.emit('SIGINT')
  signal?.throwIfAborted()
  yield { type: 'progress', phase: 'cut', done: 1, total: 2, item: 'a.mp4' }
  return { options }
}

const cut: BinDefinition = {
  name: 'clip-prep',
  version: '1.2.3',
  summary: 'Cuts footage into clips.',
  options: cutOptions,
  positionals: ['source'],
  run: cutIter,
}

async function run(definition: BinDefinition, ...args: string[]) {
  let stdout = ''
  let stderr = ''
  const exitCode = await runBin(definition, {
    args,
    stdout: { write: (text: string) => (stdout += text) },
    stderr: { write: (text: string) => (stderr += text) },
  })
  const lines = stdout.split('\n').filter((line) => line.startsWith('{'))
  return { exitCode, stdout, stderr, lines }
}

async function optionsOf(...args: string[]): Promise<unknown> {
  const { stdout, stderr } = await run(cut, '--json', ...args)
  const last = stdout.trim().split('\n').at(-1)!
  expect(last, stderr).toContain('"type":"result"')
  return (JSON.parse(last) as { result: { options: unknown } }).result.options
}

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kinora-bin-'))
})
afterEach(() => rm(folder, { recursive: true }))

describe('runBin', () => {
  it('reads every kind of flag by the type of its field', async () => {
    expect(
      await optionsOf(
        'footage',
        '--min-duration=0.5',
        '--frame-counts',
        '17,33',
        '--frame-counts',
        '49',
        '--label',
        'a, b',
        '--label=c',
        '--no-trim',
        '--mode',
        'exact',
        '--crop.width',
        '64',
        '--crop.mode=in',
        '--size',
        '32',
        '--limit',
        'null',
        '--tags.pan',
        '-2',
      ),
    ).toEqual({
      source: 'footage',
      minDuration: 0.5,
      frameCounts: [17, 33, 49],
      label: ['a, b', 'c'],
      trim: false,
      mode: 'exact',
      crop: { width: 64, mode: 'in' },
      size: 32,
      limit: null,
      tags: { pan: -2 },
    })
    expect(await optionsOf('--source', 'x', '--size', 'auto', '--trim')).toEqual({
      source: 'x',
      size: 'auto',
      trim: true,
    })
  })

  it('lets a flag beat the config file, in YAML and in JSON, and objects merge', async () => {
    const yaml = join(folder, 'options.yaml')
    const json = join(folder, 'options.json')
    await writeFile(yaml, 'source: footage\nminDuration: 3\ncrop:\n  width: 32\n  mode: out\n')
    await writeFile(json, '{"source": "footage", "minDuration": 3}')
    expect(await optionsOf('--config', yaml, '--min-duration', '4', '--crop.width', '48')).toEqual({
      source: 'footage',
      minDuration: 4,
      crop: { width: 48, mode: 'out' },
    })
    expect(await optionsOf('--config', json)).toEqual({ source: 'footage', minDuration: 3 })
  })

  it('names every wrong option by its flag or its place in the config file, with exit code 2', async () => {
    const { exitCode, stderr } = await run(cut, '--min-duration', '-1', '--mode', 'exakt')
    expect(exitCode).toBe(2)
    expect(stderr).toContain('error CLIP_PREP_BAD_OPTIONS')
    expect(stderr).toContain('<source> is required.')
    expect(stderr).toContain('--min-duration: Too small')
    expect(stderr).toContain('--mode: Invalid option: expected one of "fast"|"exact"')
    const config = join(folder, 'options.yaml')
    await writeFile(config, 'source: x\nminDurations: 3\n')
    const fromFile = await run(cut, '--config', config)
    expect(fromFile.exitCode).toBe(2)
    expect(fromFile.stderr).toContain(
      `${config}: minDurations is not an option. Did you mean ${config}: minDuration?`,
    )
  })

  it('suggests the flag that was meant', async () => {
    const { exitCode, stderr, lines } = await run(cut, 'x', '--json', '--min-duraton', '3')
    expect(exitCode).toBe(2)
    expect(stderr).toContain('--min-duraton is not a flag. Did you mean --min-duration?')
    expect(JSON.parse(lines.at(-1)!)).toMatchObject({
      type: 'error',
      code: 'CLIP_PREP_BAD_OPTIONS',
    })
  })

  it.each([
    [['x', '--mode'], '--mode needs a value.'],
    [['x', 'y'], '"y" is one argument too many.'],
    [['x', '--trim=maybe'], '--trim is a switch'],
    [['x', '-q'], '-q is not a flag.'],
    [['x', '--config', 'missing.yaml'], '--config: missing.yaml cannot be read'],
  ])('refuses %j', async (args, message) => {
    const { exitCode, stderr } = await run(cut, ...args)
    expect(exitCode).toBe(2)
    expect(stderr).toContain(message)
  })

  it('prints help made from the schema', async () => {
    const { exitCode, stdout } = await run(cut, '--help')
    expect(exitCode).toBe(0)
    expect(stdout).toContain('Usage: clip-prep <source> [options]')
    expect(stdout).toMatch(
      /--min-duration <number> +Shortest clip kept, in seconds\. \[default: 2\]/,
    )
    expect(stdout).toContain('--[no-]trim')
    expect(stdout).toContain('--crop.width <number>')
    expect(stdout).toMatch(/--source <text> +Folder of videos\. \[required\]/)
    expect((await run(cut, '--version')).stdout).toBe('1.2.3\n')
  })

  it('prints one event a line with --json, the result last, and nothing but data on stdout', async () => {
    const { exitCode, lines, stdout } = await run(cut, 'x', '--json')
    expect(exitCode).toBe(0)
    expect(lines.map((line) => (JSON.parse(line) as { type: string }).type)).toEqual([
      'started',
      'progress',
      'result',
    ])
    expect(stdout.trim().split('\n')).toHaveLength(3)
    const human = await run(cut, 'x')
    expect(human.stdout).toBe('')
    expect(human.stderr).toContain('cut: 1/2  a.mp4')
  })

  it('prints the plan of a dry run on stdout', async () => {
    const { stdout } = await run(cut, 'x', '--dry-run')
    expect(JSON.parse(stdout)).toEqual({ options: { source: 'x', dryRun: true } })
  })

  it('renders a coded error with its fix and its cause, exit code 1', async () => {
    const { exitCode, stderr } = await run(cut, 'broken')
    expect(exitCode).toBe(1)
    expect(stderr).toContain(
      'error CUT_BROKEN\nThe clip is broken.\nFix: Mend it.\nCause: moov atom not found\n',
    )
  })

  it('gives a full disk its code wherever it strikes', async () => {
    const { exitCode, stderr } = await run(cut, 'full')
    expect(exitCode).toBe(1)
    expect(stderr).toContain('error STAGE_DISK_FULL\nThe disk is full: out/a.mp4')
  })

  it('calls an error without a code a bug, with its stack, exit code 70', async () => {
    const { exitCode, stderr } = await run(cut, 'bug')
    expect(exitCode).toBe(70)
    expect(stderr).toContain('TypeError: undefined is not a function\n    at ')
    expect(stderr).toContain('This is a bug in Kinora')
  })

  it('aborts the signal at the first Ctrl-C and says what is done, exit code 130', async () => {
    const { exitCode, stderr } = await run(cut, 'interrupted')
    expect(exitCode).toBe(130)
    expect(stderr).toContain('Stopping at the next safe point.')
    expect(stderr).toContain('Stopped at cut 0/2.')
  })

  it('ends at once at the second Ctrl-C, and leaves neither a lock nor a temporary file', async () => {
    const entry = join(folder, 'stubborn.mjs')
    const source = fileURLToPath(new URL('../..', import.meta.url))
    await build({
      stdin: {
        contents: `
          import { z } from 'zod'
          import { lockFolder, writeFileAtomic } from './index.ts'
          import { runBin } from './bin.ts'
          async function* run() {
            await lockFolder(${JSON.stringify(join(folder, 'out'))})
            async function* endless() {
              for (;;) {
                yield Buffer.from('half a file')
                console.log('writing')
                await new Promise((done) => setTimeout(done, 50))
              }
            }
            yield { type: 'note', message: 'begun' }
            await writeFileAtomic(${JSON.stringify(join(folder, 'out/file'))}, endless())
          }
          process.exitCode = await runBin({ name: 'stubborn', summary: '', options: z.strictObject({}), run })`,
        resolveDir: source,
      },
      bundle: true,
      platform: 'node',
      format: 'esm',
      banner: {
        js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url)",
      },
      outfile: entry,
    })
    const child = spawn(process.execPath, [entry])
    let stderr = ''
    child.stderr.on('data', (text) => {
      stderr += String(text)
      if (/Stopping at the next safe point/.test(stderr)) child.kill('SIGINT')
    })
    child.stdout.once('data', () => child.kill('SIGINT'))
    const exitCode = await new Promise((done) => child.once('close', done))
    expect(exitCode).toBe(130)
    expect(await readdir(join(folder, 'out'))).toEqual([])
  })

  it('runs one of several commands, loading only that one', async () => {
    let loaded = 0
    const program: BinDefinition = {
      name: 'kinora',
      version: '9.9.9',
      summary: 'From footage to LoRA.',
      options: {
        cut: {
          summary: 'Cuts.',
          load: async () => {
            loaded++
            return { summary: 'Cuts.', options: cutOptions, positionals: ['source'], run: cutIter }
          },
        },
        broken: { summary: 'Never loads.', load: () => Promise.reject(new Error('loaded')) },
      },
    }
    const help = await run(program, '--help')
    expect(help.stdout).toContain('cut     Cuts.')
    expect(help.exitCode).toBe(0)
    expect(loaded).toBe(0)
    expect((await run(program)).exitCode).toBe(2)
    expect((await run(program, '--version')).stdout).toBe('9.9.9\n')
    expect((await run(program, 'cut', '--help')).stdout).toContain('Usage: kinora cut <source>')
    expect((await run(program, 'help', 'cut')).stdout).toContain('Usage: kinora cut <source>')
    expect((await run(program, 'cut', 'x')).exitCode).toBe(0)
    const unknown = await run(program, 'cutt', 'x')
    expect(unknown.exitCode).toBe(2)
    expect(unknown.stderr).toContain('"cutt" is not a command of kinora. Did you mean cut?')
  })
})
