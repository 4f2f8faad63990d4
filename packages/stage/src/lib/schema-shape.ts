import type { z } from 'zod'

// Reads what a zod schema says of itself: the one place that knows zod's definitions. Commands make their flags and their
// help from it.

/** What a value of a schema looks like on a command line. */
export type ValueShape =
  | { kind: 'string' }
  | { kind: 'number' }
  | { kind: 'boolean' }
  | { kind: 'choice'; values: readonly (string | number | boolean | null)[] }
  | { kind: 'array'; element: z.ZodType }
  | { kind: 'object'; fields: Readonly<Record<string, z.ZodType>> }
  | { kind: 'record'; value: z.ZodType }
  | { kind: 'union'; members: readonly z.ZodType[] }
  /** Anything else travels as JSON. */
  | { kind: 'json' }

/** A schema without its wrappers, and what the wrappers said. */
export interface UnwrappedSchema {
  shape: ValueShape
  description: string | undefined
  required: boolean
  nullable: boolean
  /** Undefined where there is none. */
  defaultValue: unknown
}

// zod keeps its definitions in `_zod.def`, typed per class; a walker over all classes reads them by field name.
interface Definition {
  type: string
  innerType?: z.ZodType
  defaultValue?: unknown
  in?: z.ZodType
  out?: z.ZodType
  element?: z.ZodType
  shape?: Record<string, z.ZodType>
  valueType?: z.ZodType
  options?: readonly z.ZodType[]
  entries?: Record<string, string | number>
  values?: readonly (string | number | boolean | null)[]
  getter?: () => z.ZodType
}

function definition(schema: z.ZodType): Definition {
  return schema.def as unknown as Definition
}

export function unwrapSchema(schema: z.ZodType): UnwrappedSchema {
  let current = schema
  let description: string | undefined
  let required = true
  let nullable = false
  let defaultValue: unknown
  for (;;) {
    description ??= current.description
    const def = definition(current)
    if (def.type === 'optional' || def.type === 'exactOptional') required = false
    else if (def.type === 'nullable') nullable = true
    else if (def.type === 'default' || def.type === 'prefault') {
      required = false
      defaultValue ??= def.defaultValue
    }
    const inner: z.ZodType | undefined =
      def.innerType ?? (def.type === 'lazy' ? def.getter?.() : inputOfPipe(def))
    if (!inner) break
    current = inner
  }
  return { shape: shapeOf(definition(current)), description, required, nullable, defaultValue }
}

/** What goes into a pipe: its input, except after `z.preprocess`, whose input says nothing. */
function inputOfPipe(def: Definition): z.ZodType | undefined {
  if (def.type !== 'pipe' || !def.in) return undefined
  return definition(def.in).type === 'transform' ? def.out : def.in
}

function shapeOf(def: Definition): ValueShape {
  switch (def.type) {
    case 'string':
    case 'template_literal':
      return { kind: 'string' }
    case 'number':
    case 'int':
      return { kind: 'number' }
    case 'boolean':
      return { kind: 'boolean' }
    case 'enum':
      return { kind: 'choice', values: Object.values(def.entries ?? {}) }
    case 'literal':
      return { kind: 'choice', values: def.values ?? [] }
    case 'array':
      return def.element ? { kind: 'array', element: def.element } : { kind: 'json' }
    case 'object':
      return { kind: 'object', fields: def.shape ?? {} }
    case 'record':
      return def.valueType ? { kind: 'record', value: def.valueType } : { kind: 'json' }
    case 'union':
      return { kind: 'union', members: def.options ?? [] }
    default:
      return { kind: 'json' }
  }
}

/** Names of the fields an object schema has at a path; empty where there is no object. */
export function fieldsAt(schema: z.ZodType, path: readonly PropertyKey[]): string[] {
  const { shape } = unwrapSchema(schema)
  const [head, ...rest] = path
  if (head === undefined) {
    if (shape.kind === 'union') return shape.members.flatMap((member) => fieldsAt(member, []))
    return shape.kind === 'object' ? Object.keys(shape.fields) : []
  }
  switch (shape.kind) {
    case 'object': {
      const field = shape.fields[String(head)]
      return field ? fieldsAt(field, rest) : []
    }
    case 'record':
      return fieldsAt(shape.value, rest)
    case 'array':
      return fieldsAt(shape.element, rest)
    case 'union':
      return shape.members.flatMap((member) => fieldsAt(member, path))
    default:
      return []
  }
}
