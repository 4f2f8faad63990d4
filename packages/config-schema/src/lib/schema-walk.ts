import type { z } from 'zod'

/** Parts of a zod schema that matter for finding the schema at a path. */
interface SchemaDef {
  type: string
  in?: z.ZodType
  innerType?: z.ZodType
  element?: z.ZodType
  items?: z.ZodType[]
  options?: z.ZodType[]
  shape?: Record<string, z.ZodType>
}

function definition(schema: z.ZodType): SchemaDef {
  return schema._zod.def as unknown as SchemaDef
}

/** The schema without the defaults, transforms and nullability around it. */
function bareSchema(schema: z.ZodType): z.ZodType {
  for (let current = schema; ;) {
    const { in: input, innerType } = definition(current)
    const inner = input ?? innerType
    if (inner === undefined) return current
    current = inner
  }
}

/** The schema of what stands at a path of keys and indices, or undefined where the path leaves the schema. */
export function schemaAt(schema: z.ZodType, path: readonly PropertyKey[]): z.ZodType | undefined {
  let current: z.ZodType | undefined = bareSchema(schema)
  for (const key of path) {
    const { shape, element, items } = definition(current)
    const next: z.ZodType | undefined = shape?.[String(key)] ?? element ?? items?.[Number(key)]
    if (next === undefined) return undefined
    current = bareSchema(next)
  }
  return current
}

/** The keys an object schema takes, or undefined for anything else. */
export function schemaKeys(schema: z.ZodType | undefined): string[] | undefined {
  const shape = schema && definition(schema).shape
  return shape && Object.keys(shape)
}
