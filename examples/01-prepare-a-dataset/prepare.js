import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { formatReport, writeBucketPlan } from '@kinora/bucketer'
import { captionClips } from '@kinora/captioner'
import { prepareClips } from '@kinora/clip-prep'

const tinyWan = dirname(fileURLToPath(import.meta.resolve('@kinora/tiny-wan/package.json')))
const dataset = 'runs/examples/dataset'

// Four takes of three shots each: twelve clips, without the stillness before and after each motion.
const { clips } = await prepareClips({
  source: join(tinyWan, 'footage'),
  out: dataset,
  cutMargin: 0,
})
console.log(`${clips.length} clips`)

// The same caption for all: what it names is bound to the trigger word, what it leaves out is learned.
const { counts } = await captionClips({
  source: dataset,
  trigger: 'crane',
  defaultCaption: '[trigger], the camera rises and moves in',
})
console.log(`${counts.written + counts.unchanged} captions`)

const { report } = await writeBucketPlan({
  source: dataset,
  out: join(dataset, 'bucket-plan.json'),
  resolutions: [32],
  numFrames: 5,
  frameMode: 'chunk',
})
console.log(formatReport(report))
