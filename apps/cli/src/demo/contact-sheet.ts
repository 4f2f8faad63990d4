import type { RgbImage } from '@kinora/media'
import { drawText, glyphHeight } from './bitmap-font.ts'

/** One labelled row of frames. */
export interface SheetRow {
  label: string
  frames: readonly RgbImage[]
}

/** Rows that belong together, such as one clip as it is, before and after. */
export interface SheetBlock {
  title: string
  rows: readonly SheetRow[]
}

export interface SheetLayout {
  /** Blocks side by side. */
  columns: number
  /** Frames of a row, spread evenly from the first to the last. */
  framesPerRow: number
  /** Whole pixels a pixel of a frame becomes. */
  scale: number
}

const gap = 4
const margin = 16
const titleHeight = 26
const labelWidth = 172
const textScale = 2
const background = [24, 24, 27] as const
const ink = [228, 228, 231] as const

/** Lays out blocks of frames as one picture; all frames are of one size. */
export function contactSheet(
  blocks: readonly SheetBlock[],
  { columns, framesPerRow, scale }: SheetLayout,
): RgbImage {
  const first = blocks[0]?.rows[0]?.frames[0]
  if (!first) throw new RangeError('A contact sheet needs at least one frame.')
  const cellWidth = first.width * scale
  const cellHeight = first.height * scale
  const numRows = Math.max(...blocks.map(({ rows }) => rows.length))
  const blockWidth = labelWidth + framesPerRow * (cellWidth + gap)
  const blockHeight = titleHeight + numRows * (cellHeight + gap)
  const width = margin + columns * (blockWidth + margin)
  const height = margin + Math.ceil(blocks.length / columns) * (blockHeight + margin)
  const data = new Uint8Array(width * height * 3)
  for (let i = 0; i < data.length; i++) data[i] = background[i % 3]!

  const write = (text: string, left: number, top: number): void =>
    drawText(text, textScale, (x, y) => data.set(ink, ((top + y) * width + left + x) * 3))

  for (const [blockIndex, { title, rows }] of blocks.entries()) {
    const left = margin + (blockIndex % columns) * (blockWidth + margin)
    const top = margin + Math.floor(blockIndex / columns) * (blockHeight + margin)
    write(title, left, top)
    for (const [rowIndex, { label, frames }] of rows.entries()) {
      const rowTop = top + titleHeight + rowIndex * (cellHeight + gap)
      write(label, left, rowTop + Math.floor((cellHeight - glyphHeight * textScale) / 2))
      for (let column = 0; column < framesPerRow; column++) {
        const index = Math.round((column * (frames.length - 1)) / Math.max(1, framesPerRow - 1))
        const cellLeft = left + labelWidth + column * (cellWidth + gap)
        paste({ data, width }, frames[index]!, cellLeft, rowTop, scale)
      }
    }
  }
  return { width, height, data }
}

function paste(
  sheet: { data: Uint8Array; width: number },
  frame: RgbImage,
  left: number,
  top: number,
  scale: number,
): void {
  for (let y = 0; y < frame.height * scale; y++) {
    for (let x = 0; x < frame.width * scale; x++) {
      const from = (Math.floor(y / scale) * frame.width + Math.floor(x / scale)) * 3
      const to = ((top + y) * sheet.width + left + x) * 3
      sheet.data.set(frame.data.subarray(from, from + 3), to)
    }
  }
}
