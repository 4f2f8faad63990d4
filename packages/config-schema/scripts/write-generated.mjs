// Writes what is generated from this package's source: the JSON Schemas in schema/, the recipes in examples/, and the table
// of preflight rules in the README. Run as `pnpm --filter @kinora/config-schema generate`.
import { readFile, writeFile } from 'node:fs/promises'
import { goals, jsonSchemas, preflightRules, recipe, recipeMemories } from '../dist/index.js'

const at = (path) => new URL(`../${path}`, import.meta.url)

for (const [name, make] of Object.entries(jsonSchemas)) {
  await writeFile(at(`schema/${name}`), `${JSON.stringify(make(), null, 2)}\n`)
}
for (const goal of goals) {
  for (const memory of recipeMemories)
    await writeFile(at(`examples/${goal}-${memory}gb.yaml`), recipe(goal, memory))
}
const rows = preflightRules.map(
  ({ code, severity, about }) => `| \`${code}\` | ${severity} | ${about} |`,
)
const table = ['| code | severity | when and why |', '|---|---|---|', ...rows].join('\n')
const readme = await readFile(at('README.md'), 'utf8')
await writeFile(
  at('README.md'),
  readme.replace(
    /(<!-- preflight -->\n)[^]*?(\n<!-- \/preflight -->)/,
    (_, open, close) => `${open}\n${table}\n${close}`,
  ),
)
