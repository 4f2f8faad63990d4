import { z } from 'zod'
import { bucketPlanSchema } from './bucket-plan.ts'
import { manifestRecordSchema } from './dataset-manifest.ts'
import { keyRules } from './key-policy.ts'
import { loraMetadataSchema } from './lora-metadata.ts'
import { trainJobSchema } from './train-job-schema.ts'

/** A JSON Schema, draft 7. */
export type JsonSchema = Record<string, unknown>

type Node = JsonSchema & {
  properties?: Record<string, Node>
  items?: Node | Node[]
  anyOf?: Node[]
  allOf?: Node[]
}

function draft7(schema: z.ZodType, title: string, description: string): Node {
  const { $schema, ...rest } = z.toJSONSchema(schema, { target: 'draft-7', io: 'input' })
  return { $schema, title, description, ...rest } as Node
}

/**
 * JSON Schema of a train job, for editors: a line `# yaml-language-server: $schema=…` at the top of a job gives completion.
 *
 * Keys that AI Toolkit accepts to no effect are in it, marked deprecated; refused ones are not.
 */
export function trainJobJsonSchema(): JsonSchema {
  const schema = draft7(
    trainJobSchema,
    'Kinora train job',
    "A train job in AI Toolkit's dialect for wan22_14b_i2v, as kinora train reads it.",
  )
  // Tuples of one: a second process is refused.
  const list = schema.properties?.['config']?.properties?.['process']
  if (list !== undefined) Object.assign(list, { additionalItems: false, minItems: 1, maxItems: 1 })
  for (const { section, key, rule, only } of keyRules) {
    if (rule.kind !== 'inert' || only !== undefined) continue
    const names = section.startsWith('sample') ? [section, `first_${section}`] : [section]
    for (const name of names) {
      const properties = sectionNode(schema, name)?.properties
      if (properties === undefined || key in properties) continue
      properties[key] = { description: `No effect: ${rule.reason}`, deprecated: true }
    }
  }
  return schema
}

/** The node of `config.process[0].<section>`. */
function sectionNode(schema: Node, section: string): Node | undefined {
  const keys = ['config', 'process', 0, ...(section === 'process' ? [] : section.split('.'))]
  return keys.reduce<Node | undefined>((node, key) => {
    if (node === undefined) return undefined
    if (typeof key === 'number') return Array.isArray(node.items) ? node.items[key] : node.items
    const next =
      node.properties?.[key] ?? node.anyOf?.find((option) => option.properties)?.properties?.[key]
    const object = next?.anyOf?.find((option) => option.properties) ?? next
    return object?.items !== undefined && !Array.isArray(object.items) ? object.items : object
  }, schema)
}

/** JSON Schema of one line of manifest.jsonl. */
export function manifestRecordJsonSchema(): JsonSchema {
  return draft7(manifestRecordSchema, 'Kinora manifest record', 'One line of manifest.jsonl.')
}

/** JSON Schema of bucket-plan.json. */
export function bucketPlanJsonSchema(): JsonSchema {
  return draft7(bucketPlanSchema, 'Kinora bucket plan', 'bucket-plan.json, as bucketer writes it.')
}

/** JSON Schema of the header metadata of a LoRA file. */
export function loraMetadataJsonSchema(): JsonSchema {
  return draft7(
    loraMetadataSchema,
    'LoRA metadata',
    'The __metadata__ of a LoRA file of AI Toolkit or Kinora; every value is a string.',
  )
}

/** Every schema, by the name of its file. */
export const jsonSchemas: Readonly<Record<string, () => JsonSchema>> = {
  'train-job.schema.json': trainJobJsonSchema,
  'manifest-record.schema.json': manifestRecordJsonSchema,
  'bucket-plan.schema.json': bucketPlanJsonSchema,
  'lora-metadata.schema.json': loraMetadataJsonSchema,
}
