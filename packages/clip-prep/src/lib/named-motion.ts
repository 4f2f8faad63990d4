import type { ClipMotion } from '@kinora/config-schema'

/** Words that file and folder names use for camera motions, and the measured classes that agree with them. */
const namedMotions: readonly [RegExp, readonly ClipMotion['camera'][]][] = [
  [/\b(?:orbit(?:s|ing)?|arc|360)\b/, ['orbit']],
  [/\bpan(?:s|ning)?[ _-]?left\b/, ['pan-left']],
  [/\bpan(?:s|ning)?[ _-]?right\b/, ['pan-right']],
  [/\bpan(?:s|ning)?\b/, ['pan-left', 'pan-right', 'orbit']],
  [/\btilt(?:s|ing)?[ _-]?up\b/, ['tilt-up']],
  [/\btilt(?:s|ing)?[ _-]?down\b/, ['tilt-down']],
  [/\btilt(?:s|ing)?\b/, ['tilt-up', 'tilt-down']],
  [/\b(?:zoom|dolly|push|fly)(?:s|ing)?[ _-]?in\b/, ['zoom-in']],
  [/\b(?:zoom|dolly|pull)(?:s|ing)?[ _-]?(?:out|back)\b/, ['zoom-out']],
  [/\broll(?:s|ing)?\b/, ['roll', 'orbit']],
  [/\b(?:locked|tripod)\b/, ['static', 'subject']],
]

/** What the picture does in each class, as the end of "but …". */
const seen: Record<ClipMotion['camera'], string> = {
  static: 'nothing moves',
  subject: 'the camera stands and only the subject moves',
  'pan-left': 'the camera goes left',
  'pan-right': 'the camera goes right',
  'tilt-up': 'the camera goes up',
  'tilt-down': 'the camera goes down',
  'zoom-in': 'the camera goes in',
  'zoom-out': 'the camera goes out',
  roll: 'the camera rolls',
  orbit: 'the camera goes around',
  mixed: 'the camera does several things',
}

/**
 * Where footage is called after a camera motion that was not measured: a sentence about it. Several motions at once disagree
 * with no name, for each of them may be the one that was meant.
 */
export function nameMismatch(
  file: string,
  { camera }: Pick<ClipMotion, 'camera'>,
): string | undefined {
  const words = file.toLowerCase().replace(/[_./]+/g, ' ')
  const spoken = words.replace(/-/g, ' ')
  for (const [name, agreeing] of namedMotions) {
    const found = name.exec(spoken) ?? name.exec(words)
    if (!found) continue
    if (camera === 'mixed' || agreeing.includes(camera)) return undefined
    const but = agreeing[0] === 'orbit' && camera !== 'roll' ? 'nothing turns: ' : ''
    return `It is called “${found[0]}”, but ${but}${seen[camera]}.`
  }
  return undefined
}
