import { basename } from 'node:path'
import { writeImage } from '@kinora/media'
import type { StageEvent } from '@kinora/stage'
import { contactSheet, type SheetBlock } from './contact-sheet.ts'
import type { DemoSettings } from './demo-job.ts'
import { readClip, type EvaluationClip, type PreviewResult } from './previews.ts'

interface SheetWork {
  settings: DemoSettings
  evaluation: readonly EvaluationClip[]
  before: PreviewResult
  after: PreviewResult
}

/** One picture of the held-out clips: as they truly go on, as the base model has them, and as the LoRAs do. */
export async function* writeContactSheet(
  file: string,
  { settings: { size }, evaluation, before, after }: SheetWork,
): AsyncGenerator<StageEvent, void> {
  const blocks: SheetBlock[] = []
  for (const [index, { image, truth }] of evaluation.entries()) {
    const row = async (label: string, { clips }: PreviewResult) => ({
      label: `${label} ${clips[index]!.psnr.toFixed(1)} db`,
      frames: await readClip(clips[index]!.file, size),
    })
    blocks.push({
      title: `clip ${basename(image, '.png')}`,
      rows: [
        { label: 'ground truth', frames: await readClip(truth, size) },
        await row('before', before),
        await row('after', after),
      ],
    })
  }
  const scale = Math.max(1, Math.round(112 / size))
  await writeImage(file, contactSheet(blocks, { columns: 2, framesPerRow: 5, scale }))
  yield { type: 'note', message: `The contact sheet is ${file}.` }
}
