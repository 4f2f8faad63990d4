import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { exportLora, formatLoraReport, verifyLora } from '@kinora/exporter'

const tinyWan = dirname(fileURLToPath(import.meta.resolve('@kinora/tiny-wan/package.json')))
const file = 'runs/examples/crane/crane_high_noise.safetensors'

// Which keys does it have, does it fit the base, and what loads it?
const report = await verifyLora({ file, base: join(tinyWan, 'checkpoint'), expert: 'high' })
console.log(formatLoraReport(report))

const { layout, numModules } = await exportLora({
  sources: [file],
  out: 'runs/examples/crane_high_diffusers.safetensors',
  layout: 'diffusers',
})
console.log(`${numModules} modules in the layout of ${layout}`)
