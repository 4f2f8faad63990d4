// The messages of TensorFlow's event.proto and summary.proto that scalars need, in protobuf's wire format: each field is a varint
// (number << 3 | wire type) and its value; wire types 0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes.
//
//   Event      { double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary = 5; SessionLog session_log = 7 }
//   Summary    { repeated Value value = 1 }
//   Value      { string tag = 1; float simple_value = 2 }
//   SessionLog { SessionStatus status = 1 }   START = 1

/** What an event says. */
export type EventContent =
  | { fileVersion: string }
  | { scalars: Readonly<Record<string, number>> }
  /** A run begins or goes on: readers drop what they know of this step and later ones. */
  | { sessionStart: true }

const utf8 = new TextEncoder()

/** An Event message. */
export function encodeEvent(
  wallTimeSeconds: number,
  step: number,
  content: EventContent,
): Uint8Array {
  const parts = [double(1, wallTimeSeconds)]
  // Proto3 leaves zeros out.
  if (step !== 0) parts.push(varintField(2, step))
  if ('fileVersion' in content) parts.push(bytesField(3, utf8.encode(content.fileVersion)))
  else if ('sessionStart' in content) parts.push(bytesField(7, varintField(1, 1)))
  else {
    const values = Object.entries(content.scalars).map(([tag, value]) =>
      bytesField(1, concat([bytesField(1, utf8.encode(tag)), float(2, value)])),
    )
    parts.push(bytesField(5, concat(values)))
  }
  return concat(parts)
}

function varint(value: number): number[] {
  const bytes: number[] = []
  let rest = BigInt(value)
  while (rest > 0x7fn) {
    bytes.push(Number(rest & 0x7fn) | 0x80)
    rest >>= 7n
  }
  bytes.push(Number(rest))
  return bytes
}

function varintField(field: number, value: number): Uint8Array {
  return Uint8Array.from([...varint(field << 3), ...varint(value)])
}

function bytesField(field: number, bytes: Uint8Array): Uint8Array {
  return concat([Uint8Array.from([...varint((field << 3) | 2), ...varint(bytes.length)]), bytes])
}

function double(field: number, value: number): Uint8Array {
  const bytes = new Uint8Array(9)
  bytes[0] = (field << 3) | 1
  new DataView(bytes.buffer).setFloat64(1, value, true)
  return bytes
}

function float(field: number, value: number): Uint8Array {
  const bytes = new Uint8Array(5)
  bytes[0] = (field << 3) | 5
  new DataView(bytes.buffer).setFloat32(1, value, true)
  return bytes
}

function concat(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    whole.set(part, at)
    at += part.length
  }
  return whole
}
