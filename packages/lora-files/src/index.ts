export { loraScale, type LoraModule, type LoraWeights } from './lib/lora-weights.ts'
