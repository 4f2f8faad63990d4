// Runs compiled WGSL one workgroup at a time: invocations as generators in random order between barriers, subgroups of 32,
// 16 × 16 × 16 subgroup matrices, bounds checks on every access, and a race detector on workgroup memory.
import { f32FromF16 } from '@kinora/kernel-api'

import type { CompiledShader, GlobalVariable, ScalarName, WgslType } from './wgsl-compiler.ts'

const SUBGROUP = 32
const halves = f32FromF16(Uint16Array.from({ length: 65536 }, (_, i) => i))
const scratch32 = new Float32Array(1)
const scratchBits = new Uint32Array(scratch32.buffer)

/** Bits of the nearest f16, ties to even; past the largest, infinity. */
function halfBits(value: number): number {
  scratch32[0] = value
  const bits = scratchBits[0]!
  const sign = (bits >>> 16) & 0x8000
  const magnitude = bits & 0x7fffffff
  if (magnitude > 0x7f800000) return sign | 0x7e00
  if (magnitude >= 0x47800000) return sign | 0x7c00
  if (magnitude < 0x38800000) {
    // A subnormal: units of 2^-24, rounded to even.
    const units = Math.abs(scratch32[0]) * 2 ** 24
    const floor = Math.floor(units)
    const rest = units - floor
    return sign | (floor + (rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? 1 : 0))
  }
  return sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13)
}
const half = (value: number): number => halves[halfBits(value)]!

/** What a lane waits for: the operation, where in the text it is, and its arguments. */
interface Wait {
  kind: string
  site: number
  readonly operands: unknown[]
}
/** One for each lane, used again and again: lanes wait too often for a new one each time. */
const waiting: readonly Wait[] = Array.from({ length: 1024 }, () => ({
  kind: '',
  site: 0,
  operands: [undefined, undefined, undefined, undefined, undefined, undefined],
}))

interface Fragment {
  readonly role: string
  readonly of: ScalarName
  readonly values: Float32Array
}

/** A bound buffer or a workgroup array as the shader sees it. */
class View {
  readonly name: string
  readonly width: number
  readonly scalar: ScalarName
  readonly count: number
  readonly isWritable: boolean
  readonly bytes: Uint8Array
  readonly numbers: Float32Array | Uint32Array | Int32Array | Uint16Array
  readonly races: RaceDetector | undefined

  constructor(variable: GlobalVariable, bytes: Uint8Array, races?: RaceDetector) {
    const element = variable.type.kind === 'array' ? variable.type.of : variable.type
    if (element.kind !== 'scalar' && element.kind !== 'vec')
      throw new Error(`${variable.name}: ${element.kind}`)
    this.name = variable.name
    this.isWritable = variable.isWritable
    this.width = element.kind === 'vec' ? element.size : 1
    this.scalar = element.kind === 'vec' ? element.of : element.name
    const size = bytesOf(this.scalar)
    this.bytes = bytes
    this.count = Math.floor(bytes.byteLength / (size * this.width))
    const length = Math.floor(bytes.byteLength / size)
    const types = { f32: Float32Array, u32: Uint32Array, i32: Int32Array, f16: Uint16Array }
    this.numbers = new types[this.scalar as 'f32'](
      bytes.buffer as ArrayBuffer,
      bytes.byteOffset,
      length,
    )
    this.races = races
  }

  check(index: number): void {
    if (!(index >= 0 && index < this.count && Number.isInteger(index))) {
      throw new Error(`out of bounds: ${this.name}[${index}] of ${this.count}`)
    }
  }
}

function bytesOf(scalar: ScalarName): number {
  return scalar === 'f16' ? 2 : 4
}

/** Accesses of other subgroups to the same element, one of them a write, with no barrier between. */
class RaceDetector {
  readonly #name: string
  readonly #written: Int32Array
  readonly #writer: Int32Array
  readonly #read: Int32Array
  /** Subgroup that read in this interval, -1 for several. */
  readonly #reader: Int32Array

  constructor(name: string, count: number) {
    this.#name = name
    this.#written = new Int32Array(count).fill(-1)
    this.#writer = new Int32Array(count)
    this.#read = new Int32Array(count).fill(-1)
    this.#reader = new Int32Array(count)
  }

  access(index: number, isWrite: boolean, subgroup: number, interval: number): void {
    const clash = (kind: string, other: number): never => {
      throw new Error(
        `race on ${this.#name}[${index}]: ${isWrite ? 'written' : 'read'} by subgroup ${subgroup}, ${kind} by ${other < 0 ? 'others' : other} since the last barrier`,
      )
    }
    if (this.#written[index] === interval && this.#writer[index] !== subgroup) {
      clash('written', this.#writer[index]!)
    }
    if (isWrite) {
      if (this.#read[index] === interval && this.#reader[index] !== subgroup) {
        clash('read', this.#reader[index]!)
      }
      this.#written[index] = interval
      this.#writer[index] = subgroup
    } else if (this.#read[index] === interval) {
      if (this.#reader[index] !== subgroup) this.#reader[index] = -1
    } else {
      this.#read[index] = interval
      this.#reader[index] = subgroup
    }
  }
}

const wrap = (of: ScalarName, value: number): number =>
  of === 'f32'
    ? Math.fround(value)
    : of === 'f16'
      ? half(value)
      : of === 'u32'
        ? value >>> 0
        : value | 0

const functions: Record<string, (...x: number[]) => number> = {
  min: (a, b) => (a! < b! ? a! : b!),
  max: (a, b) => (a! > b! ? a! : b!),
  clamp: (x, low, high) => Math.min(Math.max(x!, low!), high!),
  fma: (a, b, c) => a! * b! + c!,
  exp: Math.exp,
  exp2: (x) => 2 ** x!,
  log: Math.log,
  log2: Math.log2,
  sqrt: Math.sqrt,
  inverseSqrt: (x) => 1 / Math.sqrt(x!),
  tanh: Math.tanh,
  abs: Math.abs,
  floor: Math.floor,
  ceil: Math.ceil,
  trunc: Math.trunc,
  sign: Math.sign,
  round: (x) => {
    const floor = Math.floor(x!)
    const rest = x! - floor
    return rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor
  },
  countOneBits: (x) => [...(x! >>> 0).toString(2)].filter((bit) => bit === '1').length,
}

function combine(op: string, of: ScalarName, a: number, b: number): number | boolean {
  switch (op) {
    case '+':
      return wrap(of, a + b)
    case '-':
      return wrap(of, a - b)
    case '*':
      return of === 'u32' || of === 'i32' ? wrap(of, Math.imul(a, b)) : wrap(of, a * b)
    case '/':
    case '%':
      return of === 'u32' || of === 'i32' ? wrap(of, runtime.divide(op, a, b)) : wrap(of, a / b)
    case '&':
      return wrap(of, a & b)
    case '|':
      return wrap(of, a | b)
    case '^':
      return wrap(of, a ^ b)
    case '<<':
      return wrap(of, a << b)
    case '>>':
      return of === 'u32' ? a >>> b : a >> b
    case '<':
      return a < b
    case '>':
      return a > b
    case '<=':
      return a <= b
    case '>=':
      return a >= b
    case '==':
      return a === b
    case '!=':
      return a !== b
    default:
      throw new Error(`unknown operator ${op}`)
  }
}

/** The interval between two barriers, for the detector. */
let interval = 0
/** Bits as words, lowest address first. */
function toWords(of: ScalarName, values: readonly number[]): Uint32Array {
  if (of === 'f32') return new Uint32Array(Float32Array.from(values).buffer)
  if (of === 'f16') return new Uint32Array(Uint16Array.from(values, halfBits).buffer)
  return Uint32Array.from(values)
}

/** What generated code calls, by the name it has there. */
const runtime = {
  fround: Math.fround,
  half,
  divide(op: string, a: number, b: number): number {
    if (b === 0) throw new Error('division by zero')
    return op === '/' ? Math.trunc(a / b) : a % b
  },
  vector(op: string, of: ScalarName, a: number | number[], b: number | number[], size: number) {
    return Array.from({ length: size }, (_, i) =>
      combine(op, of, Array.isArray(a) ? a[i]! : a, Array.isArray(b) ? b[i]! : b),
    )
  },
  unary(op: string, of: ScalarName, a: readonly number[]) {
    return a.map((x) => (op === '!' ? !x : wrap(of, op === '-' ? -x : ~x)))
  },
  splat: (size: number, value: unknown) => Array.from({ length: size }, () => value),
  swizzle: (value: readonly unknown[], ...indices: number[]) => indices.map((i) => value[i]),
  at(value: readonly unknown[], index: number) {
    if (!(index >= 0 && index < value.length))
      throw new Error(`out of bounds: [${index}] of ${value.length}`)
    return value[index]
  },
  put(array: unknown[], index: number, value: unknown) {
    if (!(index >= 0 && index < array.length))
      throw new Error(`out of bounds: [${index}] of ${array.length}`)
    array[index] = value
  },
  withComponent(value: readonly unknown[], index: number, component: unknown) {
    const copy = [...value]
    copy[index] = component
    return copy
  },
  convert(to: ScalarName, from: ScalarName, value: number | boolean): number | boolean {
    if (to === 'bool') return Boolean(value)
    const number = Number(value)
    if (to === 'f32' || to === 'f16') return wrap(to, number)
    if (from === 'f32' || from === 'f16') {
      const [low, high] = to === 'u32' ? [0, 0xffffffff] : [-0x80000000, 0x7fffffff]
      return Math.min(Math.max(Math.trunc(number), low), high)
    }
    return wrap(to, number)
  },
  bitcast(to: ScalarName, from: ScalarName, value: number | readonly number[]) {
    const words = toWords(from, Array.isArray(value) ? value : [value as number])
    const numbers =
      to === 'f32'
        ? [...new Float32Array(words.buffer)]
        : to === 'f16'
          ? Array.from(new Uint16Array(words.buffer), (bits) => halves[bits]!)
          : to === 'i32'
            ? [...new Int32Array(words.buffer)]
            : [...words]
    return numbers.length === 1 ? numbers[0] : numbers
  },
  dot: (a: readonly number[], b: readonly number[]) =>
    Math.fround(a.reduce((sum, x, i) => sum + x * b[i]!, 0)),
  pack2x16float: ([low, high]: readonly number[]) =>
    ((halfBits(high!) << 16) | halfBits(low!)) >>> 0,
  unpack2x16float: (word: number) => [halves[word & 0xffff], halves[word >>> 16]],
  unpack4xU8: (word: number) => [word & 255, (word >>> 8) & 255, (word >>> 16) & 255, word >>> 24],
  selectEach: (no: unknown, yes: unknown, test: readonly boolean[]) =>
    test.map((chosen, i) => {
      const from = chosen ? yes : no
      return Array.isArray(from) ? from[i] : from
    }),
  pure(
    name: string,
    of: ScalarName,
    size: number,
    values: readonly (number | readonly number[])[],
  ) {
    const fn = functions[name]!
    const one = (i: number): number =>
      wrap(of, fn(...values.map((value) => (Array.isArray(value) ? value[i]! : value) as number)))
    return size === 1 ? one(0) : Array.from({ length: size }, (_, i) => one(i))
  },
  wait(
    lane: number,
    kind: string,
    site: number,
    a?: unknown,
    b?: unknown,
    c?: unknown,
    d?: unknown,
    e?: unknown,
    f?: unknown,
  ): Wait {
    const wait = waiting[lane]!
    wait.kind = kind
    wait.site = site
    const { operands } = wait
    operands[0] = a
    operands[1] = b
    operands[2] = c
    operands[3] = d
    operands[4] = e
    operands[5] = f
    return wait
  },
  matrix: (role: string, of: ScalarName): Fragment => ({ role, of, values: new Float32Array(256) }),
  read(view: View, index: number, lane: number) {
    view.check(index)
    view.races?.access(index, false, lane >>> 5, interval)
    const { numbers, width } = view
    const isHalf = view.scalar === 'f16'
    if (width === 1) return isHalf ? halves[numbers[index]!] : numbers[index]
    const value: number[] = []
    for (let i = 0; i < width; i++) {
      const number = numbers[index * width + i]!
      value[i] = isHalf ? halves[number]! : number
    }
    return value
  },
  write(view: View, index: number, value: number | readonly number[], lane: number) {
    if (!view.isWritable) throw new Error(`${view.name} is read only`)
    view.check(index)
    view.races?.access(index, true, lane >>> 5, interval)
    const { numbers, width } = view
    const put = (at: number, number: number): void => {
      numbers[at] = view.scalar === 'f16' ? halfBits(number) : number
    }
    if (Array.isArray(value)) for (let i = 0; i < width; i++) put(index * width + i, value[i]!)
    else put(index, value as number)
  },
  *uniformLoad(
    view: View,
    before: number,
    after: number,
    lane: number,
  ): Generator<unknown, unknown> {
    yield runtime.wait(lane, 'barrier', before)
    const value = runtime.read(view, 0, lane)
    yield runtime.wait(lane, 'barrier', after)
    return value
  },
}

/** Elements of memory that a fragment covers: calls `visit` with the index of each, in elements of the fragment. */
function moveFragment(
  view: View,
  fragment: Fragment,
  order: string,
  offset: number,
  stride: number,
  subgroup: number,
  isStore: boolean,
): void {
  const bytes = bytesOf(fragment.of)
  const elementBytes = bytesOf(view.scalar) * view.width
  const strideBytes = stride * elementBytes
  if (strideBytes < 16 * bytes || strideBytes % 16 !== 0 || (offset * elementBytes) % 16 !== 0) {
    throw new Error(`fragment of ${view.name}: offset ${offset}, stride ${stride} are not aligned`)
  }
  const memory =
    bytes === 2
      ? new Uint16Array(view.bytes.buffer as ArrayBuffer, view.bytes.byteOffset)
      : new Float32Array(
          view.bytes.buffer as ArrayBuffer,
          view.bytes.byteOffset,
          view.bytes.byteLength >> 2,
        )
  const perElement = elementBytes / bytes
  for (let line = 0; line < 16; line++) {
    const first = (offset + line * stride) * perElement
    for (let i = 0; i < 16; i += perElement) {
      const index = (first + i) / perElement
      view.check(index)
      view.races?.access(index, isStore, subgroup, interval)
    }
    for (let i = 0; i < 16; i++) {
      const at = order === 'row_major' ? line * 16 + i : i * 16 + line
      if (isStore)
        memory[first + i] = bytes === 2 ? halfBits(fragment.values[at]!) : fragment.values[at]!
      else fragment.values[at] = bytes === 2 ? halves[memory[first + i]!]! : memory[first + i]!
    }
  }
}

function multiply(left: Fragment, right: Fragment, sum: Fragment): Fragment {
  if (left.role !== 'left' || right.role !== 'right' || sum.role !== 'result') {
    throw new Error('fragments in the wrong places')
  }
  const values = new Float32Array(256)
  const [a, b, c] = [left.values, right.values, sum.values]
  for (let i = 0; i < 16; i++) {
    for (let j = 0; j < 16; j++) {
      let total = c[i * 16 + j]!
      for (let k = 0; k < 16; k++) total += a[i * 16 + k]! * b[k * 16 + j]!
      values[i * 16 + j] = total
    }
  }
  return { ...sum, values }
}

/** Numbers from a seed, for the order of lanes. */
function* shuffles(seed: number): Generator<number, never> {
  let state = seed
  for (;;) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    yield state / 2 ** 32
  }
}

function sizeOf(type: WgslType): number {
  if (type.kind === 'scalar') return bytesOf(type.name)
  if (type.kind === 'vec') return bytesOf(type.of) * (type.size === 3 ? 4 : type.size)
  if (type.kind === 'array') return sizeOf(type.of) * (type.size ?? 0)
  throw new Error(`no size of ${type.kind}`)
}

/** Workgroup memory that a shader takes, each variable from a multiple of 16 bytes on. */
export function workgroupBytes(shader: CompiledShader): number {
  let bytes = 0
  for (const { space, type } of shader.globals.values()) {
    if (space === 'workgroup') bytes += Math.ceil(sizeOf(type) / 16) * 16
  }
  return bytes
}

/**
 * Runs all workgroups of a dispatch.
 *
 * @param buffers bytes bound to each binding; the last is the uniform struct
 */
export function dispatchWgsl(
  shader: CompiledShader,
  buffers: readonly Uint8Array[],
  grid: readonly [number, number],
): void {
  const bound: Record<string, unknown> = {}
  for (const variable of shader.globals.values()) {
    if (variable.space === 'storage')
      bound[variable.name] = new View(variable, buffers[variable.binding!]!)
    if (variable.space === 'uniform' && variable.type.kind === 'struct') {
      const bytes = buffers[variable.binding!]!
      const data = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
      bound[variable.name] = Object.fromEntries(
        [...variable.type.fields].map(([name, type], i) => [
          name,
          type.kind === 'scalar' && type.name === 'f32'
            ? data.getFloat32(4 * i, true)
            : type.kind === 'scalar' && type.name === 'i32'
              ? data.getInt32(4 * i, true)
              : data.getUint32(4 * i, true),
        ]),
      )
    }
  }
  const random = shuffles(grid[0] * 7919 + shader.workgroupSize)
  for (let y = 0; y < grid[1]; y++) {
    for (let x = 0; x < grid[0]; x++) runWorkgroup(shader, bound, [x, y, 0], random)
  }
}

function runWorkgroup(
  shader: CompiledShader,
  bound: Readonly<Record<string, unknown>>,
  workgroup: readonly number[],
  random: Generator<number, never>,
): void {
  const globals: Record<string, unknown> = { ...bound }
  for (const variable of shader.globals.values()) {
    if (variable.space !== 'workgroup') continue
    // Whatever was there before: NaN in every type.
    const bytes = new Uint8Array(sizeOf(variable.type)).fill(0xff)
    const view = new View(variable, bytes)
    globals[variable.name] = new View(variable, bytes, new RaceDetector(variable.name, view.count))
  }
  const size = shader.workgroupSize
  const lanes = Array.from({ length: size }, (_, local) =>
    shader.start(runtime, globals, {
      local_invocation_index: local,
      workgroup_id: workgroup,
      subgroup_invocation_id: local % SUBGROUP,
      subgroup_size: SUBGROUP,
    }),
  )
  const answers: unknown[] = lanes.map(() => undefined)
  const subgroups = Math.ceil(size / SUBGROUP)
  const order = Array.from({ length: subgroups }, (_, i) => i)
  for (;;) {
    interval++
    const stops = new Set<number>()
    for (const subgroup of shuffled(order, random)) {
      stops.add(runSubgroup(lanes, answers, subgroup, random))
    }
    if (stops.size > 1) throw new Error('subgroups wait at different barriers')
    if (stops.has(-1)) return
  }
}

function shuffled(order: readonly number[], random: Generator<number, never>): number[] {
  const copy = [...order]
  for (let i = copy.length - 1; i > 0; i--) {
    const j = Math.floor(random.next().value * (i + 1))
    ;[copy[i], copy[j]] = [copy[j]!, copy[i]!]
  }
  return copy
}

/** Runs a subgroup to its next barrier and says which, or -1 at its end. */
function runSubgroup(
  lanes: readonly Generator<unknown, void, unknown>[],
  answers: unknown[],
  subgroup: number,
  random: Generator<number, never>,
): number {
  const first = subgroup * SUBGROUP
  const members = Array.from(
    { length: Math.min(SUBGROUP, lanes.length - first) },
    (_, i) => first + i,
  )
  const order = shuffled(members, random)
  const waits: Wait[] = []
  for (;;) {
    let ended = 0
    for (const lane of order) {
      const { done, value } = lanes[lane]!.next(answers[lane])
      answers[lane] = undefined
      if (done) ended++
      else waits[lane - first] = value as Wait
    }
    if (ended === members.length) return -1
    if (ended > 0) throw new Error('lanes of a subgroup end apart')
    const wait = waits[0]!
    for (const other of waits) {
      if (other.site !== wait.site) {
        throw new Error(`lanes of a subgroup diverge at ${wait.kind}`)
      }
    }
    if (wait.kind === 'barrier') return wait.site
    answerAll(wait, waits, members, answers, subgroup)
  }
}

function answerAll(
  wait: Wait,
  waits: readonly Wait[],
  members: readonly number[],
  answers: unknown[],
  subgroup: number,
): void {
  const { kind, operands } = wait
  const own = (lane: number): unknown => waits[lane - members[0]!]!.operands[0]
  switch (kind) {
    case 'load':
    case 'store': {
      const [view, offset, stride, order] = operands as [View, number, number, string]
      for (const other of waits) {
        if (
          other.operands[0] !== view ||
          other.operands[1] !== offset ||
          other.operands[2] !== stride
        ) {
          throw new Error(`lanes of a subgroup give other addresses of ${view.name}`)
        }
      }
      const fragment =
        kind === 'store'
          ? (operands[4] as Fragment)
          : runtime.matrix(operands[4] as string, operands[5] as ScalarName)
      if (kind === 'store' && !view.isWritable) throw new Error(`${view.name} is read only`)
      moveFragment(view, fragment, order, offset, stride, subgroup, kind === 'store')
      for (const lane of members) answers[lane] = fragment
      return
    }
    case 'multiply': {
      const product = multiply(...(operands.slice(0, 3) as [Fragment, Fragment, Fragment]))
      for (const lane of members) answers[lane] = product
      return
    }
    case 'subgroupShuffleXor':
    case 'subgroupShuffle':
    case 'subgroupBroadcast':
      for (const lane of members) {
        const source = waits[lane - members[0]!]!.operands[1] as number
        const index = kind === 'subgroupShuffleXor' ? (lane - members[0]!) ^ source : source
        answers[lane] = own(members[0]! + index)
      }
      return
    case 'subgroupAdd':
    case 'subgroupMax': {
      const of = operands[1] as ScalarName
      const combined = (values: readonly number[]): number =>
        values.reduce((a, b) => (kind === 'subgroupAdd' ? wrap(of, a + b) : Math.max(a, b)))
      const values = members.map(own) as (number | readonly number[])[]
      const [sample] = values
      const answer = Array.isArray(sample)
        ? sample.map((_, i) =>
            combined((values as (readonly number[])[]).map((value) => value[i]!)),
          )
        : combined(values as number[])
      for (const lane of members) answers[lane] = answer
      return
    }
    default:
      throw new Error(`unknown wait ${kind}`)
  }
}
