// WGSL text to JavaScript, one generator an invocation. It covers what this package's kernels use, with the types it needs to
// tell integers from floats; anything else is an error, never a guess. What lanes do together is yielded to the scheduler:
// see `wgsl-machine.ts`.

/** A type as far as code generation needs it. */
export type WgslType =
  | { readonly kind: 'scalar'; readonly name: ScalarName }
  | { readonly kind: 'vec'; readonly size: number; readonly of: ScalarName }
  | { readonly kind: 'array'; readonly of: WgslType; readonly size: number | undefined }
  | { readonly kind: 'struct'; readonly name: string; readonly fields: Map<string, WgslType> }
  | { readonly kind: 'matrix'; readonly role: 'left' | 'right' | 'result'; readonly of: ScalarName }
  | { readonly kind: 'pointer'; readonly global: GlobalVariable }
  | { readonly kind: 'void' }

/** `int` and `float` are literals without a suffix. */
export type ScalarName = 'f32' | 'f16' | 'u32' | 'i32' | 'bool' | 'int' | 'float'

export interface GlobalVariable {
  readonly name: string
  readonly space: 'storage' | 'uniform' | 'workgroup'
  readonly type: WgslType
  readonly binding: number | undefined
  readonly isWritable: boolean
}

export interface CompiledShader {
  readonly workgroupSize: number
  readonly globals: ReadonlyMap<string, GlobalVariable>
  /** Makes the generator of one invocation from the runtime, its globals and builtins. */
  readonly start: (
    runtime: object,
    globals: object,
    builtins: Readonly<Record<string, unknown>>,
  ) => Generator<unknown, void, unknown>
}

interface Value {
  readonly type: WgslType
  readonly js: string
}

const scalar = (name: ScalarName): WgslType => ({ kind: 'scalar', name })
const VOID: WgslType = { kind: 'void' }
const TOKEN =
  /\s+|\/\/[^\n]*|(0x[0-9a-fA-F]+u?|\d+\.\d*(?:e[+-]?\d+)?[fh]?|\.\d+|\d+e[+-]?\d+[fh]?|\d+[uifh]?|[A-Za-z_]\w*|&&|\|\||<<=|>>=|<<|>>|<=|>=|==|!=|\+=|-=|\*=|\/=|%=|&=|\|=|\^=|\+\+|--|->|[-+*/%<>=!&|^~.,;:()[\]{}@])/g
const PRECEDENCE = [
  ['||'],
  ['&&'],
  ['|'],
  ['^'],
  ['&'],
  ['==', '!='],
  ['<', '>', '<=', '>='],
  ['<<', '>>'],
  ['+', '-'],
  ['*', '/', '%'],
]
/** Builtins that a lane computes alone. */
const PURE = new Set(
  'min max clamp select dot fma exp exp2 log log2 sqrt inverseSqrt tanh abs floor ceil round trunc sign pack2x16float unpack2x16float unpack4xU8 countOneBits any all isNan'.split(
    ' ',
  ),
)

function elementOf(type: WgslType): ScalarName {
  if (type.kind === 'scalar') return type.name
  if (type.kind === 'vec') return type.of
  throw new Error(`${type.kind} has no scalars`)
}

const isAbstract = (type: WgslType): boolean =>
  type.kind === 'scalar' && (type.name === 'int' || type.name === 'float')

/** Compiles a module with one entry point. */
export function compileWgsl(source: string): CompiledShader {
  const tokens = [...source.matchAll(TOKEN)].flatMap((match) => match[1] ?? [])
  let at = 0
  let sites = 0
  let names = 0
  const peek = (ahead = 0): string => tokens[at + ahead] ?? '<end>'
  const next = (): string => tokens[at++] ?? '<end>'
  const fail = (message: string): never => {
    throw new Error(`${message} near: ${tokens.slice(Math.max(0, at - 12), at + 8).join(' ')}`)
  }
  const expect = (token: string): void => {
    if (next() !== token) {
      at--
      fail(`expected ${token}`)
    }
  }
  const closeTemplate = (): void => {
    // `>>` and `>=` may end a template list.
    const token = peek()
    if (token.length > 1 && token.startsWith('>')) tokens.splice(at, 1, '>', token.slice(1))
    expect('>')
  }

  const aliases = new Map<string, WgslType>()
  const globals = new Map<string, GlobalVariable>()
  const functions = new Map<string, { result: WgslType; isGenerator: boolean }>()
  const scopes: Map<string, Value>[] = [new Map()]
  const find = (name: string): Value | undefined => {
    for (let i = scopes.length - 1; i >= 0; i--) {
      const found = scopes[i]!.get(name)
      if (found) return found
    }
    return undefined
  }
  const declare = (name: string, type: WgslType): string => {
    const js = `${name}_${names++}`
    scopes.at(-1)!.set(name, { type, js })
    return js
  }

  function readType(): WgslType {
    const name = next()
    const alias = aliases.get(name)
    if (alias) return alias
    if (/^(f32|f16|u32|i32|bool)$/.test(name)) return scalar(name as ScalarName)
    const short = /^vec([234])([fuih])$/.exec(name)
    if (short) {
      const of = { f: 'f32', u: 'u32', i: 'i32', h: 'f16' }[short[2]!] as ScalarName
      return { kind: 'vec', size: Number(short[1]), of }
    }
    const vec = /^vec([234])$/.exec(name)
    if (vec) {
      expect('<')
      const of = elementOf(readType())
      closeTemplate()
      return { kind: 'vec', size: Number(vec[1]), of }
    }
    if (name === 'array') {
      expect('<')
      const of = readType()
      let size: number | undefined
      if (peek() === ',') {
        next()
        size = Number.parseInt(next(), 10)
      }
      closeTemplate()
      return { kind: 'array', of, size }
    }
    const matrix = /^subgroup_matrix_(left|right|result)$/.exec(name)
    if (matrix) {
      expect('<')
      const of = elementOf(readType())
      expect(',')
      const columns = next()
      expect(',')
      const rows = next()
      closeTemplate()
      if (columns !== '16' || rows !== '16') fail('only fragments of 16 by 16 are known')
      return { kind: 'matrix', role: matrix[1] as 'left', of }
    }
    return fail(`unknown type ${name}`)
  }

  // Every operation names the type it computes in; abstract literals take that of the other side.
  const common = (a: WgslType, b: WgslType): ScalarName => {
    const x = elementOf(a)
    const y = elementOf(b)
    if (x === y) return x
    if (x === 'int' || (x === 'float' && y !== 'int')) return y
    if (y === 'int' || y === 'float') return x
    return fail(`${x} and ${y} do not mix`)
  }
  const shape = (a: WgslType, b: WgslType, of: ScalarName): WgslType =>
    a.kind === 'vec'
      ? { kind: 'vec', size: a.size, of }
      : b.kind === 'vec'
        ? { kind: 'vec', size: b.size, of }
        : scalar(of)
  function binary(op: string, a: Value, b: Value): Value {
    const isShift = op === '<<' || op === '>>'
    const of = isShift ? elementOf(a.type) : common(a.type, b.type)
    const isTest = ['==', '!=', '<', '>', '<=', '>='].includes(op)
    const type = shape(a.type, b.type, isTest ? 'bool' : of)
    if (type.kind === 'vec') {
      return { type, js: `R.vector('${op}','${of}',${a.js},${b.js},${type.size})` }
    }
    return { type, js: scalarBinary(op, of, a.js, b.js) }
  }
  function scalarBinary(op: string, of: ScalarName, a: string, b: string): string {
    if (op === '&&' || op === '||' || ['<', '>', '<=', '>='].includes(op)) return `(${a}${op}${b})`
    if (op === '==' || op === '!=') return `(${a}${op}=${b})`
    if (of === 'bool') return `!!(${a}${op}${b})`
    if (of === 'f32') return `R.fround(${a}${op}${b})`
    if (of === 'f16') return `R.half(${a}${op}${b})`
    if (of === 'float' || of === 'int') {
      return op === '/' && of === 'int' ? `Math.trunc(${a}/${b})` : `(${a}${op}${b})`
    }
    const wrap = (js: string): string => (of === 'u32' ? `((${js})>>>0)` : `((${js})|0)`)
    if (op === '*') return wrap(`Math.imul(${a},${b})`)
    if (op === '/' || op === '%') return wrap(`R.divide('${op}',${a},${b})`)
    if (op === '>>' && of === 'u32') return `(${a}>>>${b})`
    return wrap(`${a}${op}${b}`)
  }

  function expression(level = 0): Value {
    if (level === PRECEDENCE.length) return unary()
    let left = expression(level + 1)
    while (PRECEDENCE[level]!.includes(peek())) left = binary(next(), left, expression(level + 1))
    return left
  }
  function unary(): Value {
    const token = peek()
    if (token === '-' || token === '!' || token === '~') {
      next()
      const value = unary()
      if (value.type.kind === 'vec') {
        return {
          type: value.type,
          js: `R.unary('${token}','${value.type.of}',${value.js})`,
        }
      }
      const of = elementOf(value.type)
      const js =
        token === '!'
          ? `(!${value.js})`
          : of === 'u32' || of === 'i32'
            ? `((${token}${value.js})${of === 'u32' ? '>>>' : '|'}0)`
            : `(-${value.js})`
      return { type: value.type, js }
    }
    if (token === '&') {
      next()
      const global = globals.get(next()) ?? fail('only globals have addresses here')
      return { type: { kind: 'pointer', global }, js: `G.${global.name}` }
    }
    return postfix(primary())
  }
  function postfix(start: Value): Value {
    let value = start
    for (;;) {
      if (peek() === '[') {
        next()
        const index = expression()
        expect(']')
        value = element(value, index.js)
      } else if (peek() === '.') {
        next()
        value = member(value, next())
      } else return value
    }
  }
  function element({ type, js }: Value, index: string): Value {
    if (type.kind === 'array') {
      const isGlobal = js.startsWith('G.')
      return { type: type.of, js: isGlobal ? `R.read(${js},${index},L)` : `R.at(${js},${index})` }
    }
    if (type.kind === 'vec') return { type: scalar(type.of), js: `R.at(${js},${index})` }
    return fail(`${type.kind} has no elements`)
  }
  function member({ type, js }: Value, name: string): Value {
    if (type.kind === 'struct') {
      const field = type.fields.get(name) ?? fail(`no field ${name}`)
      return { type: field, js: `${js}.${name}` }
    }
    if (type.kind !== 'vec') return fail(`${type.kind} has no member ${name}`)
    const indices = [...name].map((c) => Math.max('xyzw'.indexOf(c), 'rgba'.indexOf(c)))
    return indices.length === 1
      ? { type: scalar(type.of), js: `${js}[${indices[0]}]` }
      : {
          type: { kind: 'vec', size: indices.length, of: type.of },
          js: `R.swizzle(${js},${indices.join(',')})`,
        }
  }
  function callArguments(): Value[] {
    expect('(')
    const values: Value[] = []
    while (peek() !== ')') {
      values.push(expression())
      if (peek() === ',') next()
    }
    expect(')')
    return values
  }
  const convert = (to: WgslType, value: Value): string => {
    if (isAbstract(value.type) || (to.kind === 'scalar' && to.name === elementOf(value.type))) {
      return to.kind === 'scalar' && to.name === 'f32' ? `R.fround(${value.js})` : value.js
    }
    return `R.convert('${elementOf(to)}','${elementOf(value.type)}',${value.js})`
  }
  function construct(type: WgslType, values: readonly Value[]): Value {
    switch (type.kind) {
      case 'scalar':
        return { type, js: values.length === 0 ? '0' : convert(type, values[0]!) }
      case 'vec': {
        if (values.length === 0) return { type, js: `R.splat(${type.size},0)` }
        const [first] = values
        if (values.length === 1 && first!.type.kind === 'vec') {
          const from = first!.type.of
          return { type, js: `${first!.js}.map((x)=>R.convert('${type.of}','${from}',x))` }
        }
        const parts = values.map((value) =>
          value.type.kind === 'vec' ? `...${value.js}` : convert(scalar(type.of), value),
        )
        return {
          type,
          js: values.length === 1 ? `R.splat(${type.size},${parts[0]})` : `[${parts.join(',')}]`,
        }
      }
      case 'struct': {
        const fields = [...type.fields].map(
          ([name, field], i) => `${name}:${values[i] ? coerce(field, values[i]!) : zeroOf(field)}`,
        )
        return { type, js: `({${fields.join(',')}})` }
      }
      case 'matrix':
        return { type, js: `R.matrix('${type.role}','${type.of}')` }
      case 'array':
        return {
          type,
          js: values.length === 0 ? zeroOf(type) : `[${values.map(({ js }) => js).join(',')}]`,
        }
      default:
        return fail(`cannot construct ${type.kind}`)
    }
  }
  function zeroOf(type: WgslType): string {
    switch (type.kind) {
      case 'scalar':
        return type.name === 'bool' ? 'false' : '0'
      case 'vec':
        return `R.splat(${type.size},${type.of === 'bool' ? 'false' : '0'})`
      case 'array':
        return `Array.from({length:${type.size}},()=>${zeroOf(type.of)})`
      case 'matrix':
        return `R.matrix('${type.role}','${type.of}')`
      case 'struct':
        return construct(type, []).js
      default:
        return fail(`no zero of ${type.kind}`)
    }
  }
  function coerce(to: WgslType, value: Value): string {
    if (isAbstract(value.type)) return convert(to, value)
    const same =
      to.kind === value.type.kind &&
      (to.kind !== 'scalar' || to.name === elementOf(value.type)) &&
      (to.kind !== 'vec' ||
        (value.type.kind === 'vec' && to.of === value.type.of && to.size === value.type.size)) &&
      (to.kind !== 'matrix' || (value.type.kind === 'matrix' && to.role === value.type.role))
    if (!same) fail(`cannot assign ${JSON.stringify(value.type)} to ${JSON.stringify(to)}`)
    return value.js
  }

  function primary(): Value {
    const token = peek()
    if (token === '(') {
      next()
      const value = expression()
      expect(')')
      return { type: value.type, js: `(${value.js})` }
    }
    if (/^[.\d]/.test(token)) {
      next()
      if (token.endsWith('u')) return { type: scalar('u32'), js: `${Number(token.slice(0, -1))}` }
      if (token.startsWith('0x')) return { type: scalar('int'), js: `${Number(token)}` }
      if (token.endsWith('i')) return { type: scalar('i32'), js: token.slice(0, -1) }
      if (token.endsWith('f'))
        return { type: scalar('f32'), js: `${Math.fround(Number(token.slice(0, -1)))}` }
      if (token.endsWith('h')) return { type: scalar('f16'), js: token.slice(0, -1) }
      return { type: scalar(/[.e]/.test(token) ? 'float' : 'int'), js: `${Number(token)}` }
    }
    if (token === 'true' || token === 'false') {
      next()
      return { type: scalar('bool'), js: token }
    }
    const local = find(token)
    if (local && peek(1) !== '(') {
      next()
      return local
    }
    const global = globals.get(token)
    if (global && peek(1) !== '(') {
      next()
      if (global.space !== 'workgroup' || global.type.kind === 'array') {
        return { type: global.type, js: `G.${token}` }
      }
      return { type: global.type, js: `R.read(G.${token},0,L)` }
    }
    if (token === 'bitcast') {
      next()
      expect('<')
      const to = readType()
      closeTemplate()
      const [value] = callArguments() as [Value]
      return {
        type: to,
        js: `R.bitcast('${elementOf(to)}','${elementOf(value.type)}',${value.js})`,
      }
    }
    if (token === 'subgroupMatrixLoad') {
      next()
      expect('<')
      const type = readType()
      expect(',')
      const order = next()
      closeTemplate()
      const [pointer, offset, stride] = callArguments() as [Value, Value, Value]
      if (type.kind !== 'matrix') return fail('a fragment is loaded')
      return {
        type,
        js: `(yield R.wait(L,'load',${sites++},${pointer.js},${offset.js},${stride.js},'${order}','${type.role}','${type.of}'))`,
      }
    }
    if (token === 'subgroupMatrixStore') {
      next()
      expect('<')
      const order = next()
      closeTemplate()
      const [pointer, offset, value, stride] = callArguments() as [Value, Value, Value, Value]
      return {
        type: VOID,
        js: `(yield R.wait(L,'store',${sites++},${pointer.js},${offset.js},${stride.js},'${order}',${value.js}))`,
      }
    }
    const isConstructor =
      aliases.has(token) ||
      /^(f32|f16|u32|i32|bool|array|vec[234][fuih]?|subgroup_matrix_\w+)$/.test(token)
    if (isConstructor) {
      const type = readType()
      return construct(type, callArguments())
    }
    next()
    return call(token, callArguments())
  }

  function call(name: string, values: readonly Value[]): Value {
    const js = values.map((value) => value.js)
    const own = functions.get(name)
    if (own) {
      const list = ['G', 'L', ...js].join(',')
      return {
        type: own.result,
        js: own.isGenerator ? `(yield* ${name}(${list}))` : `${name}(${list})`,
      }
    }
    const [first, second] = values
    switch (name) {
      case 'workgroupBarrier':
      case 'storageBarrier':
      case 'subgroupBarrier':
        return { type: VOID, js: `(yield R.wait(L,'barrier',${sites++}))` }
      case 'workgroupUniformLoad': {
        if (first!.type.kind !== 'pointer') return fail('a pointer is loaded')
        const { type } = first!.type.global
        sites += 2
        return { type, js: `(yield* R.uniformLoad(${js[0]},${sites - 2},${sites - 1},L))` }
      }
      case 'subgroupMatrixMultiplyAccumulate':
        return {
          type: values[2]!.type,
          js: `(yield R.wait(L,'multiply',${sites++},${js.join(',')}))`,
        }
      case 'subgroupShuffleXor':
      case 'subgroupShuffle':
      case 'subgroupBroadcast':
        return { type: first!.type, js: `(yield R.wait(L,'${name}',${sites++},${js[0]},${js[1]}))` }
      case 'subgroupAdd':
      case 'subgroupMax':
        return {
          type: first!.type,
          js: `(yield R.wait(L,'${name}',${sites++},${js[0]},'${elementOf(first!.type)}'))`,
        }
    }
    if (!PURE.has(name)) return fail(`unknown function ${name}`)
    switch (name) {
      case 'dot':
        return { type: scalar(elementOf(first!.type)), js: `R.dot(${js.join(',')})` }
      case 'any':
      case 'all':
        return {
          type: scalar('bool'),
          js: `${js[0]}.${name === 'any' ? 'some' : 'every'}(Boolean)`,
        }
      case 'pack2x16float':
        return { type: scalar('u32'), js: `R.pack2x16float(${js[0]})` }
      case 'unpack2x16float':
        return { type: { kind: 'vec', size: 2, of: 'f32' }, js: `R.unpack2x16float(${js[0]})` }
      case 'unpack4xU8':
        return { type: { kind: 'vec', size: 4, of: 'u32' }, js: `R.unpack4xU8(${js[0]})` }
      case 'select': {
        const of = common(first!.type, second!.type)
        const type = shape(first!.type, second!.type, of)
        return {
          type,
          js:
            values[2]!.type.kind === 'vec'
              ? `R.selectEach(${js.join(',')})`
              : `(${js[2]}?${js[1]}:${js[0]})`,
        }
      }
    }
    const of = values
      .slice(1)
      .reduce((type, value) => common(scalar(type), value.type), elementOf(first!.type))
    const type = values.reduce((found, value) => shape(found, value.type, of), scalar(of))
    const size = type.kind === 'vec' ? type.size : 1
    return { type, js: `R.pure('${name}','${of}',${size},[${js.join(',')}])` }
  }

  function block(): string {
    expect('{')
    scopes.push(new Map())
    let js = '{'
    while (peek() !== '}') js += statement()
    expect('}')
    scopes.pop()
    return `${js}}`
  }
  function declaration(): string {
    const keyword = next()
    const name = next()
    let type: WgslType | undefined
    if (peek() === ':') {
      next()
      type = readType()
    }
    let value: Value | undefined
    if (peek() === '=') {
      next()
      value = expression()
    }
    if (!type && value && isAbstract(value.type)) {
      type = scalar(elementOf(value.type) === 'int' ? 'i32' : 'f32')
    }
    type ??= value?.type ?? fail('a declaration without a type')
    const init = value ? coerce(type, value) : zeroOf(type)
    // Arrays are the only values that change in place.
    const copy = type.kind === 'array' ? `${init}.slice()` : init
    return `${keyword === 'var' ? 'let' : 'const'} ${declare(name, type)}=${copy}`
  }
  /** An assignment, increment or call, without its semicolon. */
  function simple(): string {
    const start = at
    const name = next()
    if (name === '_') {
      expect('=')
      return expression().js
    }
    const local = find(name)
    const global = globals.get(name)
    if (peek() === '(' || (!local && !global)) {
      at = start
      return expression().js
    }
    // The target: a variable, an element of an array, or a component of a vector; one step of each.
    let target: Value = local ?? { type: global!.type, js: `G.${name}` }
    let index: string | undefined
    let component: string | undefined
    if (target.type.kind === 'array') {
      expect('[')
      index = expression().js
      expect(']')
      target = { type: target.type.of, js: target.js }
    } else if (global) index = '0'
    if (peek() === '[') {
      next()
      component = expression().js
      expect(']')
    } else if (peek() === '.') {
      next()
      component = `${'xyzw'.indexOf(next())}`
    }
    const whole: Value = {
      type: target.type,
      js:
        index === undefined
          ? target.js
          : global
            ? `R.read(${target.js},${index},L)`
            : `R.at(${target.js},${index})`,
    }
    const current: Value =
      component === undefined
        ? whole
        : { type: scalar(elementOf(target.type)), js: `${whole.js}[${component}]` }
    const operator = next()
    const value =
      operator === '++' || operator === '--'
        ? binary(operator[0]!, current, { type: scalar('int'), js: '1' })
        : operator === '='
          ? expression()
          : binary(operator.slice(0, -1), current, expression())
    let js = coerce(current.type, value)
    if (component !== undefined) js = `R.withComponent(${whole.js},${component},${js})`
    if (index === undefined) return `${target.js}=${js}`
    return global ? `R.write(${target.js},${index},${js},L)` : `R.put(${target.js},${index},${js})`
  }
  function statement(): string {
    const token = peek()
    switch (token) {
      case '{':
        return block()
      case ';':
        next()
        return ''
      case 'let':
      case 'var':
      case 'const': {
        const js = declaration()
        expect(';')
        return `${js};`
      }
      case 'if': {
        next()
        const condition = expression()
        let js = `if(${condition.js})${block()}`
        if (peek() === 'else') {
          next()
          js += `else ${peek() === 'if' ? statement() : block()}`
        }
        return js
      }
      case 'for': {
        next()
        expect('(')
        scopes.push(new Map())
        const init = peek() === ';' ? '' : declaration()
        expect(';')
        const condition = peek() === ';' ? 'true' : expression().js
        expect(';')
        const update = peek() === ')' ? '' : simple()
        expect(')')
        const body = block()
        scopes.pop()
        return `for(${init};${condition};${update})${body}`
      }
      case 'while': {
        next()
        const condition = expression()
        return `while(${condition.js})${block()}`
      }
      case 'loop':
        next()
        return `for(;;)${block()}`
      case 'break':
      case 'continue':
        next()
        expect(';')
        return `${token};`
      case 'return': {
        next()
        const value = peek() === ';' ? '' : expression().js
        expect(';')
        return `return ${value};`
      }
      default: {
        const js = simple()
        expect(';')
        return `${js};`
      }
    }
  }

  let workgroupSize = 0
  let entry: string | undefined
  let js = ''
  const parameters = (): string[] => {
    expect('(')
    const list: string[] = []
    while (peek() !== ')') {
      let builtin: string | undefined
      if (peek() === '@') {
        next()
        expect('builtin')
        expect('(')
        builtin = next()
        expect(')')
      }
      const name = next()
      expect(':')
      const type = readType()
      const declared = declare(name, type)
      list.push(builtin === undefined ? declared : `${declared}=B.${builtin}`)
      if (peek() === ',') next()
    }
    expect(')')
    return list
  }
  const attribute = (): string => {
    expect('(')
    const value = next()
    expect(')')
    return value
  }

  while (at < tokens.length) {
    const token = next()
    if (token === 'enable' || token === 'diagnostic') {
      while (next() !== ';');
    } else if (token === 'alias') {
      const name = next()
      expect('=')
      aliases.set(name, readType())
      expect(';')
    } else if (token === 'const') {
      at--
      js += `${declaration()};`
      expect(';')
    } else if (token === 'struct') {
      const name = next()
      const fields = new Map<string, WgslType>()
      expect('{')
      while (peek() !== '}') {
        const field = next()
        expect(':')
        fields.set(field, readType())
        if (peek() === ',') next()
      }
      expect('}')
      if (peek() === ';') next()
      aliases.set(name, { kind: 'struct', name, fields })
    } else if (token === 'fn') {
      const name = next()
      scopes.push(new Map())
      const list = parameters()
      let result: WgslType = VOID
      if (peek() === '->') {
        next()
        result = readType()
      }
      const body = block()
      scopes.pop()
      const isGenerator = /\byield\b/.test(body)
      functions.set(name, { result, isGenerator })
      js += `function${isGenerator ? '*' : ''} ${name}(${['G', 'L', ...list].join(',')})${body}`
    } else if (token === '@' && peek() === 'group') {
      next()
      attribute()
      expect('@')
      expect('binding')
      const binding = Number(attribute())
      expect('var')
      expect('<')
      const space = next() as 'storage' | 'uniform'
      let isWritable = false
      while (peek() !== '>') isWritable = next() === 'read_write' || isWritable
      expect('>')
      const name = next()
      expect(':')
      globals.set(name, { name, space, type: readType(), binding, isWritable })
      expect(';')
    } else if (token === '@' && peek() === 'compute') {
      next()
      expect('@')
      expect('workgroup_size')
      workgroupSize = Number(attribute())
      expect('fn')
      next()
      scopes.push(new Map())
      const list = parameters()
      entry = `const ${list.length === 0 ? 'none=0' : list.join(',')};${block()}`
      scopes.pop()
    } else if (token === 'var') {
      expect('<')
      const space = next() as 'workgroup'
      closeTemplate()
      if (space !== 'workgroup') fail(`no variables in ${space} here`)
      const name = next()
      expect(':')
      globals.set(name, { name, space, type: readType(), binding: undefined, isWritable: true })
      expect(';')
    } else {
      at--
      fail('unknown declaration')
    }
  }
  if (entry === undefined) throw new Error('no entry point')
  // The code generated is this package's own shader, and runs in tests only.
  const start = new Function(
    'R',
    'G',
    'B',
    `const L=B.local_invocation_index;${js}return (function*(){${entry}})()`,
  ) as CompiledShader['start']
  return { workgroupSize, globals, start }
}
