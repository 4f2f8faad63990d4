import { readFile } from 'node:fs/promises'

/** The most memory that this process has had on the host, in GiB. */
export async function hostPeak(): Promise<number> {
  const status = await readFile('/proc/self/status', 'utf8').catch(() => '')
  const peak = /VmHWM:\s+(\d+) kB/.exec(status)
  return peak ? Number(peak[1]) / 2 ** 20 : process.resourceUsage().maxRSS / 2 ** 20
}
