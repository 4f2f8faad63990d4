// AI Toolkit lets a sample prompt carry settings: "a red ball --w 512 --seed 7". It cuts the prompt at the first "--"
// anywhere, so that a plain double dash in prose truncates it; here only a dash pair followed by a letter begins a flag.

const numbers = {
  w: 'width',
  h: 'height',
  d: 'seed',
  seed: 'seed',
  l: 'guidance_scale',
  cfg: 'guidance_scale',
  s: 'sample_steps',
  steps: 'sample_steps',
  m: 'network_multiplier',
  network_multiplier: 'network_multiplier',
  frames: 'num_frames',
  num_frames: 'num_frames',
  fps: 'fps',
} as const

/** Settings that a prompt may carry. */
export interface PromptFlags {
  width?: number
  height?: number
  seed?: number
  guidance_scale?: number
  sample_steps?: number
  network_multiplier?: number
  num_frames?: number
  fps?: number
  neg?: string
  ctrl_img?: string
}

/**
 * Takes the `--flag value` settings out of a sample prompt.
 *
 * @returns the prompt without them, the settings, and the flags that mean nothing here (or whose number is none)
 */
export function splitPromptFlags(text: string): {
  prompt: string
  flags: PromptFlags
  unknown: string[]
} {
  const pieces = text.split(/(?:^|\s+)--(?=[a-z])/i)
  const flags: PromptFlags = {}
  const unknown: string[] = []
  for (const piece of pieces.slice(1)) {
    const [, name = '', value = ''] = /^(\S+)\s*([^]*)$/.exec(piece) ?? []
    const number = Number(value)
    if (name === 'n') flags.neg = value.trim()
    else if (name === 'ctrl_img') flags.ctrl_img = value.trim()
    else if (name in numbers && value.trim() !== '' && Number.isFinite(number)) {
      flags[numbers[name as keyof typeof numbers]] = number
    } else unknown.push(name)
  }
  return { prompt: (pieces[0] ?? '').trimEnd(), flags, unknown }
}
