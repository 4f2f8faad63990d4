/**
 * Records of numbers under way, one column a field: two hours of footage are a quarter of a million of them, and as objects
 * they would take six times the memory while ffmpeg takes its own.
 */
export interface NumberColumns<Row> {
  readonly length: number
  push(row: Row): void
  /** Changes one value of a record. */
  set(index: number, field: keyof Row, value: number): void
  get(index: number, field: keyof Row): number
  /** The column as a list, each value rounded to its digits. */
  list(field: keyof Row): number[]
  /** All records as objects. */
  rows(): Row[]
}

const firstRoom = 1024

/** @param digits the fields, and how many decimal places of each are kept */
export function createNumberColumns<Row extends { [Field in keyof Row]: number }>(
  digits: Record<keyof Row, number>,
): NumberColumns<Row> {
  const fields = Object.keys(digits) as (keyof Row)[]
  // Times need more than the seven digits of a float: microseconds of hours.
  let columns = Object.fromEntries(
    fields.map((field) => [
      field,
      digits[field] > 5 ? new Float64Array(firstRoom) : new Float32Array(firstRoom),
    ]),
  ) as Record<keyof Row, Float32Array | Float64Array>
  let room = firstRoom
  let length = 0
  const valueOf = (field: keyof Row, index: number): number => {
    const scale = 10 ** digits[field]
    // Adding 0 makes −0, which JSON does not keep, a 0.
    return Math.round(columns[field][index]! * scale) / scale + 0
  }
  return {
    get length() {
      return length
    },
    push(row) {
      if (length === room) {
        room = Math.ceil(room * 1.5)
        for (const field of fields) {
          const column = columns[field]
          const larger =
            column instanceof Float64Array ? new Float64Array(room) : new Float32Array(room)
          larger.set(column)
          columns[field] = larger
        }
      }
      for (const field of fields) columns[field][length] = row[field]
      length++
    },
    set(index, field, value) {
      columns[field][index] = value
    },
    get: (index, field) => columns[field][index]!,
    list: (field) => Array.from({ length }, (_, index) => valueOf(field, index)),
    rows: () =>
      Array.from({ length }, (_, index) => {
        const row = {} as Record<keyof Row, number>
        for (const field of fields) row[field] = valueOf(field, index)
        return row as Row
      }),
  }
}
