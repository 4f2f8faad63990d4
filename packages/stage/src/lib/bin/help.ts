import { kebabCase, type Flag, flagName, flagsOf } from './flags.ts'
import { unwrapSchema, type ValueShape } from '../schema-shape.ts'
import type { z } from 'zod'

/** What the help of one command is made from. */
export interface HelpSubject {
  /** As it is typed: `kinora prep`. */
  name: string
  summary: string
  options: z.ZodType
  positionals: readonly string[]
  width: number
}

/** The help of a command, all of it from its options schema. */
export function commandHelp({ name, summary, options, positionals, width }: HelpSubject): string {
  const flags = flagsOf(options)
  const words = positionals.map((key) => {
    const flag = flags.find((candidate) => candidate.name === flagName([key]))
    const many = flag?.unwrapped.shape.kind === 'array' ? '…' : ''
    return flag?.unwrapped.required ? `<${kebabCase(key)}>${many}` : `[${kebabCase(key)}]${many}`
  })
  const rows: [string, string][] = flags.map((flag) => [leftColumn(flag), rightColumn(flag)])
  const common: [string, string][] = [
    ['--config <file>', 'YAML or JSON file of options, spelt as in the documentation. Flags win.'],
    ['--json', 'Print one event a line on standard output, the result last.'],
    ['--version', 'Print the version.'],
    ['--help, -h', 'Print this.'],
  ]
  const left = Math.min(34, Math.max(...[...rows, ...common].map(([flag]) => flag.length)))
  return [
    `${name}: ${summary}`,
    '',
    `Usage: ${[name, ...words, '[options]'].join(' ')}`,
    '',
    ...(rows.length > 0
      ? ['Options:', ...rows.flatMap((row) => layOut(row, left, width)), '']
      : []),
    'Common:',
    ...common.flatMap((row) => layOut(row, left, width)),
    '',
  ].join('\n')
}

/** The help of a program with several commands. */
export function programHelp(
  name: string,
  summary: string,
  commands: Readonly<Record<string, { summary: string }>>,
  width: number,
): string {
  const rows = Object.entries(commands).map(([command, { summary: text }]): [string, string] => [
    command,
    text,
  ])
  const left = Math.max(...rows.map(([command]) => command.length))
  return [
    `${name}: ${summary}`,
    '',
    `Usage: ${name} <command> [options]`,
    '',
    'Commands:',
    ...rows.flatMap((row) => layOut(row, left, width)),
    '',
    `${name} <command> --help lists the options of a command.`,
    '',
  ].join('\n')
}

function leftColumn({ name, unwrapped }: Flag): string {
  if (unwrapped.shape.kind === 'boolean') {
    return unwrapped.defaultValue === true ? name.replace(/^--/, '--[no-]') : name
  }
  return `${name} ${placeholder(unwrapped.shape)}`
}

function placeholder(shape: ValueShape): string {
  switch (shape.kind) {
    case 'string':
      return '<text>'
    case 'number':
      return '<number>'
    case 'choice': {
      const joined = shape.values.join('|')
      return joined.length <= 24 ? `<${joined}>` : '<choice>'
    }
    case 'array':
      return `${placeholder(unwrapSchema(shape.element).shape)}…`
    case 'union':
      return [
        ...new Set(shape.members.map((member) => placeholder(unwrapSchema(member).shape))),
      ].join('|')
    case 'record':
      return '.<key> <value>'
    case 'boolean':
      return '<true|false>'
    case 'object':
    case 'json':
      return '<json>'
  }
}

function rightColumn({ unwrapped }: Flag): string {
  const { shape, description, required, defaultValue } = unwrapped
  const notes = [description ?? '']
  if (shape.kind === 'choice' && shape.values.join('|').length > 24) {
    notes.push(`One of ${shape.values.join(', ')}.`)
  }
  if (shape.kind === 'array') notes.push('May be repeated.')
  if (required) notes.push('[required]')
  else if (defaultValue !== undefined && defaultValue !== null) {
    notes.push(
      `[default: ${typeof defaultValue === 'string' ? defaultValue || '""' : JSON.stringify(defaultValue)}]`,
    )
  }
  return notes.filter((note) => note !== '').join(' ')
}

function layOut([left, right]: [string, string], leftWidth: number, width: number): string[] {
  const indent = leftWidth + 4
  const lines = wrap(right, Math.max(24, width - indent))
  if (left.length > leftWidth)
    return [`  ${left}`, ...lines.map((line) => ' '.repeat(indent) + line)]
  return lines.map((line, index) =>
    index === 0 ? `  ${left.padEnd(leftWidth)}  ${line}` : ' '.repeat(indent) + line,
  )
}

function wrap(text: string, width: number): string[] {
  const lines: string[] = ['']
  for (const word of text.split(/\s+/)) {
    const line = lines.at(-1)!
    if (line !== '' && line.length + 1 + word.length > width) lines.push(word)
    else lines[lines.length - 1] = line === '' ? word : `${line} ${word}`
  }
  return lines
}
