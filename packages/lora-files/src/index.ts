export { loraErrors } from './lib/errors.ts'
export { loraLayouts, type LoraLayout } from './lib/layouts.ts'
export { blockLinearNames, diffusersName, originalName } from './lib/key-maps/wan-names.ts'
export {
  loraFileName,
  parseLoraFileName,
  trainingMetadata,
  type TrainingFacts,
} from './lib/lora-metadata.ts'
export {
  adapterKinds,
  kindNames,
  loraScale,
  type AdapterKind,
  type Expert,
  type LokrModule,
  type LoraModule,
  type LoraWeights,
} from './lib/lora-weights.ts'
export {
  inspectLora,
  readLora,
  type LoraHeader,
  type LoraModuleHeader,
  type ReadLoraOptions,
} from './lib/read-lora.ts'
export {
  loraDtypes,
  writeCombinedLora,
  writeLora,
  type LoraDtype,
  type WriteLoraOptions,
} from './lib/write-lora.ts'
