import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import fc from 'fast-check'
import { afterAll, describe, expect, test } from 'vitest'
import { bytesPerElement, type SafetensorsDType } from './dtype.ts'
import { parseHeader, parseHeaderLength } from './header.ts'
import { openSafetensors } from './open-safetensors.ts'
import { SafetensorsError } from './safetensors-error.ts'
import { writeSafetensors, type TensorToWrite } from './write-safetensors.ts'

const folder = mkdtempSync(join(tmpdir(), 'safetensors-'))
afterAll(() => rmSync(folder, { recursive: true }))
const path = (name: string) => join(folder, name)

/** A file with the given header, as damaged as the test wants it. */
function writeRaw(
  name: string,
  header: string | object,
  dataBytes: number,
  length?: number,
): string {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header))
  const prefix = Buffer.alloc(8)
  prefix.writeBigUInt64LE(BigInt(length ?? json.length))
  const file = path(name)
  writeFileSync(file, Buffer.concat([prefix, json, Buffer.alloc(dataBytes)]))
  return file
}

async function failure(promise: Promise<unknown>): Promise<SafetensorsError> {
  const error = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  )
  expect(error).toBeInstanceOf(SafetensorsError)
  return error as SafetensorsError
}

const f32 = (begin: number, end: number, shape = [(end - begin) / 4]) => ({
  dtype: 'F32',
  shape,
  data_offsets: [begin, end],
})

describe('round trips', () => {
  test('any tensors of any dtype come back byte by byte, whole and by range', async () => {
    const dtypes = Object.keys(bytesPerElement) as SafetensorsDType[]
    const tensor = fc
      .record({
        dtype: fc.constantFrom(...dtypes),
        shape: fc.array(fc.integer({ min: 0, max: 5 }), { maxLength: 4 }),
      })
      .chain(({ dtype, shape }) => {
        const bytes = shape.reduce((p, n) => p * n, bytesPerElement[dtype])
        return fc.record({
          dtype: fc.constant(dtype),
          shape: fc.constant(shape),
          data: fc.uint8Array({ minLength: bytes, maxLength: bytes }),
        })
      })
    const names = fc.string({ unit: 'binary' }).filter((s) => s !== '__metadata__')
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(names, tensor), { maxLength: 6 }),
        fc.dictionary(
          fc.string().filter((s) => s !== '__proto__'),
          fc.string(),
        ),
        async (pairs, metadata) => {
          const tensors = [...new Map(pairs)].map(([name, t]) => ({ name, ...t }))
          await writeSafetensors(path('any.safetensors'), tensors, metadata)
          await using file = await openSafetensors(path('any.safetensors'))
          expect(file.tensors.size).toBe(tensors.length)
          expect(file.metadata).toEqual({ ...metadata })
          for (const { name, dtype, shape, data } of tensors) {
            const info = file.tensors.get(name)!
            expect([info.dtype, info.shape]).toEqual([dtype, shape])
            expect(info.start % bytesPerElement[dtype]).toBe(0)
            expect(await file.read(name)).toEqual(new Uint8Array(data))
            const from = data.length >> 1
            const half = new Uint8Array(data.length - from)
            await file.readInto(name, half, from)
            expect(half).toEqual(new Uint8Array(data.subarray(from)))
          }
        },
      ),
      { numRuns: 60 },
    )
  })

  test('float dtypes are rounded when given as f32, and read back as f32', async () => {
    const data = Float32Array.of(0, 1, -2.5, 0.1)
    const dtypes = ['F64', 'F32', 'F16', 'BF16', 'F8_E4M3'] as const
    const file = path('floats.safetensors')
    await writeSafetensors(
      file,
      dtypes.map((dtype) => ({ name: dtype, dtype, shape: [2, 2], data })),
    )
    await using opened = await openSafetensors(file)
    const expected = {
      F64: 0.1,
      F32: 0.1,
      F16: 0.0999755859375,
      BF16: 0.10009765625,
      F8_E4M3: 0.1015625,
    }
    for (const dtype of dtypes) {
      expect([...(await opened.readF32(dtype))]).toEqual([0, 1, -2.5, Math.fround(expected[dtype])])
    }
  })

  test('a tensor larger than one conversion buffer reads as f32', async () => {
    const file = path('long.safetensors')
    const count = 5_000_001
    const data = new Uint16Array(count).fill(0x3f80)
    data[count - 1] = 0x4000
    await writeSafetensors(file, [{ name: 'x', dtype: 'BF16', shape: [count], data }])
    await using opened = await openSafetensors(file)
    const values = await opened.readF32('x')
    expect([values.length, values[0], values[count - 2], values[count - 1]]).toEqual([
      count,
      1,
      1,
      2,
    ])
  })

  test('data may come from a function, in parts', async () => {
    const file = path('parts.safetensors')
    async function* parts() {
      yield Float32Array.of(1, 2)
      yield Float32Array.of(3)
    }
    await writeSafetensors(file, [
      { name: 'streamed', dtype: 'F32', shape: [3], data: parts },
      { name: 'later', dtype: 'I32', shape: [1], data: () => Promise.resolve(Int32Array.of(7)) },
    ])
    await using opened = await openSafetensors(file)
    expect([...(await opened.readF32('streamed'))]).toEqual([1, 2, 3])
    expect([...(await opened.read('later'))]).toEqual([7, 0, 0, 0])
  })

  test('names that JSON.parse treats specially are ordinary tensors', async () => {
    const file = path('proto.safetensors')
    await writeSafetensors(file, [
      { name: '__proto__', dtype: 'U8', shape: [1], data: Uint8Array.of(9) },
    ])
    await using opened = await openSafetensors(file)
    expect([...(await opened.read('__proto__'))]).toEqual([9])
  })
})

describe('bytes written', () => {
  const tensors: TensorToWrite[] = [
    { name: 'mask', dtype: 'BOOL', shape: [3], data: Uint8Array.of(1, 0, 1) },
    { name: 'b', dtype: 'F32', shape: [], data: Float32Array.of(2) },
    { name: 'a', dtype: 'F32', shape: [1], data: Float32Array.of(1) },
  ]

  test('are the format, to the byte: sorted keys, aligned header, largest elements first', async () => {
    const file = path('exact.safetensors')
    await writeSafetensors(file, tensors, { z: '2', format: 'pt' })
    const bytes = readFileSync(file)
    const length = Number(bytes.readBigUInt64LE(0))
    expect(length % 8).toBe(0)
    expect(
      bytes
        .subarray(8, 8 + length)
        .toString()
        .trimEnd(),
    ).toBe(
      '{"__metadata__":{"format":"pt","z":"2"},' +
        '"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},' +
        '"b":{"dtype":"F32","shape":[],"data_offsets":[4,8]},' +
        '"mask":{"dtype":"BOOL","shape":[3],"data_offsets":[8,11]}}',
    )
    expect([...bytes.subarray(8 + length)]).toEqual([0, 0, 128, 63, 0, 0, 0, 64, 1, 0, 1])
  })

  test('do not depend on the order of the arguments', async () => {
    await writeSafetensors(path('1.safetensors'), tensors, { a: '1', b: '2' })
    await writeSafetensors(path('2.safetensors'), [...tensors].reverse(), { b: '2', a: '1' })
    expect(readFileSync(path('1.safetensors'))).toEqual(readFileSync(path('2.safetensors')))
  })

  test('a process that exits in the middle of a write leaves nothing', () => {
    const cut = path('cut')
    mkdirSync(cut)
    const writer = fileURLToPath(new URL('../../dist/index.js', import.meta.url))
    const { status, stdout } = spawnSync(
      process.execPath,
      [
        '--input-type=module',
        '--eval',
        `import { readdirSync } from 'node:fs'
        import { writeSafetensors } from ${JSON.stringify(writer)}
        async function* data() {
          yield new Float32Array(4)
          console.log(readdirSync(${JSON.stringify(cut)}).length)
          process.exit(3)
        }
        await writeSafetensors(${JSON.stringify(join(cut, 'a.safetensors'))}, [{ name: 'a', dtype: 'F32', shape: [8], data }])`,
      ],
      { encoding: 'utf8' },
    )
    expect(status).toBe(3)
    expect(stdout).toBe('1\n')
    expect(readdirSync(cut)).toEqual([])
  })

  test('a failed write leaves the old file and nothing else', async () => {
    const inner = mkdtempSync(join(folder, 'atomic-'))
    const file = join(inner, 'x.safetensors')
    await writeSafetensors(file, tensors)
    const before = readFileSync(file)
    const failing = {
      name: 'c',
      dtype: 'F32',
      shape: [1],
      data: () => Promise.reject(new Error('the source broke')),
    } as const
    await expect(writeSafetensors(file, [...tensors, failing])).rejects.toThrow('the source broke')
    expect(readFileSync(file)).toEqual(before)
    expect(readdirSync(inner)).toEqual(['x.safetensors'])
  })

  test('refuses data that does not fit, a name twice, an array of another type, a missing folder', async () => {
    const write = (...t: TensorToWrite[]) => failure(writeSafetensors(path('bad.safetensors'), t))
    const one = { name: 'w', dtype: 'F32', shape: [2] } as const
    expect((await write({ ...one, data: Float32Array.of(1) })).code).toBe('SAFETENSORS_BAD_DATA')
    expect((await write({ ...one, data: new Float32Array(3) })).message).toContain('has more')
    expect((await write({ ...one, data: Int32Array.of(1, 2) })).code).toBe('SAFETENSORS_BAD_DATA')
    expect((await write({ ...one, shape: [-1], data: new Uint8Array() })).code).toBe(
      'SAFETENSORS_BAD_DATA',
    )
    const good = { ...one, data: Float32Array.of(1, 2) }
    expect((await write(good, good)).code).toBe('SAFETENSORS_DUPLICATE_NAME')
    const nowhere = await failure(writeSafetensors(path('no/such/folder.safetensors'), [good]))
    expect(nowhere.code).toBe('SAFETENSORS_CANNOT_WRITE')
    expect(readdirSync(folder).filter((name) => name.includes('bad'))).toEqual([])
  })
})

describe('damaged files', () => {
  const cases: { what: string; file: () => string; code: string; tensor?: string }[] = [
    { what: 'missing', file: () => path('absent.safetensors'), code: 'SAFETENSORS_CANNOT_OPEN' },
    { what: 'a folder', file: () => folder, code: 'SAFETENSORS_CANNOT_OPEN' },
    {
      what: 'empty',
      file: () => (writeFileSync(path('empty'), ''), path('empty')),
      code: 'SAFETENSORS_TRUNCATED',
    },
    {
      what: 'cut inside the header',
      file: () => writeRaw('cut-header', { a: f32(0, 4) }, 0, 1000),
      code: 'SAFETENSORS_TRUNCATED',
    },
    {
      what: 'a header length past the limit',
      file: () => writeRaw('huge', '{}', 0, 100_000_001),
      code: 'SAFETENSORS_HEADER_TOO_LARGE',
    },
    {
      what: 'no JSON object',
      file: () => writeRaw('pickle', '[1]', 0),
      code: 'SAFETENSORS_NOT_SAFETENSORS',
    },
    {
      what: 'broken JSON',
      file: () => writeRaw('json', '{"a":', 0),
      code: 'SAFETENSORS_BAD_HEADER',
    },
    {
      what: 'metadata that is not strings',
      file: () => writeRaw('meta', { __metadata__: { a: 1 } }, 0),
      code: 'SAFETENSORS_BAD_HEADER',
    },
    {
      what: 'data shorter than its tensors',
      file: () => writeRaw('short', { a: f32(0, 4), b: f32(4, 12) }, 11),
      code: 'SAFETENSORS_TRUNCATED',
      tensor: 'b',
    },
    {
      what: 'bytes after the last tensor',
      file: () => writeRaw('long', { a: f32(0, 4) }, 5),
      code: 'SAFETENSORS_BAD_OFFSETS',
    },
    {
      what: 'overlapping tensors',
      file: () => writeRaw('overlap', { a: f32(0, 8), b: f32(4, 12) }, 12),
      code: 'SAFETENSORS_BAD_OFFSETS',
      tensor: 'b',
    },
    {
      what: 'a gap between tensors',
      file: () => writeRaw('gap', { a: f32(0, 4), b: f32(8, 12) }, 12),
      code: 'SAFETENSORS_BAD_OFFSETS',
      tensor: 'b',
    },
    {
      what: 'a shape that is not its bytes',
      file: () => writeRaw('shape', { a: f32(0, 8, [3]) }, 8),
      code: 'SAFETENSORS_BAD_TENSOR',
      tensor: 'a',
    },
    {
      what: 'a shape whose product overflows',
      file: () => writeRaw('overflow', { a: f32(0, 0, [2 ** 40, 2 ** 40]) }, 0),
      code: 'SAFETENSORS_BAD_TENSOR',
      tensor: 'a',
    },
    {
      what: 'offsets backwards',
      file: () => writeRaw('backwards', { a: f32(4, 0, [1]) }, 4),
      code: 'SAFETENSORS_BAD_TENSOR',
      tensor: 'a',
    },
    {
      what: 'a fractional extent',
      file: () => writeRaw('fraction', { a: f32(0, 4, [0.5]) }, 4),
      code: 'SAFETENSORS_BAD_TENSOR',
      tensor: 'a',
    },
    {
      what: 'an unknown dtype',
      file: () => writeRaw('dtype', { a: { ...f32(0, 4), dtype: 'F4' } }, 4),
      code: 'SAFETENSORS_UNKNOWN_DTYPE',
      tensor: 'a',
    },
    {
      what: 'a name twice, spelt in two ways',
      file: () =>
        writeRaw(
          'twice',
          `{"a":${JSON.stringify(f32(0, 4))}, "\\u0061":${JSON.stringify(f32(0, 4))}}`,
          4,
        ),
      code: 'SAFETENSORS_DUPLICATE_NAME',
      tensor: 'a',
    },
  ]

  test.each(cases)('$what is $code', async ({ file, code, tensor }) => {
    const name = file()
    const error = await failure(openSafetensors(name))
    expect(error.code).toBe(code)
    expect(error.file).toBe(name)
    expect(error.message).toContain(name)
    if (tensor !== undefined) {
      expect(error.tensor).toBe(tensor)
      expect(error.message).toContain(tensor)
    }
    expect(error.fix.length).toBeGreaterThan(10)
  })

  test('keys inside a tensor entry or in metadata are not mistaken for tensors', async () => {
    const file = writeRaw(
      'nested',
      { __metadata__: { a: '{"a":"a"}', dtype: '' }, a: f32(0, 4), dtype: f32(4, 8) },
      8,
    )
    await using opened = await openSafetensors(file)
    expect([...opened.tensors.keys()]).toEqual(['a', 'dtype'])
  })

  test('any bytes at all are parsed or refused with a code, never crash', () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.uint8Array(),
          fc.json().map((s) => new TextEncoder().encode(s)),
        ),
        (json) => {
          try {
            parseHeader(json, 'fuzzed', 8 + json.length)
            parseHeaderLength(json, 'fuzzed', json.length)
          } catch (error) {
            expect(error).toBeInstanceOf(SafetensorsError)
          }
        },
      ),
    )
  })

  test('a wrong name, a range outside and a float read of integers are refused', async () => {
    const file = path('ints.safetensors')
    await writeSafetensors(file, [
      { name: 'i', dtype: 'I64', shape: [1], data: BigInt64Array.of(-1n) },
    ])
    await using opened = await openSafetensors(file)
    expect((await failure(opened.read('j'))).code).toBe('SAFETENSORS_NO_SUCH_TENSOR')
    expect((await failure(opened.readInto('i', new Uint8Array(8), 1))).code).toBe(
      'SAFETENSORS_BAD_RANGE',
    )
    expect((await failure(opened.readF32('i'))).code).toBe('SAFETENSORS_NOT_FLOAT')
  })

  test('a file cut after it was opened is reported, not returned as zeros', async () => {
    const file = path('cut-later.safetensors')
    await writeSafetensors(file, [
      { name: 'x', dtype: 'U8', shape: [100], data: new Uint8Array(100) },
    ])
    await using opened = await openSafetensors(file)
    writeFileSync(file, readFileSync(file).subarray(0, -50))
    expect((await failure(opened.read('x'))).code).toBe('SAFETENSORS_TRUNCATED')
  })
})
