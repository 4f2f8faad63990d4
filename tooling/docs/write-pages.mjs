// Writes docs/preflight.md and docs/explain.md from the built packages: npm run docs.
import { writeFile } from 'node:fs/promises'
import { preflightRules } from '../../packages/config-schema/dist/index.js'
import { explainRules } from '../../packages/run-log/dist/index.js'
import { explainPage, preflightPage } from './pages.mjs'

const docs = new URL('../../docs/', import.meta.url)
await writeFile(new URL('preflight.md', docs), preflightPage(preflightRules))
await writeFile(new URL('explain.md', docs), explainPage(explainRules))
