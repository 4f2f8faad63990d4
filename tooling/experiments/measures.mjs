// What the experiments measure. A clip is a list of frames { width, height, data }, data 8-bit RGB, rows from the top. The first
// frame of a preview is given, so every measure but PSNR leaves it out.

/** Mean and standard error of the mean of a few values. */
export function summarise(values) {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0)
  const error = values.length > 1 ? Math.sqrt(squares / (values.length - 1) / values.length) : 0
  return { mean, error }
}

/** Root of the mean squared difference of two clips, in levels of 255. */
export function drift(a, b) {
  let squares = 0
  let count = 0
  for (let frame = 1; frame < a.length; frame++) {
    for (let i = 0; i < a[frame].data.length; i++) {
      squares += (a[frame].data[i] - b[frame].data[i]) ** 2
    }
    count += a[frame].data.length
  }
  return Math.sqrt(squares / count)
}

/** Mean and standard deviation of each channel over clips, in levels of 255. */
export function colourStatistics(clips) {
  const sums = [0, 0, 0]
  const squares = [0, 0, 0]
  let count = 0
  for (const frames of clips) {
    for (const { data } of frames.slice(1)) {
      for (let i = 0; i < data.length; i++) {
        sums[i % 3] += data[i]
        squares[i % 3] += data[i] ** 2
      }
      count += data.length / 3
    }
  }
  const mean = sums.map((sum) => sum / count)
  const deviation = squares.map((sum, i) => Math.sqrt(Math.max(0, sum / count - mean[i] ** 2)))
  return { mean, deviation }
}

/**
 * Fréchet distance of two colour statistics, channels taken as independent normals: the root of the summed squared differences
 * of means and of deviations, in levels of 255.
 */
export function colourDistance(a, b) {
  const squares = [...a.mean, ...a.deviation].map(
    (value, i) => (value - [...b.mean, ...b.deviation][i]) ** 2,
  )
  return Math.sqrt(squares.reduce((sum, value) => sum + value, 0))
}

/** Levels by which a pixel may differ from a colour and still count as it. */
const reach = 90

/** For each pixel of a frame the index of the colour it counts as, or −1. */
export function classify({ data }, colours) {
  const classes = new Int8Array(data.length / 3).fill(-1)
  for (let pixel = 0; pixel < classes.length; pixel++) {
    let least = reach ** 2
    for (const [index, colour] of colours.entries()) {
      const squares = colour.reduce((sum, c, i) => sum + (data[pixel * 3 + i] - c) ** 2, 0)
      if (squares < least) {
        least = squares
        classes[pixel] = index
      }
    }
  }
  return classes
}

/**
 * How well a clip keeps a thing of some colours, against the true clip: `area`, for each colour the smaller over the larger of the
 * two areas, wherever they are; `overlap`, intersection over union. Both 0 to 1, meant over colours and frames; a colour that
 * the true frame does not show does not count.
 */
export function classKept(frames, truth, colours) {
  const areas = []
  const overlaps = []
  for (let frame = 1; frame < truth.length; frame++) {
    const [mine, theirs] = [frames[frame], truth[frame]].map((one) => classify(one, colours))
    for (const index of colours.keys()) {
      let a = 0
      let b = 0
      let both = 0
      for (let pixel = 0; pixel < mine.length; pixel++) {
        const inA = mine[pixel] === index
        const inB = theirs[pixel] === index
        a += inA
        b += inB
        both += inA && inB
      }
      if (b === 0) continue
      areas.push(Math.min(a, b) / Math.max(a, b))
      overlaps.push(both / (a + b - both))
    }
  }
  return { area: summarise(areas).mean, overlap: summarise(overlaps).mean }
}
