import { reads, writes, type BindingDecl, type KernelText } from '../../program/define-kernel.ts'

export function spliceBindings(): Record<string, BindingDecl> {
  return { source: reads('u32'), dest: writes('u32') }
}

/** One invocation a word of the dest; words at the ends keep the half outside the range. */
export function spliceText(): KernelText {
  return {
    declarations: /* wgsl */ `
fn half_of(word: u32, index: u32) -> u32 { return (word >> (16u * (index & 1u))) & 0xffffu; }`,
    main: /* wgsl */ `
  let word = u.first / 2u + group * 64u + local;
  if (word > (u.first + u.count - 1u) / 2u) { return; }
  let old = dest[word];
  var halves = vec2<u32>(half_of(old, 0u), half_of(old, 1u));
  for (var h = 0u; h < 2u; h++) {
    let index = 2u * word + h;
    if (index >= u.first && index < u.first + u.count) {
      let at = index - u.first;
      halves[h] = half_of(source[at / 2u], at);
    }
  }
  dest[word] = halves.x | (halves.y << 16u);`,
  }
}
