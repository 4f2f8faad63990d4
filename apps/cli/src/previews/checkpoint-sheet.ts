import { join } from 'node:path'
import { writeImage, type RgbImage } from '@kinora/media'
import type { RunContext } from '@kinora/stage'
import sharp from 'sharp'
import { contactSheet, type SheetRow } from '../demo/contact-sheet.ts'
import { listPreviews, readPreview, type PreviewFile } from './preview-files.ts'

/** Frames of a preview that a row shows, and rows of a sheet. */
const framesPerRow = 5
const maxRows = 24
/** Longest side of a frame on the sheet, in pixels. */
const cellSide = 160

/**
 * One picture a prompt: its previews below one another, checkpoint by checkpoint. Since prompts keep their seed, what changes from
 * row to row is what was learned.
 *
 * @returns the files written, `sheet_0.png` and so on
 */
export async function writeCheckpointSheets(
  folder: string,
  { signal }: RunContext = {},
): Promise<string[]> {
  const byPrompt = new Map<number, PreviewFile[]>()
  for (const preview of await listPreviews(folder)) {
    byPrompt.set(preview.index, [...(byPrompt.get(preview.index) ?? []), preview])
  }
  const written: string[] = []
  for (const [index, previews] of byPrompt) {
    signal?.throwIfAborted()
    const rows: SheetRow[] = []
    for (const { step, path } of chooseRows(previews)) {
      const frames = await Promise.all(
        chooseFrames(await readPreview(path, { signal })).map(shrink),
      )
      const [first] = rows[0]?.frames ?? []
      // A job whose preview size was changed on the way: only what is alike can be laid side by side.
      if (first && (first.width !== frames[0]?.width || first.height !== frames[0].height)) continue
      rows.push({ label: step === 0 ? 'before' : `step ${step}`, frames })
    }
    const [first] = rows[0]?.frames ?? []
    if (!first) continue
    const scale = Math.max(1, Math.floor(cellSide / Math.max(first.width, first.height)))
    const sheet = contactSheet([{ title: `prompt ${index + 1}`, rows }], {
      columns: 1,
      framesPerRow: Math.min(framesPerRow, Math.max(...rows.map(({ frames }) => frames.length))),
      scale,
    })
    const file = join(folder, `sheet_${index}.png`)
    await writeImage(file, sheet)
    written.push(file)
  }
  return written
}

/** The first and the newest ones where there are too many for a picture. */
function chooseRows(previews: readonly PreviewFile[]): readonly PreviewFile[] {
  return previews.length <= maxRows
    ? previews
    : [previews[0]!, ...previews.slice(previews.length - maxRows + 1)]
}

function chooseFrames(frames: readonly RgbImage[]): RgbImage[] {
  const count = Math.min(framesPerRow, frames.length)
  return Array.from(
    { length: count },
    (_, i) => frames[Math.round((i * (frames.length - 1)) / Math.max(1, count - 1))]!,
  )
}

async function shrink(frame: RgbImage): Promise<RgbImage> {
  const { width, height, data } = frame
  const scale = cellSide / Math.max(width, height)
  if (scale >= 1) return frame
  const size = {
    width: Math.max(1, Math.round(width * scale)),
    height: Math.max(1, Math.round(height * scale)),
  }
  const shrunk = await sharp(data, { raw: { width, height, channels: 3 } })
    .resize({ ...size, fit: 'fill' })
    .raw()
    .toBuffer()
  return { ...size, data: shrunk }
}
