/** Features the kernels use where an adapter has them; none is needed. */
const WANTED_FEATURES = [
  'shader-f16',
  'subgroups',
  'timestamp-query',
  'chromium-experimental-subgroup-matrix',
  'subgroup-size-control',
] as const

/** Limits that decide tile sizes, bindings and memory. */
const WANTED_LIMITS = [
  'maxBufferSize',
  'maxStorageBufferBindingSize',
  'maxStorageBuffersPerShaderStage',
  'maxComputeWorkgroupStorageSize',
  'maxComputeInvocationsPerWorkgroup',
  'maxComputeWorkgroupSizeX',
  'maxComputeWorkgroupSizeY',
  'maxComputeWorkgroupsPerDimension',
  'minStorageBufferOffsetAlignment',
  'minUniformBufferOffsetAlignment',
] as const

/** Features to request of an adapter for `createDevice`: those it has of the ones the kernels use. */
export function requiredFeatures(adapter: GPUAdapter): GPUFeatureName[] {
  const has = adapter.features as ReadonlySet<string>
  return WANTED_FEATURES.filter((feature) => has.has(feature)) as GPUFeatureName[]
}

/** Limits to request of an adapter for `createDevice`: the best it offers. A device gets only what was requested. */
export function requiredLimits(adapter: GPUAdapter): Record<string, number> {
  return Object.fromEntries(WANTED_LIMITS.map((limit) => [limit, adapter.limits[limit]]))
}
