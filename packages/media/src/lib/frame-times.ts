/** Half a millisecond: the rounding of the coarsest clock in use (Matroska's), below any gap between frames. */
export const timeTolerance = 0.0005

/**
 * Which frame stands for each moment `start + k · speed / fps`: the nearest one by time. Of two equally near, the earlier, so
 * that 24 → 16 fps reads 0, 1, 3, 4, 6. The counterpart of `resampleFilters`, for plans and tests.
 *
 * @param times rising times of the frames in seconds
 * @param count how many moments
 * @returns an index into `times` for each moment
 */
export function nearestFrames(
  times: ArrayLike<number>,
  { start, fps, speed = 1, count }: { start: number; fps: number; speed?: number; count: number },
): Uint32Array {
  const chosen = new Uint32Array(count)
  let index = 0
  for (let k = 0; k < count; k++) {
    // In whole microseconds, as ffmpeg's filters compare them.
    const moment = Math.round((start + (k * speed) / fps) * 1e6)
    while (index + 1 < times.length && switchTime(times, index + 1) <= moment) index++
    chosen[k] = index
  }
  return chosen
}

/** When frame `index` takes over from the one before it, in microseconds: just after the middle between them. */
function switchTime(times: ArrayLike<number>, index: number): number {
  const middle = Math.round((times[index - 1] ?? 0) * 1e6) + Math.round((times[index] ?? 0) * 1e6)
  return Math.floor(middle / 2) + Math.round(timeTolerance * 1e6)
}

/** How many frames at `fps` a range of `duration` seconds holds: moments `k · speed / fps` before its end. */
export function countResampled(duration: number, fps: number, speed = 1): number {
  return Math.max(1, Math.ceil((duration - timeTolerance) * (fps / speed)))
}

/**
 * ffmpeg's filters that cut `[start, end)` (seconds on the clock that reaches the filter) and resample it to `fps` by time
 * stamps, never by counting frames. Gives exactly `count` frames.
 *
 * `fps=round=up` holds each frame until the next one's time, so every frame but the first is moved to the middle between
 * itself and its predecessor: what it then holds at a moment is the frame nearest to that moment.
 */
export function resampleFilters({
  start,
  end,
  fps,
  speed = 1,
  count,
  sourceFps,
}: {
  start: number
  end: number
  fps: number
  speed?: number
  count: number
  /** Nominal rate of the source: the spacing that ffmpeg gives frames repeated at its end. */
  sourceFps: number
}): string[] {
  const tie = Math.round(timeTolerance * 1e6)
  // The fps filter forgets the last frame where the input ends within its moment: repeats carry the input two moments on.
  const repeats = Math.min(1000, Math.ceil((2 * speed * sourceFps) / fps) + 1)
  return [
    ...rangeFilters(start, end),
    `tpad=stop_mode=clone:stop=${repeats}`,
    // The first frame stands for the start even where its stamp is a rounding away from it.
    `setpts='if(eq(N,0),0,((PTS+PREV_INPTS)/2+${tie}-${stamp(start)}*1000000)/${speed})'`,
    `fps=${fps}:start_time=0:round=up`,
    // Moments after the last frame hold it.
    `tpad=stop_mode=clone:stop=${count}`,
    `trim=end_frame=${count}`,
  ]
}

/**
 * ffmpeg's filters that keep the frames of `[start, end)` and write each one's time to its log. Times are counted in
 * microseconds from here on, whatever the clock of the container.
 */
export function rangeFilters(start: number, end: number | undefined): string[] {
  const until = end === undefined ? '' : `:end=${stamp(end - timeTolerance)}`
  return [
    'settb=1/1000000',
    `trim=start=${stamp(start - timeTolerance)}${until}`,
    'showinfo=checksum=0',
  ]
}

/** Whether a line of ffmpeg's log is showinfo's. */
export function isShowinfo(line: string): boolean {
  return line.startsWith('[Parsed_showinfo')
}

/** The time in seconds that a line of showinfo tells, on the file's own clock; undefined for any other line. */
export function shownPts(line: string): number | undefined {
  if (!isShowinfo(line)) return undefined
  const pts = / n: *\d+ pts: *(-?\d+)/.exec(line)?.[1]
  return pts === undefined ? undefined : Number(pts) / 1e6
}

/** Seconds as ffmpeg reads them: decimal, to the microsecond. */
export function stamp(seconds: number): string {
  return seconds.toFixed(6)
}
