import { loraErrors } from './errors.ts'

/** Header key under which diffusers keeps PEFT's settings. */
export const adapterMetadataKey = 'lora_adapter_metadata'

/** Alpha of a module by PEFT's settings; undefined for a scale of 1. */
export type AlphaOf = (module: string, rank: number) => number | undefined

/**
 * Reads diffusers' `lora_adapter_metadata`: PEFT's LoraConfig as JSON, its keys with or without the prefix of the
 * component (`transformer.lora_alpha`). Honoured are lora_alpha, alpha_pattern and use_rslora.
 */
export function parseAdapterMetadata(text: string | undefined, file: string): AlphaOf {
  if (text === undefined) return () => undefined
  let settings: unknown
  try {
    settings = JSON.parse(text)
  } catch (cause) {
    throw loraErrors.BAD_ADAPTER_METADATA(file, 'is not JSON', { cause })
  }
  if (typeof settings !== 'object' || settings === null || Array.isArray(settings)) {
    throw loraErrors.BAD_ADAPTER_METADATA(file, 'is not a JSON object')
  }
  const plain = new Map(
    Object.entries(settings).map(([key, value]) => [key.replace(/^transformer(_2)?\./, ''), value]),
  )
  if (plain.get('use_dora') === true) {
    throw loraErrors.OTHER_ADAPTER(file, adapterMetadataKey, 'DoRA')
  }
  const alpha: unknown = plain.get('lora_alpha')
  const patterns: unknown = plain.get('alpha_pattern') ?? {}
  const rootScaled = plain.get('use_rslora') === true
  const positive = (value: unknown): value is number =>
    typeof value === 'number' && Number.isFinite(value) && value > 0
  if (alpha !== undefined && !positive(alpha)) {
    throw loraErrors.BAD_ADAPTER_METADATA(file, `has lora_alpha ${JSON.stringify(alpha)}`)
  }
  if (
    typeof patterns !== 'object' ||
    patterns === null ||
    !Object.values(patterns).every(positive)
  ) {
    throw loraErrors.BAD_ADAPTER_METADATA(file, 'has an alpha_pattern that is no map of numbers')
  }
  const byPattern = Object.entries(patterns as Record<string, number>)
  return (module, rank) => {
    // PEFT matches a pattern as the end of the module's name, after a dot.
    const own = byPattern.find(([pattern]) => module === pattern || module.endsWith(`.${pattern}`))
    const value = own?.[1] ?? (alpha as number | undefined)
    if (value === undefined) return undefined
    return rootScaled ? value * Math.sqrt(rank) : value
  }
}
