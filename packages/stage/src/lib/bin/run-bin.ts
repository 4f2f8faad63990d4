import { readFile } from 'node:fs/promises'
import { existsSync, readFileSync, realpathSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { parse as parseYaml } from 'yaml'
import type { z } from 'zod'
import { badOptions, parseOptions } from '../parse-options.ts'
import { nearestWord } from '../nearest-word.ts'
import type { RunContext } from '../run-context.ts'
import { codeSystemError } from '../stage-errors.ts'
import { flagName, flagsOf, parseFlags, type ParsedFlags } from './flags.ts'
import { commandHelp, programHelp } from './help.ts'
import { hasCodeAndFix, renderError } from './render-error.ts'
import { createReporter, type ReporterStream } from './reporter.ts'

/** One command: a stage's options and its event generator. */
export interface BinCommand {
  /** What it does, in one sentence; the first line of its help. */
  summary: string
  /** A strict object; each field becomes a flag, its `.describe()` the help text. */
  options: z.ZodType
  /** Fields that may be given without a flag, in this order; an array takes all that are left. */
  positionals?: readonly string[]
  run(options: never, context: RunContext): AsyncGenerator<unknown, unknown>
  /** What a human sees of the result on standard output; nothing by default. */
  report?(result: never): string
}

/** A command whose packages are loaded only when it runs. */
export interface LazyBinCommand {
  summary: string
  load(): Promise<BinCommand>
}

/** A program: its name, and one command or several. */
export interface BinDefinition {
  /** As it is typed. */
  name: string
  /** By default that of the package the running file belongs to. */
  version?: string
  summary: string
  /** The options of a program with one command, or the commands by name. */
  options: z.ZodType | Readonly<Record<string, BinCommand | LazyBinCommand>>
  positionals?: readonly string[]
  run?(options: never, context: RunContext): AsyncGenerator<unknown, unknown>
  report?(result: never): string
}

/** The edges of a program, for running one inside a test. */
export interface BinEdges {
  args?: readonly string[]
  stdout?: ReporterStream
  stderr?: ReporterStream
  /** Listens to Ctrl-C; false leaves the process's own handling alone. */
  signals?: boolean
}

/** 0 done, 1 coded error, 2 bad usage, 70 bug, 130 interrupted. */
export type ExitCode = 0 | 1 | 2 | 70 | 130

/**
 * Runs a stage as a command: flags from its schema, `--help`, `--version`, `--config` (YAML or JSON; flag beats file beats
 * default), `--json` (an event a line on stdout, the result last), `--dry-run` (for stages whose options have `dryRun`),
 * bars with an ETA on a terminal, coded errors with their fix. Data goes to stdout, all else to stderr. Ctrl-C aborts the
 * signal, a second one ends the process at once. Resolves to the exit code and never throws.
 */
export async function runBin(definition: BinDefinition, edges: BinEdges = {}): Promise<ExitCode> {
  const args = edges.args ?? process.argv.slice(2)
  const stdout = edges.stdout ?? process.stdout
  const stderr = edges.stderr ?? process.stderr
  const fail = (error: unknown, json: boolean): ExitCode =>
    reportFailure(error, json, stdout, stderr)

  let command: BinCommand
  let name = definition.name
  let rest = args
  try {
    const found = await findCommand(definition, args)
    if (found.kind === 'help') {
      ;(found.asked ? stdout : stderr).write(
        programHelp(name, definition.summary, found.commands, helpWidth(stdout)),
      )
      return found.asked ? 0 : 2
    }
    if (found.kind === 'version') {
      stdout.write(`${definition.version ?? packageVersion()}\n`)
      return 0
    }
    command = found.command
    name = found.name
    rest = found.args
  } catch (error) {
    return fail(error, args.includes('--json'))
  }

  const prefix = errorPrefix(definition.name)
  const { parsed, problems } = parseFlags(rest, command.options, command.positionals ?? [])
  if (parsed.help) {
    stdout.write(
      commandHelp({
        name,
        summary: command.summary,
        options: command.options,
        positionals: command.positionals ?? [],
        width: helpWidth(stdout),
      }),
    )
    return 0
  }
  if (parsed.version) {
    stdout.write(`${definition.version ?? packageVersion()}\n`)
    return 0
  }

  let options: unknown
  try {
    if (parsed.dryRun) problems.push(`${name} has no dry run.`)
    if (problems.length > 0) throw badOptions(prefix, problems)
    options = await mergeOptions(prefix, command, parsed)
  } catch (error) {
    return fail(error, parsed.json)
  }
  return runCommand(command, options, parsed.json, { ...edges, stdout, stderr })
}

type FoundCommand =
  | { kind: 'command'; command: BinCommand; name: string; args: readonly string[] }
  | { kind: 'help'; asked: boolean; commands: Readonly<Record<string, { summary: string }>> }
  | { kind: 'version' }

async function findCommand(
  definition: BinDefinition,
  args: readonly string[],
): Promise<FoundCommand> {
  const { options, run, name, summary } = definition
  if (isSchema(options)) {
    if (!run) throw new Error(`${name} has options and no run.`)
    const { positionals, report } = definition
    const command: BinCommand = {
      summary,
      options,
      run,
      ...(positionals ? { positionals } : {}),
      ...(report ? { report } : {}),
    }
    return { kind: 'command', command, name, args }
  }
  const [word, ...rest] = args
  if (word === undefined) return { kind: 'help', asked: false, commands: options }
  if (word === '--help' || word === '-h' || word === 'help') {
    const asked = rest[0] !== undefined && Object.hasOwn(options, rest[0]) ? rest[0] : undefined
    if (asked === undefined) return { kind: 'help', asked: true, commands: options }
    return {
      kind: 'command',
      command: await loadCommand(options[asked]!),
      name: `${name} ${asked}`,
      args: ['--help'],
    }
  }
  if (word === '--version') return { kind: 'version' }
  const entry = Object.hasOwn(options, word) ? options[word] : undefined
  if (!entry) {
    const near = nearestWord(word, Object.keys(options))
    throw badOptions(errorPrefix(name), [
      `${JSON.stringify(word)} is not a command of ${name}.${near ? ` Did you mean ${near}?` : ''}`,
    ])
  }
  return {
    kind: 'command',
    command: await loadCommand(entry),
    name: `${name} ${word}`,
    args: rest,
  }
}

async function loadCommand(entry: BinCommand | LazyBinCommand): Promise<BinCommand> {
  return 'load' in entry ? entry.load() : entry
}

function isSchema(value: BinDefinition['options']): value is z.ZodType {
  return '_zod' in value
}

/** Flags over the config file; the schema's defaults come last, where the stage checks its options. */
async function mergeOptions(
  prefix: string,
  command: BinCommand,
  parsed: ParsedFlags,
): Promise<unknown> {
  const fromFile = parsed.config === undefined ? {} : await readConfig(prefix, parsed.config)
  const merged = mergeObjects(fromFile, parsed.options)
  const namePath = (path: readonly PropertyKey[]): string => {
    const dotted = path.map(String).join('.')
    const isFlag = flagsOf(command.options).some((flag) => flag.path.join('.') === dotted)
    const fromFlag = [...parsed.set].some((set) => dotted === set || dotted.startsWith(`${set}.`))
    if (parsed.config !== undefined && !fromFlag) {
      return `${parsed.config}: ${dotted || 'the options'}`
    }
    const positional = path.length === 1 && command.positionals?.includes(String(path[0]))
    if (positional) return `<${flagName(path).slice(2)}>`
    return isFlag ? flagName(path) : dotted || 'The options'
  }
  parseOptions(prefix, command.options, merged, namePath)
  return merged
}

async function readConfig(prefix: string, file: string): Promise<Record<string, unknown>> {
  let text: string
  try {
    text = await readFile(file, 'utf8')
  } catch (error) {
    throw badOptions(prefix, [`--config: ${file} cannot be read (${(error as Error).message}).`], {
      cause: error,
    })
  }
  let value: unknown
  try {
    // JSON is YAML, except for tabs; a .json file gets the strict reader and its messages.
    value = file.endsWith('.json') ? JSON.parse(text) : parseYaml(text)
  } catch (error) {
    throw badOptions(
      prefix,
      [`--config: ${file} is not valid: ${(error as Error).message.trim()}`],
      {
        cause: error,
      },
    )
  }
  if (value === null || value === undefined) return {}
  if (typeof value !== 'object' || Array.isArray(value)) {
    throw badOptions(prefix, [`--config: ${file} must hold one object of options.`])
  }
  return value as Record<string, unknown>
}

function mergeObjects(
  below: Record<string, unknown>,
  above: Record<string, unknown>,
): Record<string, unknown> {
  const merged = { ...below }
  for (const [key, value] of Object.entries(above)) {
    const under = merged[key]
    merged[key] = isPlainObject(value) && isPlainObject(under) ? mergeObjects(under, value) : value
  }
  return merged
}

function isPlainObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

async function runCommand(
  command: BinCommand,
  options: unknown,
  json: boolean,
  edges: BinEdges & { stdout: ReporterStream; stderr: ReporterStream },
): Promise<ExitCode> {
  const { stdout, stderr } = edges
  const reporter = createReporter({ stream: stderr })
  const controller = new AbortController()
  const stopListening =
    edges.signals === false ? () => {} : listenToSignals(controller, (text) => reporter.line(text))

  try {
    const iterator = command.run(options as never, { signal: controller.signal })
    let next = await iterator.next()
    while (!next.done) {
      if (json) stdout.write(`${JSON.stringify(next.value)}\n`)
      else reporter.report(next.value)
      next = await iterator.next()
    }
    const done = reporter.end()
    if (controller.signal.aborted) {
      reporter.line(stoppedLine(done))
      return 130
    }
    if (json) stdout.write(`${JSON.stringify({ type: 'result', result: next.value ?? null })}\n`)
    else if ((options as { dryRun?: unknown }).dryRun === true) {
      stdout.write(`${JSON.stringify(next.value, null, 2)}\n`)
    } else if (command.report) {
      stdout.write(`${command.report(next.value as never).trimEnd()}\n`)
    }
    return 0
  } catch (error) {
    const done = reporter.end()
    if (controller.signal.aborted) {
      // A stage may end an interrupted run with an error of its own that says what was kept.
      if (hasCodeAndFix(error)) reporter.line(renderError(error))
      reporter.line(stoppedLine(done))
      if (json) stdout.write(`${JSON.stringify({ type: 'interrupted' })}\n`)
      return 130
    }
    return reportFailure(error, json, stdout, stderr)
  } finally {
    stopListening()
  }
}

function stoppedLine(done: string | undefined): string {
  return `Stopped${done ? ` at ${done}` : ''}. Finished work is kept; the same command goes on from there.`
}

/**
 * The first signal aborts, the second ends the process. A reader of stdout that went away (`| head`) aborts too.
 */
function listenToSignals(controller: AbortController, say: (text: string) => void): () => void {
  const interrupt = (): void => {
    if (controller.signal.aborted) process.exit(130)
    say('Stopping at the next safe point. Ctrl-C again ends at once.')
    controller.abort(new DOMException('The run was interrupted.', 'AbortError'))
  }
  const brokenPipe = (error: NodeJS.ErrnoException): void => {
    if (error.code !== 'EPIPE') throw error
    controller.abort(new DOMException('Nobody reads the output any more.', 'AbortError'))
  }
  process.on('SIGINT', interrupt)
  process.on('SIGTERM', interrupt)
  process.stdout.on('error', brokenPipe)
  return () => {
    process.off('SIGINT', interrupt)
    process.off('SIGTERM', interrupt)
    process.stdout.off('error', brokenPipe)
  }
}

function reportFailure(
  thrown: unknown,
  json: boolean,
  stdout: ReporterStream,
  stderr: ReporterStream,
): ExitCode {
  const error = codeSystemError(thrown)
  stderr.write(`${renderError(error)}\n`)
  if (!hasCodeAndFix(error)) {
    if (json)
      stdout.write(`${JSON.stringify({ type: 'error', code: null, message: String(error) })}\n`)
    return 70
  }
  const { code, message, fix } = error
  if (json) stdout.write(`${JSON.stringify({ type: 'error', code, message, fix })}\n`)
  return code.endsWith('_BAD_OPTIONS') ? 2 : 1
}

/** `clip-prep` → `CLIP_PREP`. */
function errorPrefix(name: string): string {
  return name.toUpperCase().replace(/[^A-Z0-9]+/g, '_')
}

function helpWidth(stream: ReporterStream): number {
  return Math.max(60, Math.min(110, stream.columns ?? 100))
}

/** Version of the nearest package.json above the file that Node was started with. */
function packageVersion(): string {
  let folder = dirname(realpathSync(process.argv[1] ?? '.'))
  while (!existsSync(join(folder, 'package.json'))) {
    const parent = dirname(folder)
    if (parent === folder) return 'unknown'
    folder = parent
  }
  const { version } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as {
    version?: string
  }
  return version ?? 'unknown'
}
