import { createHash } from 'node:crypto'
import { readdir, stat } from 'node:fs/promises'
import { basename, dirname, extname, join, relative, resolve, sep } from 'node:path'
import { clipPrepErrors } from './errors.ts'

/** A file that may be footage. */
export interface FootageFile {
  /** Where it is. */
  path: string
  /** Relative to the source folder, with forward slashes. */
  file: string
  /** Unique beginning of the names of its clips: folder and name without ending. */
  stem: string
  sizeBytes: number
  /** Changes whenever the file is written: size, time and inode. */
  stamp: string
}

/** Endings of what lies beside footage and is no footage: not worth a line in the manifest. */
const sidecars = new Set(
  '.txt .json .jsonl .yaml .yml .toml .md .csv .tsv .xml .html .htm .srt .vtt .ass .ssa .sub .idx .nfo .log .lrv .thm .xmp .edl .fcpxml .prproj .drp .py .js .mjs .sh .ini .db .ds_store .part .crdownload .tmp .zip .gz .pdf .safetensors'.split(
    ' ',
  ),
)

/**
 * Lists the files under `source` that may be footage, sorted by name, so that the order is the same on every machine. Hidden
 * files and folders are left out, and so is `out`.
 */
export async function listFootage(source: string, out: string): Promise<FootageFile[]> {
  const root = resolve(source)
  const info = await stat(root).catch((cause: unknown) => {
    throw clipPrepErrors.NO_SOURCE(source, { cause })
  })
  const paths: string[] = []
  if (info.isFile()) paths.push(root)
  else if (info.isDirectory()) {
    if (root === resolve(out)) throw clipPrepErrors.OUT_IN_SOURCE(out, source)
    await walk(root, resolve(out), paths)
  } else throw clipPrepErrors.NO_SOURCE(source)
  const base = info.isFile() ? dirname(root) : root
  const files = await Promise.all(
    paths.map(async (path) => {
      const { size, mtimeNs, ino } = await stat(path, { bigint: true })
      const file = relative(base, path).split(sep).join('/')
      return { path, file, stem: '', sizeBytes: Number(size), stamp: `${size}-${mtimeNs}-${ino}` }
    }),
  )
  files.sort((a, b) => (a.file < b.file ? -1 : 1))
  if (files.length === 0) throw clipPrepErrors.NO_FOOTAGE(source)
  nameStems(files)
  return files
}

async function walk(folder: string, out: string, paths: string[]): Promise<void> {
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    if (entry.name.startsWith('.')) continue
    const path = join(folder, entry.name)
    if (path === out) continue
    if (entry.isDirectory()) await walk(path, out, paths)
    else if (
      (entry.isFile() || entry.isSymbolicLink()) &&
      !sidecars.has(extname(entry.name).toLowerCase())
    ) {
      if (entry.isFile() || (await stat(path).catch(() => undefined))?.isFile()) paths.push(path)
    }
  }
}

/** `a/take.mov` gives `a/take`; where `a/take.mp4` is there too, both keep their endings: `a/take.mov` and `a/take.mp4`. */
function nameStems(files: FootageFile[]): void {
  const plain = ({ file }: FootageFile) => {
    const folder = dirname(file)
    const name = basename(file, extname(file))
    return folder === '.' ? name : `${folder}/${name}`
  }
  const uses = new Map<string, number>()
  for (const file of files) {
    const key = plain(file).toLowerCase()
    uses.set(key, (uses.get(key) ?? 0) + 1)
  }
  for (const file of files)
    file.stem = uses.get(plain(file).toLowerCase()) === 1 ? plain(file) : file.file
}

/** Whether a file belongs to shard `index` of `count` (from 1): by its name alone, so that every machine agrees. */
export function isInShard(file: string, index: number, count: number): boolean {
  const hash = createHash('sha256').update(file).digest()
  return hash.readUIntBE(0, 6) % count === index - 1
}
