import { gunzipSync } from 'node:zlib'
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { deriveBackports } from './apt.mjs'
import { readTar } from './npm-package.mjs'

describe('deriveBackports', () => {
  it('takes the place and the key of the release itself, from one-line sources', () => {
    const text = `# deb http://old.example/debian bookworm main
deb-src http://mirror.example/debian bookworm main
deb http://mirror.example/debian-security bookworm-security main
deb [signed-by=/usr/share/keyrings/a.gpg] http://mirror.example/debian bookworm main contrib
`
    expect(deriveBackports(text, 'bookworm', 'list')).toBe(
      'deb [signed-by=/usr/share/keyrings/a.gpg] http://mirror.example/debian bookworm-backports main contrib\n',
    )
  })

  it('does so from deb822 stanzas too, and leaves disabled ones alone', () => {
    const text = `Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Types: deb
Enabled: no
URIs: http://off.example/debian
Suites: bookworm

Types: deb
# a comment
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/a.gpg
`
    expect(deriveBackports(text, 'bookworm', 'sources')).toBe(`Types: deb
URIs: http://mirror.example/debian
Suites: bookworm-backports
Components: main
Signed-By: /usr/share/keyrings/a.gpg
`)
  })

  it('gives nothing where the release is not named', () => {
    expect(
      deriveBackports('deb http://mirror.example/other stable main\n', 'bookworm', 'list'),
    ).toBeUndefined()
    expect(deriveBackports('Types: deb\nSuites: trixie\n', 'bookworm', 'sources')).toBeUndefined()
  })
})

describe('readTar', () => {
  it('reads the files of an archive that tar made', () => {
    const folder = mkdtempSync(join(tmpdir(), 'kinora-tar-'))
    try {
      writeFileSync(join(folder, 'a.txt'), 'one')
      writeFileSync(join(folder, 'b.bin'), Buffer.alloc(1500, 7))
      execFileSync('tar', ['-czf', 'all.tgz', '--format=ustar', './a.txt', './b.bin'], {
        cwd: folder,
      })
      const files = [...readTar(gunzipSync(readFileSync(join(folder, 'all.tgz'))))]
      expect(files.map(({ name, data }) => [name, data.length])).toEqual([
        ['./a.txt', 3],
        ['./b.bin', 1500],
      ])
      expect(files[0].data.toString()).toBe('one')
    } finally {
      rmSync(folder, { recursive: true })
    }
  })
})
