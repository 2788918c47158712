import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'

import { describe, expect, test } from 'vitest'

import { brokenLinks, headingAnchors, pagesIn, relativeLinks } from './pages.ts'
import { temporaryDirectory } from './temporary-directory.ts'

describe('pagesIn', () => {
  test('finds pages at every depth, except in packages, the build and hidden folders', async () => {
    const root = await temporaryDirectory()
    const pages = ['README.md', 'src/a/README.md', 'src/a/FORMAT.md', 'test/x/deep/page.md']
    const others = ['node_modules/p/README.md', 'src/node_modules/p/README.md', 'dist/README.md', '.git/x.md', 'bench/work-1/x.md', 'a.ts']
    for (const path of [...pages, ...others]) {
      mkdirSync(dirname(join(root, path)), { recursive: true })
      writeFileSync(join(root, path), '')
    }
    expect(pagesIn(root)).toEqual(pages.toSorted())
  })
})

describe('relativeLinks', () => {
  test('returns links, images and references with their lines, except web links and code', () => {
    const page = [
      '[a](a.md), [`b`](../b.md#part), ![c](c.svg) and [web](https://example.com)',
      '`[not](code.md)`',
      '```ts',
      'const list = map[0](x)',
      '```',
      '[d]: d.md',
      '[mail](mailto:a@example.com) [e](#part)',
    ].join('\n')
    expect(relativeLinks(page)).toEqual([
      { line: 1, target: 'a.md' },
      { line: 1, target: '../b.md#part' },
      { line: 1, target: 'c.svg' },
      { line: 6, target: 'd.md' },
      { line: 7, target: '#part' },
    ])
  })
})

describe('headingAnchors', () => {
  test('match those of GitHub: lower case, without punctuation, numbered when they repeat', () => {
    const page = '# Types, schemas & codecs\n\n## `MiniStore.open`\n\n## Errors ##\n\n## Errors\n\n```sh\n# not one\n```\n'
    expect([...headingAnchors(page)]).toEqual(['types-schemas--codecs', 'ministoreopen', 'errors', 'errors-1'])
  })
})

describe('brokenLinks', () => {
  const texts: Readonly<Record<string, string>> = {
    'README.md': '# Top\n\n[ok](src/a/README.md#part-one) [ok](#top)\n[gone](src/b.md) [no part](src/a/README.md#two) [no](#two)',
    'src/a/README.md': '# Part one\n\n[up](../../README.md) [out](../../test/x.ts)',
  }
  const targets = { has: (path: string) => path in texts, textOf: (path: string) => texts[path] ?? '' }

  test('names each link to a missing file or heading', () => {
    expect(brokenLinks('README.md', targets)).toEqual([
      'README.md, line 4: src/b.md',
      'README.md, line 4: src/a/README.md#two',
      'README.md, line 4: #two',
    ])
  })

  test('resolves links relative to the page', () => {
    expect(brokenLinks('src/a/README.md', targets)).toEqual(['src/a/README.md, line 3: ../../test/x.ts'])
  })
})
