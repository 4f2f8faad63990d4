export { hasCodeAndFix, renderError, type ErrorWithFix } from './lib/bin/render-error.ts'
export {
  createReporter,
  formatSeconds,
  type Reporter,
  type ReporterOptions,
  type ReporterStream,
} from './lib/bin/reporter.ts'
export {
  runBin,
  type BinCommand,
  type BinDefinition,
  type BinEdges,
  type ExitCode,
  type LazyBinCommand,
} from './lib/bin/run-bin.ts'
