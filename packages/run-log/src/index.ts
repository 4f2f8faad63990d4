export { explainRun, formatDiagnosis } from './lib/explain/explain-run.ts'
export type { ExpertVerdict, RunDiagnosis } from './lib/explain/explain-run.ts'
export type { LossTrend, Trend, ValidationVerdict } from './lib/explain/judge-loss.ts'
export {
  compareMotion,
  motionProfile,
  spedUp,
  type MotionComparison,
  type MotionProfile,
  type Movement,
} from './lib/explain/motion-profile.ts'
export { explainRules, type ExplainRule, type RunFinding } from './lib/explain/rules.ts'
export type { RunFiles } from './lib/explain/run-facts.ts'
export { createSlowDownWatch } from './lib/explain/slow-down-watch.ts'
export { joinOutlets, type MetricsOutlet } from './lib/metrics-outlet.ts'
export {
  createTensorBoardOutlet,
  type TensorBoardOptions,
} from './lib/tensorboard/tensorboard-outlet.ts'
export { createWebhookOutlet, type WebhookOptions } from './lib/webhook/webhook-outlet.ts'
