// Writes the JSON Schemas of this package to schema/. Run after a build: `pnpm --filter @kinora/config-schema schema`.
import { writeFile } from 'node:fs/promises'
import { jsonSchemas } from '../dist/index.js'

for (const [name, make] of Object.entries(jsonSchemas)) {
  await writeFile(
    new URL(`../schema/${name}`, import.meta.url),
    `${JSON.stringify(make(), null, 2)}\n`,
  )
}
