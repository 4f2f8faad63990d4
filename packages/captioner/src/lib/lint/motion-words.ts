import type { ClipMotion } from '@kinora/config-schema'

/** A motion that words claim. Without a direction, either will do. */
export type MotionClaim =
  | 'static'
  | 'orbit'
  | 'roll'
  | 'pan'
  | 'pan-left'
  | 'pan-right'
  | 'tilt'
  | 'tilt-up'
  | 'tilt-down'
  | 'zoom'
  | 'zoom-in'
  | 'zoom-out'

/** Surer than a coin: below it the measurement is no ground to doubt a caption. */
const minConfidence = 0.5

/** Motion below two hundredths of a picture side a second is not seen. */
const visible = 0.02

/** Share of the strongest part below which a part of the motion is not what a viewer would name. */
const minShare = 0.3

/** Words that are about the camera whatever stands around them. */
const ofCamera: readonly (readonly [RegExp, MotionClaim])[] = [
  [
    /\b(orbit(s|ing|al)?|circl(es|ing) (around|the)|arcs? around|arc shot|360[- ]?degree)\b/,
    'orbit',
  ],
  [/\bpan(s|ning)? (\w+ly )?(to the )?left\b/, 'pan-left'],
  [/\bpan(s|ning)? (\w+ly )?(to the )?right\b/, 'pan-right'],
  [/\b(whip pan|panning|camera (\w+ly )?pans)\b/, 'pan'],
  [/\bzoom(s|ing)? (\w+ly )?in\b|\b(push(es|ing)?|doll(y|ies|ying))[ -]in\b/, 'zoom-in'],
  [
    /\bzoom(s|ing)? (\w+ly )?out\b|\bpull(s|ing)? (back|out)\b|\bdoll(y|ies|ying) (out|back)\b/,
    'zoom-out',
  ],
  [/\b(static|stationary|fixed|locked[- ]off) (camera|shot|view|frame)\b|\btripod\b/, 'static'],
]

/** Words that are about the camera only in a part of the sentence that names it. */
const besideCamera: readonly (readonly [RegExp, MotionClaim])[] = [
  [
    /\b(is|stays|remains|keeps|holds) (\w+ly )?(still|static|stationary|fixed|steady|motionless)\b/,
    'static',
  ],
  [/\b(moves|slides|trucks|tracks|swings|turns|drifts) (\w+ly )?(to the )?left\b/, 'pan-left'],
  [/\b(moves|slides|trucks|tracks|swings|turns|drifts) (\w+ly )?(to the )?right\b/, 'pan-right'],
  [/\b(tilts|cranes|booms|moves|looks) (\w+ly )?up(wards?)?\b|\b(rises|ascends)\b/, 'tilt-up'],
  [
    /\b(tilts|cranes|booms|moves|looks) (\w+ly )?down(wards?)?\b|\b(descends|lowers)\b/,
    'tilt-down',
  ],
  [
    /\b(moves|glides|flies|travels|tracks|closes) (\w+ly )?(in|forwards?|closer)\b|\b(approaches|advances)\b/,
    'zoom-in',
  ],
  [
    /\b(moves|glides|flies|travels|tracks) (\w+ly )?(back|backwards?|away)\b|\b(retreats|recedes)\b/,
    'zoom-out',
  ],
  [/\brolls\b|\brotates (clockwise|counter-?clockwise|anti-?clockwise)\b/, 'roll'],
  [/\b(circles|revolves|rotates|moves|swings) (\w+ly )?around\b/, 'orbit'],
]

const camera = /\b(camera|shot|viewpoint|view|lens|drone)\b/

/** Words of a file name; names have no sentences. */
const ofName: readonly (readonly [RegExp, MotionClaim])[] = [
  [/\borbit(s|ing|al)?\b/, 'orbit'],
  [/\bpan(ning)? left\b/, 'pan-left'],
  [/\bpan(ning)? right\b/, 'pan-right'],
  [/\bpan(ning)?\b/, 'pan'],
  [/\btilt(ing)? up\b/, 'tilt-up'],
  [/\btilt(ing)? down\b/, 'tilt-down'],
  [/\btilt(ing)?\b/, 'tilt'],
  [/\b(zoom(ing)?|push|dolly) in\b/, 'zoom-in'],
  [/\bzoom(ing)? out\b|\bpull (back|out)\b|\bdolly out\b/, 'zoom-out'],
  [/\bzoom(ing)?\b/, 'zoom'],
  [/\bstatic\b/, 'static'],
]

/** What a caption says of the camera. A negated word (`no panning`, `without zooming`) claims nothing. */
export function captionClaims(caption: string): MotionClaim[] {
  const claims = new Set<MotionClaim>()
  // "and" does not end the part: "the camera pans right and tilts up" is all about the camera.
  for (const part of caption.toLowerCase().split(/[.;:!?]|,? while |,? as /)) {
    collect(part, ofCamera, claims)
    if (camera.test(part)) collect(part, besideCamera, claims)
  }
  return generalise(claims)
}

/** What a file name says of the camera; nothing where it names several motions, as footage of many shots does. */
export function nameClaims(name: string): MotionClaim[] {
  const claims = new Set<MotionClaim>()
  collect(name.toLowerCase().replace(/[^a-z]+/g, ' '), ofName, claims)
  const general = generalise(claims)
  return general.length === 1 ? general : []
}

function collect(
  text: string,
  words: readonly (readonly [RegExp, MotionClaim])[],
  claims: Set<MotionClaim>,
): void {
  for (const [pattern, claim] of words) {
    const found = pattern.exec(text)
    if (found && !/\b(no|not|without|never|any) (\w+ )?$/.test(text.slice(0, found.index))) {
      claims.add(claim)
    }
  }
}

/** `pan` beside `pan-left` says nothing more. */
function generalise(claims: ReadonlySet<MotionClaim>): MotionClaim[] {
  return [...claims].filter(
    (claim) => ![...claims].some((other) => other !== claim && other.startsWith(`${claim}-`)),
  )
}

/** Whether a claim disagrees with what was measured: why, in a few words, or undefined. */
export function contradiction(claim: MotionClaim, motion: ClipMotion): string | undefined {
  if (motion.confidence < minConfidence) return undefined
  const { camera: measured, panPerSecond, tiltPerSecond, zoomPerSecond, rollPerSecond } = motion
  // Of the edge of the picture, which zooming by half its rate and rolling by half its angle moves.
  const part = {
    pan: panPerSecond,
    tilt: tiltPerSecond,
    zoom: zoomPerSecond / 2,
    roll: (rollPerSecond * Math.PI) / 360,
  }
  const strongest = Math.max(...Object.values(part).map(Math.abs))
  const enough = Math.max(visible, minShare * strongest)
  const missing = (speed: number, what: string) =>
    Math.abs(speed) < enough ? `nothing ${what}` : undefined
  const directed = (speed: number, what: string, opposite: string) =>
    speed >= enough ? undefined : speed <= -enough ? `it ${opposite}` : `nothing ${what}`
  switch (claim) {
    case 'static':
      return measured === 'static' || measured === 'subject' ? undefined : 'the camera moves'
    case 'orbit':
      // An orbit seen from afar, or with another motion in it, still shows parallax.
      return measured === 'orbit' || (measured === 'mixed' && motion.parallax >= 0.2)
        ? undefined
        : 'nothing turns'
    case 'roll':
      return missing(part.roll, 'rolls')
    case 'pan':
      return measured === 'orbit' ? undefined : missing(part.pan, 'pans')
    case 'pan-left':
      return measured === 'orbit' ? undefined : directed(-part.pan, 'pans left', 'pans right')
    case 'pan-right':
      return measured === 'orbit' ? undefined : directed(part.pan, 'pans right', 'pans left')
    case 'tilt':
      return missing(part.tilt, 'tilts')
    case 'tilt-up':
      return directed(part.tilt, 'moves up', 'moves down')
    case 'tilt-down':
      return directed(-part.tilt, 'moves down', 'moves up')
    case 'zoom':
      return missing(part.zoom, 'moves in or out')
    case 'zoom-in':
      return directed(part.zoom, 'moves in', 'moves out')
    case 'zoom-out':
      return directed(-part.zoom, 'moves out', 'moves in')
    default:
      return claim satisfies never
  }
}
