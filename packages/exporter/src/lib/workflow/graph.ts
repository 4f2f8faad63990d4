import {
  comfyuiNodes,
  type LinkInput,
  type NodeDefinition,
  type WidgetInput,
} from './comfyui-nodes.ts'

/** The output `slot` of node `from`. */
export interface NodeOutput {
  from: string
  slot: number
}

type InputValue = string | number | boolean | NodeOutput

/** One node: its class, its title, where it stands in the editor, and its inputs. */
export interface GraphNode {
  type: string
  title: string
  /** Top left corner in the editor, in its pixels. */
  position: readonly [number, number]
  inputs: Readonly<Record<string, InputValue>>
}

/** A workflow before it takes one of ComfyUI's two forms. Nodes by id, in the order they are numbered. */
export type WorkflowGraph = Readonly<Record<string, GraphNode>>

function isNodeOutput(value: InputValue | undefined): value is NodeOutput {
  return typeof value === 'object'
}

export function isLink(input: WidgetInput | LinkInput): input is LinkInput {
  return 'link' in input
}

/** What does not fit the nodes' definitions, each in a sentence; empty for a workflow that ComfyUI accepts. */
export function checkGraph(
  graph: WorkflowGraph,
  definitions: Readonly<Record<string, NodeDefinition>> = comfyuiNodes,
): string[] {
  const problems: string[] = []
  for (const [id, node] of Object.entries(graph)) {
    const at = `${id} (${node.type})`
    const definition = definitions[node.type]
    if (definition === undefined) {
      problems.push(`${at} is no known node.`)
      continue
    }
    for (const [name, input] of Object.entries(definition.inputs)) {
      const value = node.inputs[name]
      if (value === undefined) {
        if (input.optional !== true) problems.push(`${at} lacks ${name}.`)
      } else if (isLink(input))
        problems.push(...checkLink(at, name, input, value, graph, definitions))
      else if (isNodeOutput(value)) problems.push(`${at}: ${name} is typed in, not linked.`)
      else {
        const problem = widgetProblem(input, value)
        if (problem !== undefined) problems.push(`${at}: ${name} ${problem}.`)
      }
    }
    for (const name of Object.keys(node.inputs)) {
      if (!(name in definition.inputs)) problems.push(`${at} has no input ${name}.`)
    }
  }
  return [...problems, ...loopProblems(graph)]
}

function checkLink(
  at: string,
  name: string,
  { link }: LinkInput,
  value: InputValue,
  graph: WorkflowGraph,
  definitions: Readonly<Record<string, NodeDefinition>>,
): string[] {
  if (!isNodeOutput(value)) return [`${at}: ${name} is linked, not typed in.`]
  const source = graph[value.from]
  const output = source && definitions[source.type]?.outputs[value.slot]
  if (output === undefined)
    return [`${at}: ${name} comes from ${value.from}, output ${value.slot}, which is not there.`]
  return output[0] === link
    ? []
    : [`${at}: ${name} takes ${link}, and ${value.from} gives ${output[0]}.`]
}

function widgetProblem(input: WidgetInput, value: string | number | boolean): string | undefined {
  switch (input.kind) {
    case 'INT':
    case 'FLOAT': {
      if (typeof value !== 'number' || !Number.isFinite(value))
        return `is ${JSON.stringify(value)}, not a number`
      if (input.kind === 'INT' && !Number.isInteger(value)) return `is ${value}, not a whole number`
      if (input.min !== undefined && value < input.min) return `is ${value}, below ${input.min}`
      if (input.max !== undefined && value > input.max) return `is ${value}, above ${input.max}`
      const { min = 0, step } = input
      return step !== undefined && (value - min) % step !== 0
        ? `is ${value}, not in steps of ${step}`
        : undefined
    }
    case 'STRING':
      return typeof value === 'string' ? undefined : `is ${JSON.stringify(value)}, not a text`
    case 'BOOLEAN':
      return typeof value === 'boolean'
        ? undefined
        : `is ${JSON.stringify(value)}, not true or false`
    case 'COMBO': {
      if (typeof value !== 'string' || value === '')
        return `is ${JSON.stringify(value)}, not a choice`
      const { choices } = input
      return choices !== undefined && !choices.includes(value)
        ? `is ${value}, not one of ${choices.join(', ')}`
        : undefined
    }
    default:
      return input.kind satisfies never
  }
}

function loopProblems(graph: WorkflowGraph): string[] {
  const done = new Set<string>()
  const problems: string[] = []
  const visit = (id: string, above: readonly string[]): void => {
    if (above.includes(id)) {
      problems.push(`${id} depends on itself.`)
      return
    }
    if (done.has(id)) return
    done.add(id)
    for (const value of Object.values(graph[id]?.inputs ?? {})) {
      if (isNodeOutput(value)) visit(value.from, [...above, id])
    }
  }
  for (const id of Object.keys(graph)) visit(id, [])
  return problems
}

/** The form of the /prompt endpoint: class and inputs by node number. */
export function toApiForm(graph: WorkflowGraph): Record<string, unknown> {
  const numbers = numberOf(graph)
  return Object.fromEntries(
    Object.entries(graph).map(([id, { type, title, inputs }]) => [
      String(numbers.get(id)),
      {
        class_type: type,
        inputs: Object.fromEntries(
          Object.entries(inputs).map(([name, value]) => [
            name,
            isNodeOutput(value) ? [String(numbers.get(value.from)), value.slot] : value,
          ]),
        ),
        _meta: { title },
      },
    ]),
  )
}

/** The form of the editor (version 0.4): nodes with places, widget values in order, and a list of links. */
export function toUiForm(graph: WorkflowGraph): Record<string, unknown> {
  const numbers = numberOf(graph)
  // [link id, from node, from slot, to node, to slot, type]
  const links: [number, number, number, number, number, string][] = []
  const nodes = Object.entries(graph).map(([id, node], order) => {
    const definition = comfyuiNodes[node.type]!
    const inputs: unknown[] = []
    const widgets: unknown[] = []
    for (const [name, input] of Object.entries(definition.inputs)) {
      const value = node.inputs[name]
      if (isLink(input)) {
        let link: number | null = null
        if (isNodeOutput(value)) {
          link = links.length + 1
          links.push([
            link,
            numbers.get(value.from)!,
            value.slot,
            numbers.get(id)!,
            inputs.length,
            input.link,
          ])
        }
        inputs.push({ name, type: input.link, link, ...(input.optional === true && { shape: 7 }) })
      } else {
        widgets.push(value)
        if (input.isSeed === true) widgets.push('fixed')
        if (input.isUpload === true) widgets.push('image')
      }
    }
    return { id: numbers.get(id)!, order, node, inputs, widgets, outputs: definition.outputs }
  })
  return {
    last_node_id: nodes.length,
    last_link_id: links.length,
    nodes: nodes.map(({ id, order, node, inputs, widgets, outputs }) => ({
      id,
      type: node.type,
      pos: [...node.position],
      size: [320, 60 + 24 * (inputs.length + widgets.length)],
      flags: {},
      order,
      mode: 0,
      inputs,
      outputs: outputs.map(([type, name], slot) => ({
        name,
        type,
        slot_index: slot,
        links: links.filter(([, from, at]) => from === id && at === slot).map(([link]) => link),
      })),
      title: node.title,
      properties: { 'Node name for S&R': node.type },
      widgets_values: widgets,
    })),
    links,
    groups: [],
    config: {},
    extra: {},
    version: 0.4,
  }
}

function numberOf(graph: WorkflowGraph): Map<string, number> {
  return new Map(Object.keys(graph).map((id, index) => [id, index + 1]))
}
