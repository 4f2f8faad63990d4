// Axes: T frames, Y rows, X columns of pixels, K channels in, O channels out.
/** What `convGeometry` and the extents of every convolution kernel are read from. */
export const convUniforms = {
  /** Pixels of this dispatch's part of the result: its frames (from `first_t` on) of one or all batch items. */
  M: 'u32',
  frames: 'u32',
  first_t: 'u32',
  Yo: 'u32',
  Xo: 'u32',
  O: 'u32',
  T: 'u32',
  Y: 'u32',
  X: 'u32',
  K: 'u32',
  kT: 'u32',
  kY: 'u32',
  kX: 'u32',
  sT: 'u32',
  sY: 'u32',
  sX: 'u32',
  /** Zeros before the first element. */
  pT: 'i32',
  pY: 'i32',
  pX: 'i32',
  upsample: 'u32',
  /** First frame of x that is bound, and where it starts in the binding; where the result starts in its own. */
  first_frame: 'u32',
  x_first: 'u32',
  y_first: 'u32',
} as const

/**
 * `Pixel` is where the window of a result's pixel starts in the (padded, upsampled) input; `element_of` is the element index of
 * channel 0 under a tap, or −1 where the tap lies on padding.
 */
export const convGeometry = /* wgsl */ `
struct Pixel { batch: u32, t: i32, y: i32, x: i32 }
fn pixel_of(m: u32) -> Pixel {
  let x = m % u.Xo;
  let y = (m / u.Xo) % u.Yo;
  let t = u.first_t + (m / (u.Xo * u.Yo)) % u.frames;
  return Pixel(
    m / (u.Xo * u.Yo * u.frames),
    i32(t * u.sT) - u.pT,
    i32(y * u.sY) - u.pY,
    i32(x * u.sX) - u.pX,
  );
}
fn element_of(p: Pixel, kt: u32, ky: u32, kx: u32) -> i32 {
  let t = p.t + i32(kt);
  let y = p.y + i32(ky);
  let x = p.x + i32(kx);
  if (t < 0 || t >= i32(u.T) || y < 0 || y >= i32(u.Y * u.upsample) || x < 0 || x >= i32(u.X * u.upsample)) {
    return -1;
  }
  let frame = p.batch * u.T + u32(t) - u.first_frame;
  let row = frame * u.Y + u32(y) / u.upsample;
  return i32(u.x_first + (row * u.X + u32(x) / u.upsample) * u.K);
}`
