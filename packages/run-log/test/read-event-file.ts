// A reader of its own, from the descriptions of the formats: tensorflow/core/lib/io/record_writer.h, event.proto, summary.proto.

import { expect } from 'vitest'

export interface ReadEvent {
  wallTime: number
  step: number
  fileVersion?: string
  sessionStatus?: number
  scalars?: Record<string, number>
}

/** The events of an event file, with every checksum and length checked on the way. */
export function readEventFile(file: Uint8Array): ReadEvent[] {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength)
  const unmask = (masked: number): number => {
    const rotated = (masked - 0xa282ead8) >>> 0
    return ((rotated << 15) | (rotated >>> 17)) >>> 0
  }
  const events: ReadEvent[] = []
  for (let at = 0; at < file.length;) {
    const length = Number(view.getBigUint64(at, true))
    expect(unmask(view.getUint32(at + 8, true))).toBe(slowCrc(file.subarray(at, at + 8)))
    const data = file.subarray(at + 12, at + 12 + length)
    expect(unmask(view.getUint32(at + 12 + length, true))).toBe(slowCrc(data))
    events.push(readEvent(data))
    at += 12 + length + 4
    expect(at).toBeLessThanOrEqual(file.length)
  }
  return events
}

/** Bit by bit: nothing is shared with the table. */
function slowCrc(bytes: Uint8Array): number {
  let crc = 0xffffffff
  for (const byte of bytes) {
    for (let bit = 0; bit < 8; bit++) {
      const carry = (crc & 1) ^ ((byte >> bit) & 1)
      crc = (crc >>> 1) ^ (carry ? 0x82f63b78 : 0)
    }
  }
  return ~crc >>> 0
}

type Field = { number: number; value: number | bigint | Uint8Array }

function readFields(bytes: Uint8Array): Field[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const fields: Field[] = []
  let at = 0
  const varint = (): bigint => {
    let value = 0n
    for (let shift = 0n; ; shift += 7n) {
      const byte = bytes[at++]!
      value |= BigInt(byte & 0x7f) << shift
      if (byte < 0x80) return value
    }
  }
  while (at < bytes.length) {
    const key = Number(varint())
    const number = key >> 3
    switch (key & 7) {
      case 0:
        fields.push({ number, value: varint() })
        break
      case 1:
        fields.push({ number, value: view.getFloat64(at, true) })
        at += 8
        break
      case 2: {
        const length = Number(varint())
        fields.push({ number, value: bytes.subarray(at, at + length) })
        at += length
        break
      }
      case 5:
        fields.push({ number, value: view.getFloat32(at, true) })
        at += 4
        break
      default:
        throw new Error(`Wire type ${key & 7} is none.`)
    }
  }
  expect(at).toBe(bytes.length)
  return fields
}

function readEvent(bytes: Uint8Array): ReadEvent {
  const text = (value: Field['value']): string => new TextDecoder().decode(value as Uint8Array)
  const event: ReadEvent = { wallTime: 0, step: 0 }
  for (const { number, value } of readFields(bytes)) {
    if (number === 1) event.wallTime = value as number
    else if (number === 2) event.step = Number(value)
    else if (number === 3) event.fileVersion = text(value)
    else if (number === 7) event.sessionStatus = Number(readFields(value as Uint8Array)[0]!.value)
    else if (number === 5) {
      event.scalars = Object.fromEntries(
        readFields(value as Uint8Array).map((entry) => {
          expect(entry.number).toBe(1)
          const [tag, scalar] = readFields(entry.value as Uint8Array)
          expect([tag!.number, scalar!.number]).toEqual([1, 2])
          return [text(tag!.value), scalar!.value as number]
        }),
      )
    } else throw new Error(`Field ${number} of an event is none that is written here.`)
  }
  return event
}
