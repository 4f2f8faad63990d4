import type { TrainProcess } from '@kinora/config-schema'
import { numElements, type Device, type Tensor } from '@kinora/kernel-api'
import { adapterKinds, readLora } from '@kinora/lora-files'
import { transformerLoraTargets, type WanCheckpoint, type WanTransformer } from '@kinora/wan'
import { trainerErrors } from './errors.ts'
import {
  initialFactors,
  parameterNames,
  selectTargets,
  uploadFactors,
  type LoraOptions,
  type TrainedLora,
} from './lora-adapters.ts'
import { LossScale } from './loss/loss-scale.ts'
import type { Expert } from './noise/random-streams.ts'
import { MovingAverage } from './optim/moving-average.ts'
import type { Optimizer, StateArray } from './optim/optimizer.ts'
import { createOptimizer, optimizerIdentity } from './optim/optimizers.ts'
import type { Start } from './resume/find-start.ts'
import { lengthOf, type ExpertState } from './resume/training-state.ts'

/** What one expert trains: its LoRA, optimiser and loss scale, which stay on the device for the whole run. */
export interface TrainedExpert {
  readonly expert: Expert
  readonly lora: TrainedLora
  readonly optimizer: Optimizer
  readonly lossScale: LossScale
  /** Average of the weights over the steps, where the job saves that instead. */
  readonly average: MovingAverage | undefined
}

/** All tensors that the training state keeps of an expert. */
export function stateTensors({
  lora,
  optimizer,
  average,
}: TrainedExpert): ReadonlyMap<string, readonly StateArray[]> {
  return new Map<string, readonly StateArray[]>([
    ['params', lora.params],
    ...optimizer.state,
    ...(average ? [['average', average.params] as const] : []),
  ])
}

/**
 * The weights to save, preview and measure with: the moving average where there is one, else what the optimiser says, else those
 * being trained. Call `release` when done.
 */
export function finishedParams({ lora, optimizer, average }: TrainedExpert): {
  params: readonly Tensor[]
  release: () => void
} {
  if (average) return { params: average.params, release: () => {} }
  const own = optimizer.finishedParams?.()
  return {
    params: own ?? lora.params,
    release: () => own?.forEach((tensor) => lora.device.release(tensor)),
  }
}

/** Frees an expert's tensors. */
export function releaseExpert({ lora, optimizer, average }: TrainedExpert): void {
  lora.release()
  optimizer.release()
  average?.release()
}

/**
 * A fresh expert, or one as it was when its state was written.
 *
 * @param columnLengths of the expert's network, which is loaded for it; only a fresh DoRA asks
 */
export async function createTrainedExpert(
  expert: Expert,
  device: Device,
  checkpoint: WanCheckpoint,
  process: TrainProcess,
  compute: 'f32' | 'f16',
  seed: number,
  start: Start,
  columnLengths: WanTransformer['columnLengths'],
): Promise<TrainedExpert> {
  const { network, train, kinora } = process
  const rank = kinora[`${expert}_noise_rank`] ?? network.linear
  const options: LoraOptions = {
    type: network.type,
    rank,
    scale: kinora.use_alpha ? network.linear_alpha / rank : 1,
    fullRank: network.lokr_full_rank,
    factor: network.lokr_factor,
  }
  const targets = selectTargets(transformerLoraTargets(checkpoint.transformer), expert, {
    ignoreIfContains: network.network_kwargs.ignore_if_contains,
    onlyIfContains: network.network_kwargs.only_if_contains,
  })
  const { use_ema, ema_decay } = train.ema_config
  const build = (factors: Float32Array[], lossScale: LossScale): TrainedExpert => {
    const lora = uploadFactors(device, targets, options, factors)
    return {
      expert,
      lora,
      optimizer: createOptimizer(train.optimizer, device, lora.params, train.optimizer_params),
      lossScale,
      average: use_ema ? new MovingAverage(device, lora.params, ema_decay) : undefined,
    }
  }

  const before = start.saved?.state.experts[expert]
  if (!start.saved || !before) {
    const file = start.files[expert] ?? network.pretrained_lora_path
    const source = file
      ? { weights: await readLora(file, { expert, kinds: adapterKinds }), file }
      : undefined
    const fresh = targets
      .map(({ name }) => name)
      .filter((name) => !source?.weights.modules.has(name))
    const lengths =
      network.type === 'dora' && fresh.length > 0 ? await columnLengths(fresh) : undefined
    const factors = initialFactors(targets, options, expert, seed, { start: source, lengths })
    return build(factors, new LossScale(compute))
  }

  const mustEqual = (what: string, was: string | number, is: string | number): void => {
    if (was !== is) throw trainerErrors.RESUME_MISMATCH(what, String(was), String(is))
  }
  mustEqual(`rank of the ${expert}-noise LoRA`, before.rank, options.rank)
  mustEqual(`scale of the ${expert}-noise LoRA`, before.scale, options.scale)
  mustEqual('optimizer', before.optimizer, optimizerIdentity(train))
  mustEqual(
    `adapted layers of the ${expert}-noise expert`,
    before.parameters.map(([parameter]) => parameter).join(' '),
    parameterNames(targets, options).join(' '),
  )
  const resumed = build(
    (await start.saved.read(
      expert,
      'params',
      before.parameters.map(([, length]) => length),
    )) as Float32Array[],
    new LossScale(compute, before.lossScale),
  )
  for (const [name, arrays] of stateTensors(resumed)) {
    // A moving average that is switched on later begins at the weights, where it was just made.
    if (name === 'params' || !before.states.includes(name)) continue
    const values = await start.saved.read(expert, name, arrays.map(lengthOf))
    arrays.forEach((array, index) => {
      if (array instanceof Float32Array) array.set(values[index]!)
      else device.write(array, values[index]!)
    })
  }
  Object.assign(resumed.optimizer.numbers, before.numbers)
  return resumed
}

/** What the training state says of an expert beside its tensors. */
export function describeTrainedExpert(trained: TrainedExpert, optimizer: string): ExpertState {
  const { lora, lossScale } = trained
  return {
    parameters: lora.names.map((name, i) => [name, numElements(lora.params[i]!.shape)]),
    rank: lora.options.rank,
    scale: lora.options.scale,
    states: [...stateTensors(trained).keys()],
    optimizer,
    numbers: { ...trained.optimizer.numbers },
    lossScale: lossScale.state,
  }
}
