import type { TrainJob } from '@kinora/config-schema'
import { turnOptions } from '../step-settings.ts'
import { stepsOfExperts } from '../turns.ts'
import { createRandomStreams, experts, type Expert } from './random-streams.ts'
import { createTimestepUniforms, timestepAt } from './timesteps.ts'

/**
 * The timesteps that a job will draw, expert by expert, at batch size 1: exact, because a draw depends on the seed and its number
 * alone.
 *
 * @param boundary sigma at which the experts meet
 */
export function plannedTimesteps(job: TrainJob, boundary: number): Record<Expert, Float64Array> {
  const process = job.config.process[0]
  const { train, kinora, training_seed } = process
  const uniformOf = createTimestepUniforms(
    createRandomStreams(training_seed ?? 42),
    kinora.timestep_sampling,
  )
  const steps = stepsOfExperts(train.steps, turnOptions(process))
  const draws = (expert: Expert): Float64Array =>
    Float64Array.from({ length: steps[expert] * train.gradient_accumulation }, (_, draw) =>
      timestepAt(uniformOf(expert, draw), expert, {
        type: train.timestep_type,
        bias: train.content_or_style,
        boundary,
        shift: kinora.shift,
      }),
    )
  return Object.fromEntries(experts.map((expert) => [expert, draws(expert)])) as Record<
    Expert,
    Float64Array
  >
}
