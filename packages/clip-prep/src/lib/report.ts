import type { ClipRecord, DatasetManifest, DroppedRecord } from '@kinora/config-schema'
import { writeFileAtomic } from '@kinora/stage'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { clipFlags, dropReasons, type ClipFlag, type DropReason } from './clip-flags.ts'
import { nameMismatch } from './named-motion.ts'
import type { StoredClip } from './work-state.ts'

/** What the report needs of a clip. */
export type ReportedClip = Pick<StoredClip, 'record' | 'shotCurve'>

/** Writes report.html: see `drawReport`. Left alone when it shows this manifest already. */
export async function writeReport(
  out: string,
  manifest: DatasetManifest,
  clips: readonly ReportedClip[],
): Promise<void> {
  const file = join(out, 'report.html')
  const text = drawReport(manifest, clips)
  const before = await readFile(file, 'utf8').catch(() => undefined)
  if (before !== text) await writeFileAtomic(file, text)
}

/**
 * One page that opens from the disk, without a network: totals, what to fix, every clip with its contact strip and the motion
 * curve of its shot with the trim drawn in, and everything that was left out. Strips and clips are linked beside it.
 */
export function drawReport(manifest: DatasetManifest, clips: readonly ReportedClip[]): string {
  const { header, dropped } = manifest
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escape(String(header.source))}: clips</title>
<style>${style}</style>
</head>
<body>
<header>
<h1>${escape(String(header.source))}</h1>
<p>${escape(header.tool)}</p>
</header>
${drawTotals(manifest)}
${drawFixes(clips, dropped)}
<section>
<h2>Clips</h2>
${clips.length === 0 ? '<p>None. Below is what was left out, and why.</p>' : ''}
${clips.map(drawClip).join('\n')}
</section>
${drawDropped(dropped)}
${drawOptions(header.options)}
</body>
</html>
`
}

// --- Totals ---------------------------------------------------------------------------------------------------------

function drawTotals({ clips, dropped }: DatasetManifest): string {
  const seconds = clips.reduce((sum, { duration }) => sum + duration, 0)
  const kept = clips.reduce((sum, { source }) => sum + source.end - source.start, 0)
  const cameras = countBy(clips, ({ motion }) => motion?.camera ?? 'not measured')
  const rows = [
    row('kept', clips.length, kept),
    ...groupBy(dropped, ({ reason }) => reason).map(([reason, records]) =>
      row(
        `${reason}${meaningOf(reason)}`,
        records.length,
        records.reduce((sum, { start = 0, end = 0 }) => sum + end - start, 0),
      ),
    ),
  ]
  return `<section class="totals">
<p class="big"><b>${clips.length}</b> clips, <b>${clock(seconds)}</b> of training footage</p>
<p>${cameras.map(([camera, count]) => `${count}&thinsp;×&thinsp;${escape(camera)}`).join(' · ')}</p>
<details><summary>Where the footage went</summary>
<table><tr><th>part<th>pieces<th>seconds</tr>
${rows.join('\n')}
</table></details>
</section>`

  function row(name: string, count: number, length: number): string {
    return `<tr><td>${escape(name)}<td class="n">${count}<td class="n">${length > 0 ? length.toFixed(1) : ''}</tr>`
  }
}

function meaningOf(reason: string): string {
  if (reason in dropReasons) return `: ${dropReasons[reason as keyof typeof dropReasons]}`
  if (reason in clipFlags) return `: left out by --drop ${reason}`
  return ''
}

// --- What to fix ----------------------------------------------------------------------------------------------------

/** Reasons that are of a whole file: something to mend. The others are what cutting footage leaves. */
const fileReasons = new Set<DropReason>([
  'image',
  'animation',
  'audio-only',
  'empty',
  'unreadable',
  'truncated',
  'decode-failed',
  'hdr-unsupported',
  'same-bytes',
])

function drawFixes(clips: readonly ReportedClip[], dropped: readonly DroppedRecord[]): string {
  const flagged = groupBy(
    clips.flatMap(({ record }) => record.flags.map((flag) => ({ flag, record }))),
    ({ flag }) => flag,
  )
  const files = dropped.filter(({ reason }) => fileReasons.has(reason as DropReason))
  if (flagged.length === 0 && files.length === 0)
    return '<section><h2>What to fix</h2><p>Nothing was found.</p></section>'
  const flags = flagged.map(([flag, found]) => {
    const { meaning, fix } = clipFlags[flag as ClipFlag] ?? { meaning: '', fix: '' }
    const links = found.map(({ record }) => `<a href="#${record.id}">${escape(nameOf(record))}</a>`)
    return `<li><b class="flag">${escape(flag)}</b> ${found.length} ${found.length === 1 ? 'clip' : 'clips'}. ${escape(meaning)} <i>${escape(fix)}</i>
<details><summary>which</summary>${links.join(' ')}</details>`
  })
  const refused = files.map(
    ({ file, reason, detail }) =>
      `<li><b class="flag bad">${escape(reason)}</b> ${escape(file)}${detail ? `: ${escape(detail)}` : ''}`,
  )
  return `<section><h2>What to fix</h2><ul class="fixes">
${[...flags, ...refused].join('\n')}
</ul></section>`
}

// --- A clip ---------------------------------------------------------------------------------------------------------

function nameOf({ file }: ClipRecord): string {
  return file.replace(/^clips\//, '').replace(/\.mp4$/, '')
}

/** The name that --untrim and --range take: that of the shot, also where the clip is a part of it. */
function shotNameOf(record: ClipRecord): string {
  const number = new RegExp(`(_0*${record.source.shot.index + 1})-\\d+$`)
  return nameOf(record).replace(number, '$1')
}

function drawClip({ record, shotCurve }: ReportedClip): string {
  const { source, trim, motion, flags, scores } = record
  const strip = record.strip
    ? `<a href="${link(record.file)}"><img loading="lazy" src="${link(record.strip)}" alt="Pictures of the clip, first to last"></a>`
    : `<a href="${link(record.file)}">play</a>`
  const trimmed = trim.head + trim.tail > 0
  const mismatch = motion && nameMismatch(source.file, motion)
  const undo = trimmed
    ? `Trimmed ${trim.head.toFixed(2)} s off the start and ${trim.tail.toFixed(2)} s off the end; undo with <code>--untrim ${escape(shotNameOf(record))}</code>.`
    : `Another range: <code>--range ${escape(shotNameOf(record))}=${source.start.toFixed(2)}-${source.end.toFixed(2)}</code>.`
  return `<article id="${record.id}">
<h3>${escape(nameOf(record))} ${flags.map((flag) => `<b class="flag" title="${escape(clipFlags[flag as ClipFlag]?.meaning ?? '')}">${escape(flag)}</b>`).join(' ')}</h3>
${strip}
${drawCurve(record, shotCurve)}
<p>${record.duration.toFixed(2)} s, ${record.numFrames} frames at ${record.fps} a second${record.speed === 1 ? '' : `, at ${record.speed}× speed`}, ${record.width}×${record.height} · ${escape(source.file)} ${source.start.toFixed(2)}–${source.end.toFixed(2)} s</p>
<p>${motion ? describeMotion(motion) : 'Motion was not measured.'}${mismatch ? ` <b>${escape(mismatch)}</b>` : ''}</p>
<p>${escape(trim.reason)} ${undo}</p>
<details><summary>scores</summary><table>${Object.entries(scores)
    .map(([name, value]) => `<tr><td>${escape(name)}<td class="n">${value}</tr>`)
    .join('')}</table></details>
</article>`
}

function describeMotion(motion: NonNullable<ClipRecord['motion']>): string {
  const parts = [
    [motion.panPerSecond, 'widths/s right', 'widths/s left', 0.005],
    [motion.tiltPerSecond, 'heights/s up', 'heights/s down', 0.005],
    [motion.zoomPerSecond, '/s in', '/s out', 0.01],
    [motion.rollPerSecond, '°/s clockwise', '°/s counter-clockwise', 0.5],
  ] as const
  const said = parts.flatMap(([value, plus, minus, least]) =>
    Math.abs(value) < least
      ? []
      : [`${Math.abs(value).toPrecision(2)}&thinsp;${value > 0 ? plus : minus}`],
  )
  return `<b>${escape(motion.camera)}</b> (${Math.round(motion.confidence * 100)} % of the motion)${said.length > 0 ? `: ${said.join(', ')}` : ''}; subject ${motion.subject.toFixed(3)} widths/s`
}

const curveWidth = 660
const curveHeight = 70
/** The curve's scale goes at least this far, so that stillness looks still; in picture widths a second. */
const leastTop = 0.1

/** The motion energy of the whole shot; what was trimmed is shaded, the kept range has a handle at each end. */
function drawCurve({ source, trim, id }: ClipRecord, curve: ReportedClip['shotCurve']): string {
  const { start, end } = source.shot
  const length = Math.max(end - start, 1e-3)
  const top = Math.max(leastTop, ...curve.energy) * 1.05
  const x = (time: number) => (((time - start) / length) * curveWidth).toFixed(1)
  const y = (energy: number) => (curveHeight * (1 - energy / top)).toFixed(1)
  const points = curve.time.map((time, index) => `${x(time)},${y(curve.energy[index]!)}`).join(' ')
  const from = x(source.start)
  const to = x(source.end)
  const handle = (at: string, side: string) =>
    `<path class="handle" d="M${at} 0V${curveHeight}"/><rect class="handle" x="${(Number(at) - 3).toFixed(1)}" y="${curveHeight / 2 - 9}" width="6" height="18" rx="2"><title>${side}</title></rect>`
  return `<svg viewBox="-4 -2 ${curveWidth + 8} ${curveHeight + 18}" role="img" aria-labelledby="t${id}"><title id="t${id}">Motion energy over the shot, in picture widths a second, and the range kept</title>
<rect class="off" width="${from}" height="${curveHeight}"/><rect class="off" x="${to}" width="${(curveWidth - Number(to)).toFixed(1)}" height="${curveHeight}"/>
<path class="still" d="M0 ${y(trim.threshold)}H${curveWidth}"/>
<polyline points="${points}"/>
${handle(from, `kept from ${source.start.toFixed(2)} s`)}${handle(to, `kept to ${source.end.toFixed(2)} s`)}
<text y="${curveHeight + 12}">${start.toFixed(2)} s</text><text x="${curveWidth}" y="${curveHeight + 12}" text-anchor="end">${end.toFixed(2)} s</text><text x="${curveWidth / 2}" y="${curveHeight + 12}" text-anchor="middle">motion, up to ${top.toFixed(2)} picture widths/s; dashed: still below</text>
</svg>`
}

// --- Left out -------------------------------------------------------------------------------------------------------

function drawDropped(dropped: readonly DroppedRecord[]): string {
  if (dropped.length === 0) return ''
  const rows = dropped.map(
    ({ file, start, end, reason, detail }) =>
      `<tr><td>${escape(file)}<td class="n">${start === undefined || end === undefined ? '' : `${start.toFixed(2)}–${end.toFixed(2)}`}<td>${escape(reason)}<td>${escape(detail ?? '')}</tr>`,
  )
  return `<section><h2>Left out</h2><details><summary>${dropped.length} pieces of footage, each with its reason</summary>
<table><tr><th>footage<th>seconds<th>reason<th></tr>
${rows.join('\n')}
</table></details></section>`
}

function drawOptions(options: Record<string, unknown>): string {
  const rows = Object.entries(options).map(
    ([name, value]) =>
      `<tr><td>${escape(name)}<td>${escape(value === null ? '' : JSON.stringify(value))}</tr>`,
  )
  return `<section><h2>Options</h2><details><summary>of this run</summary><table>${rows.join('')}</table></details></section>`
}

// --- Text -----------------------------------------------------------------------------------------------------------

function escape(text: string): string {
  return text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;')
}

/** A path as a relative address: a `#` or `%` in a file's name is no part of the address's grammar. */
function link(path: string): string {
  return escape(path.split('/').map(encodeURIComponent).join('/'))
}

function clock(seconds: number): string {
  const whole = Math.round(seconds)
  return whole < 100
    ? `${seconds.toFixed(1)} s`
    : `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, '0')} s`
}

function groupBy<Item>(
  items: readonly Item[],
  key: (item: Item) => string,
): [name: string, items: Item[]][] {
  const groups = new Map<string, Item[]>()
  for (const item of items) {
    const group = groups.get(key(item))
    if (group) group.push(item)
    else groups.set(key(item), [item])
  }
  return [...groups].toSorted((a, b) => b[1].length - a[1].length || (a[0] < b[0] ? -1 : 1))
}

function countBy<Item>(
  items: readonly Item[],
  key: (item: Item) => string,
): [name: string, count: number][] {
  return groupBy(items, key).map(([name, found]) => [name, found.length])
}

const style = `
:root{color-scheme:light dark;--line:#8884;--soft:#8882;--accent:#2477d4;--warn:#b45a00}
body{font:15px/1.45 system-ui,sans-serif;max-width:720px;margin:2rem auto;padding:0 1rem}
h1{margin-bottom:0}header p{margin-top:0;opacity:.7}
h3{margin:.2rem 0;font-size:1rem}
.big{font-size:1.3rem}
article{border-top:1px solid var(--line);padding:1rem 0}
article p{margin:.25rem 0}
article img{display:block;width:100%;border-radius:4px}
svg{display:block;width:100%;margin:.4rem 0}
svg polyline{fill:none;stroke:var(--accent);stroke-width:1.5}
svg .off{fill:#8885}
svg .still{stroke:#888;stroke-dasharray:4 4}
svg .handle{stroke:var(--warn);fill:var(--warn);stroke-width:1.5}
svg text{font-size:11px;fill:currentColor;opacity:.75}
.flag{font-size:.8rem;font-weight:600;color:#fff;background:var(--warn);border-radius:3px;padding:0 .35rem}
.flag.bad{background:#b3261e}
table{border-collapse:collapse;font-size:.9rem}
td,th{text-align:left;padding:.1rem .8rem .1rem 0;vertical-align:top}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.fixes li{margin:.4rem 0}
code{background:var(--soft);padding:0 .25rem;border-radius:3px;white-space:nowrap}
details a{margin-right:.6rem}
`.trim()
