import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { openSafetensors, type SafetensorsFile } from '@kinora/safetensors'

/** Folder of the reference tensors: `KINORA_GOLDEN`, or the repository's own. */
export const goldenFolder =
  process.env['KINORA_GOLDEN'] ??
  fileURLToPath(new URL('../../../../tooling/golden', import.meta.url))

/** Names of the golden files that begin so, without extension. */
export function listGolden(prefix: string): string[] {
  if (!existsSync(goldenFolder)) throw new Error(`There is no folder ${goldenFolder}.`)
  const names = readdirSync(goldenFolder)
    .filter((file) => file.startsWith(prefix) && file.endsWith('.safetensors'))
    .map((file) => file.slice(0, -'.safetensors'.length))
  if (names.length === 0) throw new Error(`${goldenFolder} has no ${prefix}*.safetensors.`)
  return names.sort()
}

export function openGolden(name: string): Promise<SafetensorsFile> {
  return openSafetensors(join(goldenFolder, `${name}.safetensors`))
}

/** |found − expected| / |expected|, L2. */
export function relativeError(found: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (found.length !== expected.length) {
    throw new Error(`There are ${found.length} numbers where ${expected.length} are expected.`)
  }
  let difference = 0
  let magnitude = 0
  for (let i = 0; i < expected.length; i++) {
    difference += (found[i]! - expected[i]!) ** 2
    magnitude += expected[i]! ** 2
  }
  return Math.sqrt(difference / Math.max(magnitude, 1e-60))
}

/** One line a figure, beside its bar. */
export function printFigure(what: string, figure: number, bar: number): void {
  process.stdout.write(
    `${figure <= bar ? 'ok  ' : 'FAIL'} ${what}: ${figure.toExponential(2)} (bar ${bar.toExponential(0)})\n`,
  )
}
