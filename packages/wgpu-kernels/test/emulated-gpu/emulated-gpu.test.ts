import { expect, it } from 'vitest'

import { compileWgsl } from './wgsl-compiler.ts'
import { dispatchWgsl } from './wgsl-machine.ts'

/** Runs one workgroup of 64 on an output of 64 numbers. */
function run(body: string): Float32Array {
  const shader = compileWgsl(`
struct Uniforms { n: u32, shift: i32, scale: f32 }
@group(0) @binding(0) var<storage, read_write> y: array<f32>;
@group(0) @binding(1) var<uniform> u: Uniforms;
var<workgroup> shared_values: array<f32, 64>;
@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) local: u32) { ${body} }`)
  const y = new Float32Array(64)
  const uniforms = new DataView(new ArrayBuffer(16))
  uniforms.setUint32(0, 64, true)
  uniforms.setInt32(4, -3, true)
  uniforms.setFloat32(8, 0.5, true)
  dispatchWgsl(shader, [new Uint8Array(y.buffer), new Uint8Array(uniforms.buffer)], [1, 1])
  return y
}

it('computes as WGSL does: integers wrap, f32 rounds, f16 has eleven bits', () => {
  const y = run(`
  var sum = 0.0;
  for (var i = 0u; i < u.n; i++) { if (i == 3u) { continue; } sum += f32(i); }
  let wrapped = 3u - local;
  let signed = i32(local) * u.shift;
  let pair = unpack2x16float(pack2x16float(vec2<f32>(2049.0, 1.0 / 3.0)));
  y[local] = select(sum, f32(wrapped >> 28u) + f32(signed) + pair.x * u.scale, local > 3u);`)
  expect(y[0]).toBe((63 * 64) / 2 - 3)
  expect(y[4]).toBe(15 - 12 + 1024)
})

it('finds a race, and no race behind a barrier', () => {
  const text = (barrier: string): string => `
  shared_values[local] = f32(local);
  ${barrier}
  y[local] = shared_values[63u - local];`
  expect(run(text('workgroupBarrier();'))[0]).toBe(63)
  expect(() => run(text(''))).toThrow(/race on shared_values/)
})

it('finds barriers that not all reach, and accesses out of bounds', () => {
  expect(() => run('if (local < 32u) { workgroupBarrier(); }')).toThrow(/different barriers/)
  expect(() => run('if (local < 3u) { workgroupBarrier(); }')).toThrow(/diverge|apart/)
  expect(() => run('y[local + 1u] = 0.0;')).toThrow(/out of bounds: y\[64\]/)
})

it('refuses what it does not know', () => {
  expect(() => run('y[local] = frexp(1.0).fract;')).toThrow(/unknown function frexp/)
  expect(() => run('let x: u32 = 1.5f;')).toThrow(/cannot assign/)
})
