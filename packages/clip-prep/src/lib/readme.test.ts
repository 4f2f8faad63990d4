import { readFile } from 'node:fs/promises'
import { expect, it } from 'vitest'
import { clipFlags, dropReasons } from './clip-flags.ts'
import { clipPrepErrors } from './errors.ts'
import { mergeShardsOptions, prepareClipsOptions } from './options.ts'

it('names every option, flag, reason and error in the README', async () => {
  const readme = await readFile(new URL('../../README.md', import.meta.url), 'utf8')
  for (const schema of [prepareClipsOptions, mergeShardsOptions]) {
    for (const [name, field] of Object.entries(schema.shape)) {
      expect(readme).toContain(`| \`${name}\` `)
      expect(readme).toContain((field as { description?: string }).description)
    }
  }
  for (const [name, { meaning, fix }] of Object.entries(clipFlags)) {
    expect(readme).toContain(`| \`${name}\` `)
    expect(readme).toContain(meaning)
    expect(readme).toContain(fix)
  }
  for (const [name, meaning] of Object.entries(dropReasons)) {
    expect(readme).toContain(`| \`${name}\` `)
    expect(readme).toContain(meaning)
  }
  for (const name of Object.keys(clipPrepErrors)) expect(readme).toContain(`\`CLIP_PREP_${name}\``)
})
