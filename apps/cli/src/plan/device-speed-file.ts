import { mkdir, readFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'
import type { Device } from '@kinora/kernel-api'
import { writeFileAtomic, type StageEvent } from '@kinora/stage'
import {
  deviceSpeedSchema,
  knownSpeed,
  measureSpeed,
  speedKey,
  type DeviceSpeed,
} from '@kinora/trainer-core'
import { z } from 'zod'

const speedsSchema = z.record(z.string(), deviceSpeedSchema)

/** Where measured speeds are kept, by adapter and driver. */
function speedFile(): string {
  const home = homedir()
  const caches =
    process.env['XDG_CACHE_HOME'] ??
    (process.platform === 'win32'
      ? (process.env['LOCALAPPDATA'] ?? join(home, 'AppData', 'Local'))
      : join(home, '.cache'))
  return join(caches, 'kinora', 'device-speed.json')
}

/** Speed of a device as far as it is known without measuring: from the log of known adapters, or from an earlier measurement. */
export async function rememberedSpeed(
  { info }: Device,
  compute: 'f32' | 'f16',
): Promise<DeviceSpeed | undefined> {
  return knownSpeed(info.adapter) ?? (await readSpeeds())[speedKey(info, compute)]
}

/** Speed of a device, measured in about two seconds where it is not known. */
export async function* findSpeedIter(
  device: Device,
  compute: 'f32' | 'f16',
): AsyncGenerator<StageEvent, DeviceSpeed> {
  const remembered = await rememberedSpeed(device, compute)
  if (remembered) return remembered
  yield {
    type: 'note',
    message: `Measuring how fast ${device.info.adapter} is; it is kept for the next time.`,
  }
  const speed = await measureSpeed(device, compute)
  const file = speedFile()
  try {
    await mkdir(dirname(file), { recursive: true })
    const speeds = { ...(await readSpeeds()), [speedKey(device.info, compute)]: speed }
    await writeFileAtomic(file, `${JSON.stringify(speeds, null, 2)}\n`)
  } catch {
    // A cache that cannot be written costs two seconds next time.
  }
  return speed
}

async function readSpeeds(): Promise<Record<string, DeviceSpeed>> {
  try {
    return speedsSchema.parse(JSON.parse(await readFile(speedFile(), 'utf8')))
  } catch {
    return {}
  }
}
