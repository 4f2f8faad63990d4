export * from './lib/bucket-plan.ts'
export * from './lib/dataset-manifest.ts'
