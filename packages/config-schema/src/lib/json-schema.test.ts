import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { jsonSchemas, trainJobJsonSchema, type JsonSchema } from './json-schema.ts'

type Node = JsonSchema & { properties?: Record<string, Node>; items?: Node | Node[] }

describe('the JSON Schemas', () => {
  it.each(Object.keys(jsonSchemas))(
    '%s is up to date (pnpm --filter @kinora/config-schema generate)',
    (name) => {
      const file = new URL(`../../schema/${name}`, import.meta.url)
      expect(JSON.parse(readFileSync(file, 'utf8'))).toEqual(
        JSON.parse(JSON.stringify(jsonSchemas[name]!())),
      )
    },
  )

  it('are of draft 7', () => {
    for (const make of Object.values(jsonSchemas)) {
      expect(make()['$schema']).toBe('http://json-schema.org/draft-07/schema#')
    }
  })

  it('describe the keys of a job, those without effect included', () => {
    const config = (trainJobJsonSchema() as Node).properties?.['config']
    const process = (config?.properties?.['process']?.items as Node[] | undefined)?.[0]
    expect(process?.properties?.['train']?.properties?.['steps']).toMatchObject({
      type: 'integer',
      default: 1000,
      description: expect.stringContaining('both experts') as string,
    })
    const dataset = process?.properties?.['datasets']?.items as Node
    expect(dataset.properties?.['do_i2v']).toMatchObject({ deprecated: true })
    expect(dataset['additionalProperties']).toBe(false)
    expect(process?.properties?.['train']?.properties).not.toHaveProperty('noise_offset')
    expect(process?.properties?.['sample']?.properties).toHaveProperty('guidance_rescale')
  })
})
