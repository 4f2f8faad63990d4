import type { Position } from './source-text.ts'
import type { TrainDataset, TrainJob } from './train-job-schema.ts'

type Path = readonly PropertyKey[]
type Report = (code: string, at: Position, path: Path, message: string, fix: string) => void
type Place = (path: Path, of?: 'key' | 'value') => Position

/** Options that exclude or need each other: what AI Toolkit refuses, and what could only fail later. */
export function checkTrainJob(
  job: TrainJob,
  raw: Record<string, unknown>,
  place: Place,
  report: Report,
): void {
  const [process] = job.config.process
  const base: Path = ['config', 'process', 0]
  const { train, model, datasets } = process
  const conflict = (path: Path, message: string, fix: string) => {
    const full = [...base, ...path]
    report('CONFLICT', place(full, 'key'), full, message, fix)
  }
  const written = (...path: string[]): boolean =>
    [...base, ...path].reduce<unknown>(
      (inner, key) => (inner as Record<PropertyKey, unknown> | undefined)?.[key],
      raw,
    ) !== undefined

  if (
    written('train', 'gradient_accumulation') &&
    written('train', 'gradient_accumulation_steps')
  ) {
    conflict(
      ['train', 'gradient_accumulation_steps'],
      'gradient_accumulation and gradient_accumulation_steps exclude each other.',
      'Keep gradient_accumulation.',
    )
  }
  if (!model.model_kwargs.train_high_noise && !model.model_kwargs.train_low_noise) {
    conflict(
      ['model', 'model_kwargs'],
      'Neither expert is trained.',
      'Set train_high_noise or train_low_noise to true.',
    )
  }
  if (train.diff_output_preservation && train.blank_prompt_preservation) {
    conflict(
      ['train', 'blank_prompt_preservation'],
      'diff_output_preservation and blank_prompt_preservation exclude each other.',
      'Keep one of them.',
    )
  }
  if (train.diff_output_preservation && datasets.every((set) => set.trigger_word === null)) {
    conflict(
      ['train', 'diff_output_preservation'],
      'diff_output_preservation needs a trigger word, which the class takes the place of.',
      'Set trigger_word for the job or a dataset.',
    )
  }
  if (train.unload_text_encoder && train.cache_text_embeddings) {
    conflict(
      ['train', 'unload_text_encoder'],
      'unload_text_encoder and cache_text_embeddings exclude each other.',
      'Keep cache_text_embeddings to train on captions, unload_text_encoder to train on the trigger word alone.',
    )
  }
  if (train.linear_timesteps && train.linear_timesteps2) {
    conflict(
      ['train', 'linear_timesteps2'],
      'linear_timesteps and linear_timesteps2 exclude each other.',
      'Keep one of them.',
    )
  }
  if (train.skip_first_sample && train.force_first_sample) {
    conflict(
      ['train', 'skip_first_sample'],
      'skip_first_sample and force_first_sample exclude each other.',
      'Keep one of them.',
    )
  }
  const { network } = process
  const dropsRanks = Boolean(network.network_kwargs.rank_dropout)
  if (network.type !== 'lora' && (Boolean(network.dropout) || dropsRanks)) {
    conflict(
      dropsRanks ? ['network', 'network_kwargs', 'rank_dropout'] : ['network', 'dropout'],
      `dropout and rank_dropout are of type lora; ${network.type} has module_dropout.`,
      'Use network_kwargs.module_dropout, or type lora.',
    )
  }
  if (train.inverted_mask_prior && datasets.every((set) => !hasMasks(set))) {
    conflict(
      ['train', 'inverted_mask_prior'],
      'inverted_mask_prior acts where loss masks are black, and no dataset has masks.',
      'Set mask_path or alpha_mask of a dataset, or remove it.',
    )
  }
  if (datasets.every((set) => set.is_reg)) {
    conflict(
      ['datasets'],
      'Every dataset is a regularisation set, so there is nothing to learn from.',
      'Set is_reg to false for the set to learn.',
    )
  }
  const { validation, high_noise_share } = process.kinora
  if (validation.folder !== null && validation.fraction > 0) {
    conflict(
      ['kinora', 'validation', 'fraction'],
      'kinora.validation holds out either a share of the clips or a folder of its own.',
      'Keep fraction or folder.',
    )
  }
  if (
    high_noise_share !== null &&
    !(model.model_kwargs.train_high_noise && model.model_kwargs.train_low_noise)
  ) {
    conflict(
      ['kinora', 'high_noise_share'],
      'high_noise_share divides the steps between two experts, and only one is trained.',
      'Remove it, or train both.',
    )
  }
  if (process.save.push_to_hub && process.save.hf_repo_id === null) {
    conflict(
      ['save', 'push_to_hub'],
      'push_to_hub needs a repository.',
      'Set save.hf_repo_id to owner/name.',
    )
  }
}

const hasMasks = ({ mask_path, alpha_mask }: TrainDataset): boolean =>
  mask_path !== null || alpha_mask

/** Brings sizes and frame counts to what the model takes, in place, with a warning for each that moved. */
export function snapTrainJob(
  job: TrainJob,
  warn: (code: string, path: Path, of: 'key' | 'value', message: string) => void,
): void {
  const [process] = job.config.process
  const base: Path = ['config', 'process', 0]
  const snap = <K extends string>(
    holder: Record<K, number>,
    key: K,
    path: Path,
    down: (value: number) => number,
    rule: string,
  ) => {
    const snapped = down(holder[key])
    if (snapped === holder[key]) return
    warn(
      'SNAPPED',
      [...base, ...path, key],
      'value',
      `"${key}" ${holder[key]} becomes ${snapped}: ${rule}`,
    )
    holder[key] = snapped
  }
  const frames = (value: number) => 4 * Math.floor((value - 1) / 4) + 1
  const pixels = (value: number) => Math.max(64, 16 * Math.floor(value / 16))
  const frameRule = 'the model takes 4n+1 frames.'
  const pixelRule = 'the model takes multiples of 16 pixels, at least 64.'
  process.datasets.forEach((set, index) =>
    snap(set, 'num_frames', ['datasets', index], frames, frameRule),
  )
  for (const name of ['sample', 'first_sample'] as const) {
    const sample = process[name]
    if (sample === null) continue
    const rules = [
      ['width', pixels, pixelRule],
      ['height', pixels, pixelRule],
      ['num_frames', frames, frameRule],
    ] as const
    for (const [key, down, rule] of rules) {
      const inherited = sample[key]
      snap(sample, key, [name], down, rule)
      sample.samples.forEach((item, index) => {
        if (item[key] === inherited) item[key] = sample[key]
        else snap(item, key, [name, 'samples', index], down, rule)
      })
    }
  }
}
