// A small world to point a camera at, drawn by casting a ray for each pixel: a textured floor, a round wall far behind, and
// columns on the floor. Flow and motion classes are tested against cameras whose motion is known because we move them.

type Vector = readonly [number, number, number]

/** Where a camera is and where it looks: y is up, the floor is y = 0. Angles in radians. */
export interface Camera {
  eye: Vector
  target: Vector
  /** Turn about the optical axis, clockwise as the camera sees itself turn. */
  roll?: number
  /** Horizontal field of view. Default: 60°. */
  fieldOfView?: number
}

export interface Column {
  x: number
  z: number
  radius: number
  height: number
  seed: number
}

/** Columns around the origin, near and far. */
export const columns: readonly Column[] = [
  { x: 0, z: 0, radius: 0.5, height: 2, seed: 1 },
  { x: 2.2, z: 1.5, radius: 0.3, height: 1.4, seed: 2 },
  { x: -1.8, z: 2, radius: 0.35, height: 1.6, seed: 3 },
  { x: -2.6, z: -2.2, radius: 0.5, height: 2.4, seed: 4 },
  { x: 2.8, z: -2.5, radius: 0.4, height: 1.8, seed: 5 },
]

/** Draws what the camera sees as 8-bit gray, 16 to 235. */
export function renderScene(
  camera: Camera,
  width: number,
  height: number,
  objects: readonly Column[] = columns,
): Uint8Array {
  const { eye, target, roll = 0, fieldOfView = Math.PI / 3 } = camera
  const forward = normalise(subtract(target, eye))
  const level = normalise(cross(forward, [0, 1, 0]))
  const upright = cross(level, forward)
  const cos = Math.cos(roll)
  const sin = Math.sin(roll)
  const right = add(scale(level, cos), scale(upright, -sin))
  const up = add(scale(upright, cos), scale(level, sin))
  const focal = width / 2 / Math.tan(fieldOfView / 2)
  const picture = new Uint8Array(width * height)
  // 2 × 2 rays a pixel: a camera averages too.
  const offsets = [0.25, 0.75]
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      let sum = 0
      for (const oy of offsets) {
        for (const ox of offsets) {
          const dx = (x + ox - width / 2) / focal
          const dy = (height / 2 - y - oy) / focal
          const ray = normalise(add(forward, add(scale(right, dx), scale(up, dy))))
          sum += shade(eye, ray, objects)
        }
      }
      picture[y * width + x] = 16 + (219 * sum) / 4
    }
  }
  return picture
}

function shade(eye: Vector, ray: Vector, objects: readonly Column[]): number {
  let nearest = Infinity
  let value = 0.5
  for (const { x, z, radius, height, seed } of objects) {
    const ox = eye[0] - x
    const oz = eye[2] - z
    const a = ray[0] * ray[0] + ray[2] * ray[2]
    const b = ox * ray[0] + oz * ray[2]
    const c = ox * ox + oz * oz - radius * radius
    const root = b * b - a * c
    if (root < 0) continue
    const t = (-b - Math.sqrt(root)) / a
    if (!(t > 0.01 && t < nearest)) continue
    const y = eye[1] + t * ray[1]
    if (y < 0 || y > height) continue
    nearest = t
    const angle = Math.atan2(oz + t * ray[2], ox + t * ray[0])
    value = texture((angle * radius) / 0.12, y / 0.12, seed)
  }
  if (ray[1] < 0) {
    const t = -eye[1] / ray[1]
    if (t < nearest && t < 40) {
      nearest = t
      value = texture((eye[0] + t * ray[0]) / 0.4, (eye[2] + t * ray[2]) / 0.4, 10)
    }
  }
  if (nearest === Infinity) {
    // The wall: a cylinder of radius 14 around the origin.
    const a = ray[0] * ray[0] + ray[2] * ray[2]
    const b = eye[0] * ray[0] + eye[2] * ray[2]
    const c = eye[0] * eye[0] + eye[2] * eye[2] - 14 * 14
    const t = (-b + Math.sqrt(Math.max(0, b * b - a * c))) / a
    const angle = Math.atan2(eye[2] + t * ray[2], eye[0] + t * ray[0])
    value = texture((angle * 14) / 0.7, (eye[1] + t * ray[1]) / 0.7, 20)
  }
  return value
}

/** Value noise of two octaves, 0 to 1, smooth between lattice points. */
function texture(u: number, v: number, seed: number): number {
  return 0.65 * valueNoise(u, v, seed) + 0.35 * valueNoise(u * 2.7, v * 2.7, seed + 100)
}

function valueNoise(u: number, v: number, seed: number): number {
  const x = Math.floor(u)
  const y = Math.floor(v)
  const fx = smooth(u - x)
  const fy = smooth(v - y)
  const top = lattice(x, y, seed) * (1 - fx) + lattice(x + 1, y, seed) * fx
  const bottom = lattice(x, y + 1, seed) * (1 - fx) + lattice(x + 1, y + 1, seed) * fx
  return top * (1 - fy) + bottom * fy
}

function smooth(t: number): number {
  return t * t * (3 - 2 * t)
}

function lattice(x: number, y: number, seed: number): number {
  let h = Math.imul(x, 374761393) ^ Math.imul(y, 668265263) ^ Math.imul(seed, 1442695041)
  h = Math.imul(h ^ (h >>> 13), 1274126177)
  return ((h ^ (h >>> 16)) >>> 0) / 2 ** 32
}

function add(a: Vector, b: Vector): Vector {
  return [a[0] + b[0], a[1] + b[1], a[2] + b[2]]
}

function subtract(a: Vector, b: Vector): Vector {
  return [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

function scale(a: Vector, by: number): Vector {
  return [a[0] * by, a[1] * by, a[2] * by]
}

function cross(a: Vector, b: Vector): Vector {
  return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

function normalise(a: Vector): Vector {
  return scale(a, 1 / Math.hypot(...a))
}
