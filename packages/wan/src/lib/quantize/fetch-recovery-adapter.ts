import { readLora, type Expert, type LoraWeights } from '@kinora/lora-files'
import { fetchFileFromHub, type HubOptions } from '../checkpoint/hub-snapshot.ts'
import { exists } from '../checkpoint/weight-files.ts'
import { checkpointErrors } from '../errors.ts'

/**
 * Reads one expert's part of an accuracy recovery adapter: a LoRA trained so that packed weights and it together are about the
 * original weights. Its scale is that of the file.
 *
 * @param source a file, or a file of a repository on the Hub: `owner/name/path/in/it.safetensors`
 */
export async function fetchRecoveryAdapter(
  source: string,
  expert: Expert,
  options: HubOptions = {},
): Promise<LoraWeights> {
  const [, repo, path] = /^([\w.-]+\/[\w.-]+)\/(.+\.safetensors)$/.exec(source) ?? []
  if (await exists(source)) return readLora(source, { expert })
  if (repo === undefined || path === undefined) throw checkpointErrors.NO_ADAPTER(source)
  return readLora(await fetchFileFromHub(repo, path, options), { expert })
}
