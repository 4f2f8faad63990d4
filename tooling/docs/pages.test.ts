import { readFile } from 'node:fs/promises'
import { describe, expect, it } from 'vitest'
import { preflightRules, trainJobJsonSchema } from '../../packages/config-schema/src/index.ts'
import { explainRules } from '../../packages/run-log/src/index.ts'
import { explainPage, preflightPage } from './pages.mjs'

const docs = new URL('../../docs/', import.meta.url)
const read = (name: string): Promise<string> => readFile(new URL(name, docs), 'utf8')

describe('the generated pages of docs', () => {
  it('say what the rules of preflight say', async () => {
    expect(await read('preflight.md')).toBe(preflightPage(preflightRules))
  })

  it('say what the symptoms of explain are', async () => {
    expect(await read('explain.md')).toBe(explainPage(explainRules))
  })
})

describe('the guide', () => {
  it('links to symptoms and rules that there are', async () => {
    const guide = await read('guide.md')
    const symptoms = [...guide.matchAll(/\]\(explain\.md#([a-z_]+)\)/g)].map(
      ([, anchor]) => anchor!,
    )
    expect(symptoms.length).toBeGreaterThan(10)
    const known = new Set(explainRules.map(({ code }) => code.toLowerCase()))
    expect(symptoms.filter((anchor) => !known.has(anchor))).toEqual([])
    const named = [...guide.matchAll(/`(PREFLIGHT_[A-Z_]+)`/g)].map(([, code]) => code!)
    const rules = new Set(preflightRules.map(({ code }) => code))
    expect(named.filter((code) => !rules.has(code))).toEqual([])
  })

  it('names keys that a job has', async () => {
    const guide = await read('guide.md')
    const [, tables] = guide.split('## Options, panel by panel')
    const keys = [
      ...tables!.matchAll(/`((?:kinora|train|model|network|save|sample)\.[a-z][a-z0-9_.[\]]*)`/g),
    ].map(([, key]) => key!)
    expect(keys.length).toBeGreaterThanOrEqual(50)
    expect(keys.filter((key) => !isKey(key))).toEqual([])
  })
})

describe('the table of options', () => {
  it('names keys that a job has, and tests that there are', async () => {
    const page = await read('options.md')
    const rows = page.split('\n').filter((line) => /^\| (?!option|-)/.test(line))
    expect(rows.length).toBeGreaterThan(50)
    for (const row of rows) {
      const [, cell] = row.split(' | ')
      const keys = [...cell!.matchAll(/`([^`]+)`/g)].map(([, key]) => key!)
      expect(keys.length, row).toBeGreaterThan(0)
      expect(
        keys.filter((key) => !isKey(key)),
        row,
      ).toEqual([])
      const tests = [...row.matchAll(/\]\(([^)]+)\) “([^”]+)”/g)]
      expect(tests.length, row).toBeGreaterThan(0)
      for (const [, file, words] of tests) {
        expect(await read(file!), `${file}: ${words}`).toContain(words)
      }
    }
  })
})

interface Node {
  properties?: Record<string, Node>
  items?: Node | Node[]
  prefixItems?: Node[]
  anyOf?: Node[]
}

/** Whether the schema of `config.process[0]` has a key such as `sample.samples[].ctrl_img`. */
function isKey(path: string): boolean {
  const step = (node: Node | undefined, name: string): Node | undefined => {
    if (!node) return undefined
    if (node.properties?.[name]) return node.properties[name]
    const items = Array.isArray(node.items) ? node.items[0] : node.items
    for (const inner of [...(node.anyOf ?? []), ...(items ? [items] : [])]) {
      const found = step(inner, name)
      if (found) return found
    }
    return undefined
  }
  const names = ['config', 'process', ...path.replaceAll('[]', '').split('.')]
  return names.reduce<Node | undefined>(step, trainJobJsonSchema() as Node) !== undefined
}
