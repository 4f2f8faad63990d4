import { join } from 'node:path'
import type { TrainJob } from '@kinora/config-schema'
import {
  createSlowDownWatch,
  createTensorBoardOutlet,
  createWebhookOutlet,
  joinOutlets,
  type MetricsOutlet,
} from '@kinora/run-log'
import type { StageEvent } from '@kinora/stage'

/** Where a job's metrics go beside metrics.jsonl, and the watch on its pace. */
export function openOutlets({ config }: TrainJob): MetricsOutlet {
  const { log_dir, kinora } = config.process[0]
  const { url, every } = kinora.webhook
  return joinOutlets([
    createSlowDownWatch(),
    ...(log_dir === null ? [] : [createTensorBoardOutlet({ folder: join(log_dir, config.name) })]),
    ...(url === null ? [] : [createWebhookOutlet({ url, run: config.name, every })]),
  ])
}

/** A run's events with the warnings of its outlets among them; the outlets are closed at its end, whatever ends it. */
export async function* watchRun<Result>(
  run: AsyncGenerator<StageEvent, Result>,
  outlet: MetricsOutlet,
): AsyncGenerator<StageEvent, Result> {
  try {
    let next = await run.next()
    while (!next.done) {
      yield next.value
      yield* outlet.takeWarnings()
      next = await run.next()
    }
    await outlet.close()
    yield* outlet.takeWarnings()
    return next.value
  } finally {
    await outlet.close()
  }
}
