import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join, posix } from 'node:path'

import { describe, expect, test } from 'vitest'

import { brokenLinks, filesOfRepository, pagesIn } from './support/pages.ts'

/** The fields of package.json that these tests check; publint and attw check the others. */
interface Manifest {
  readonly name: string
  readonly version: string
  readonly license: string
  readonly files: readonly string[]
  readonly exports: Readonly<Record<string, string | Readonly<Record<string, string>>>>
  readonly bin?: Readonly<Record<string, string>>
  readonly dependencies: Readonly<Record<string, string>>
}

const ROOT = join(import.meta.dirname, '..')
const manifest = JSON.parse(textOf('package.json')) as Manifest

describe('exports', () => {
  const entries = Object.entries(manifest.exports).filter(([, target]) => typeof target !== 'string')

  test('name the package itself and its manifest', () => {
    expect(Object.keys(manifest.exports)).toEqual(expect.arrayContaining(['.', './package.json']))
    expect(manifest.exports['./package.json']).toBe('./package.json')
  })

  test.each(entries)('%s leads to a module and its types, both built', (_name, conditions) => {
    expect(Object.keys(conditions), 'types come first, or TypeScript may never see them').toEqual([
      'types',
      'default',
    ])
    for (const target of Object.values(conditions)) {
      expect(existsSync(join(ROOT, target)), built(target)).toBe(true)
    }
  })

  test.each(entries)('%s can be imported by its public name and exports something', (name) => {
    // In a child process, where node resolves the name as for a user; here vite would resolve it.
    const program = `console.log(Object.keys(await import('${posix.join(manifest.name, name)}')).join())`
    const node = spawnSync(process.execPath, ['--input-type=module', '--eval', program], { cwd: ROOT })
    expect(node.stderr.toString()).toBe('')
    expect(node.stdout.toString()).toMatch(/\w\n$/)
  })

  const commands = Object.entries(manifest.bin ?? {})

  test.each(commands)('the command %s is built and names its interpreter', (_name, target) => {
    expect(existsSync(join(ROOT, target)), built(target)).toBe(true)
    expect(textOf(target)).toMatch(/^#!\/usr\/bin\/env node\n/)
  })
})

describe('the version', () => {
  test('is the same in package.json, package-lock.json, CHANGELOG.md and the sources', () => {
    const lock = JSON.parse(textOf('package-lock.json')) as {
      readonly version: string
      readonly packages: Readonly<Record<string, { readonly version: string }>>
    }
    const stated: Record<string, string | undefined> = {
      'package-lock.json': lock.version,
      'package-lock.json, its root package': lock.packages['']?.version,
      'CHANGELOG.md': topVersion(textOf('CHANGELOG.md')),
      ...versionConstants(),
    }
    expect(stated).toEqual(Object.fromEntries(Object.keys(stated).map((place) => [place, manifest.version])))
  })

  test('at the top of a changelog is that of its first release heading', () => {
    const two = '# Changelog\n\nWords on 9.9.9.\n\n## [1.2.3] - 2026-01-31\n\n## [1.2.2] - 2026-01-30\n'
    expect(topVersion(two)).toBe('1.2.3')
    expect(topVersion('# Changelog\n\n## 2.0.0-rc.1\n')).toBe('2.0.0-rc.1')
    expect(topVersion('# Changelog\n')).toBeUndefined()
  })
})

describe('the license', () => {
  test('is the choice of two, and both texts are there and published', () => {
    expect(manifest.license).toBe('(MIT OR Apache-2.0)')
    expect(textOf('LICENSE-MIT')).toMatch(/^MIT License\n\nCopyright \(c\) \d{4} the ministore authors\n/)
    expect(textOf('LICENSE-APACHE')).toMatch(/^\s+Apache License\n\s+Version 2\.0, January 2004\n/)
    expect(manifest.files).toEqual(expect.arrayContaining(['LICENSE-MIT', 'LICENSE-APACHE']))
  })
})

describe('dependencies', () => {
  test('at run time are exactly the five that the design names', () => {
    expect(Object.keys(manifest.dependencies).toSorted()).toEqual([
      '@standard-schema/spec',
      'fs-native-extensions',
      'p-queue',
      'split2',
      'string-width',
    ])
  })

  test('are locked without saying where they were downloaded from', () => {
    const lock = textOf('package-lock.json')
    expect(lock).toContain('"integrity": "sha512-')
    expect(lock).not.toMatch(/"resolved":/)
  })
})

describe('the pages', () => {
  const pages = pagesIn(ROOT)

  test('link to files that are there, and to headings that these have', () => {
    const targets = { has: (path: string) => existsSync(join(ROOT, path)), textOf }
    expect(pages.flatMap((page) => brokenLinks(page, targets))).toEqual([])
  })

  test('name only files that are there', () => {
    const missing = pages.flatMap((page) =>
      [...textOf(page).matchAll(/`((?:bench|src|test)\/[\w./-]+\.\w+)`/g)]
        .filter(([, path = '']) => !existsSync(join(ROOT, path)))
        .map(([name]) => `${page}: ${name}`),
    )
    expect(missing).toEqual([])
  })

  test('ship when they stand beside the code, and link only to files that ship too', () => {
    const packed = packedFiles()
    expect(pages.filter((page) => page.startsWith('src/') && !packed.has(page))).toEqual([])
    const shipped = pages.filter((page) => packed.has(page))
    expect(shipped).toEqual(expect.arrayContaining(['README.md', 'ARCHITECTURE.md', 'src/ministore/FORMAT.md']))
    expect(shipped.flatMap((page) => brokenLinks(page, { has: (path) => packed.has(path), textOf }))).toEqual([])
  }, 60_000)
})

describe('the files of the repository', () => {
  // Built from parts, because otherwise this file would contain the text that it searches for.
  const registries = [['registry', 'npmjs', 'org'].join('.'), ['registry', 'yarnpkg', 'com'].join('.')]
  const homes = ['root', 'work', 'home', 'Users']

  test('name no package registry and no path of the machine they were written on', (context) => {
    const repository = filesOfRepository(ROOT)
    if ('unknown' in repository) {
      console.log(`skipped, for there is no telling what belongs to the repository: ${repository.unknown}`)
      context.skip(repository.unknown)
      return
    }
    const { files } = repository
    expect(files).toContain('package.json')
    const findings = files.flatMap((file) => leaksIn(textOf(file)).map((leak) => `${file}: ${leak}`))
    expect(findings).toEqual([])
  })

  test.each([...registries, ...homes.map((name) => `/${name}/`)])('%s would be found', (leak) => {
    expect(leaksIn(`first line\nsee ${leak}project here`)).toEqual([`line 2: ${leak}`])
    expect(leaksIn(`'${leak}'`)).toEqual([`line 1: ${leak}`])
    expect(leaksIn(`file://${leak}x`)).toHaveLength(1)
  })

  test('a folder or a web page with such a name is not a path of a machine', () => {
    for (const name of homes) {
      expect(leaksIn(`./${name}/x a/${name}/x https://example.com/${name}/x ../${name}/x`)).toEqual([])
    }
  })

  /** Finds the registries and absolute home paths in a text, each with its line. */
  function leaksIn(text: string): string[] {
    const hosts = registries.map((host) => host.replaceAll('.', '\\.')).join('|')
    const pattern = new RegExp(`${hosts}|(?<![\\w.~@})-])/(?:${homes.join('|')})/`, 'g')
    return text
      .split('\n')
      .flatMap((line, index) => [...line.matchAll(pattern)].map(([leak]) => `line ${index + 1}: ${leak}`))
  }
})

function textOf(path: string): string {
  return readFileSync(join(ROOT, path), 'utf8')
}

/** The files that `npm pack` puts into the package, as npm lists them. */
function packedFiles(): Set<string> {
  const args = ['pack', '--dry-run', '--json', '--ignore-scripts', '--silent']
  // On Windows npm is a script that needs a shell.
  const npm = spawnSync('npm', args, { cwd: ROOT, encoding: 'utf8', shell: process.platform === 'win32' })
  if (npm.status !== 0) throw new Error(`npm pack failed: ${npm.error?.message ?? npm.stderr}`)
  const packages = JSON.parse(npm.stdout) as ReadonlyArray<{ readonly files: ReadonlyArray<{ readonly path: string }> }>
  return new Set(packages.flatMap(({ files }) => files.map(({ path }) => path)))
}

function built(target: string): string {
  return `${target} is missing: run \`npm run build\` first`
}

/** The version in the first second-level heading that contains one, with or without brackets. */
function topVersion(changelog: string): string | undefined {
  return /^## \[?v?(\d+\.\d+\.\d+[^\s\]]*)/m.exec(changelog)?.[1]
}

/** Package version constants in the sources, by path. None is allowed; a stale one is not. */
function versionConstants(): Record<string, string> {
  const found: Record<string, string> = {}
  for (const name of readdirSync(join(ROOT, 'src'), { recursive: true, encoding: 'utf8' })) {
    if (!name.endsWith('.ts')) continue
    const path = join('src', name)
    const version = /^(?:export )?const PACKAGE_VERSION(?:: string)? = '([^']*)'/m.exec(textOf(path))?.[1]
    if (version !== undefined) found[path] = version
  }
  return found
}
