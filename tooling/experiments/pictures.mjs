// The pictures of docs/experiments.md: held-out clips frame by frame, with and without.

import { contactSheet } from '../../apps/cli/dist/demo/contact-sheet.js'

const layout = { columns: 2, framesPerRow: 5, scale: 1 }

/** Pictures by name. */
export function drawPictures({ sets, truth }) {
  const sheet = (rowsOf, clips) =>
    contactSheet(
      clips.map((clip) => ({
        title: `clip ${clip + 1}`,
        rows: Object.entries(rowsOf).map(([label, list]) => ({ label, frames: list[clip] })),
      })),
      layout,
    )
  return {
    motion: sheet(
      { 'true clip': truth.crane.clips, 'base model': sets['base crane'], lora: sets.motion },
      [2, 3],
    ),
    style: sheet(
      {
        'true clip': truth.poster.clips,
        'through vae': truth.poster.throughVae,
        'base model': sets['base style'],
        lora: sets.style,
      },
      [1, 3],
    ),
    character: sheet(
      {
        'true clip': truth.character.clips,
        'base model': sets['base character'],
        lora: sets.character,
      },
      [1, 5],
    ),
    dop: sheet(
      {
        'base model': sets['base static'],
        'dop off': sets['motion static'],
        'dop on': sets['dop static'],
      },
      [2, 3],
    ),
    'four-bit': sheet(
      {
        'true clip': truth.crane.clips,
        '16 bits': sets.motion,
        '4 bits': sets['four-bit packed'],
        '4 used on 16': sets['four-bit'],
      },
      [2, 3],
    ),
  }
}
