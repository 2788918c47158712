import { readdirSync, readFileSync } from 'node:fs'
import { isBuiltin } from 'node:module'
import { join, posix, sep } from 'node:path'

import { describe, expect, test } from 'vitest'
import { parseAst } from 'vitest/node'

/**
 * Which parts of src may import which others: the import direction of the design, as data.
 *
 * A part is a folder of src, or a file directly in src, named without its extension.
 * A part may always import from itself, and otherwise only from parts above it in the table.
 * A part missing from the table may not exist in src, and every part in it must exist.
 */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  errors: [],
  options: ['errors'],
  async: ['errors', 'options'],
  schema: ['errors', 'options', 'async'],
  fs: ['errors', 'options'],
  // The interface of any log, and what works on any log.
  journal: ['errors', 'options', 'async', 'schema'],
  ministore: ['errors', 'options', 'async', 'schema', 'fs', 'journal'],
  // Inspecting, verifying and repairing use the journal and are not part of it.
  maintenance: ['errors', 'options', 'async', 'schema', 'fs', 'journal', 'ministore'],
  minisnap: ['errors', 'options', 'async', 'schema', 'fs', 'journal'],
  ministate: ['errors', 'options', 'async', 'schema', 'fs', 'journal', 'ministore', 'minisnap'],
  miniqueue: ['errors', 'options', 'async', 'schema', 'fs', 'minisnap', 'ministate'],
  http: ['errors', 'options', 'async', 'schema', 'fs', 'journal', 'ministore', 'minisnap', 'ministate'],
  postgres: ['errors', 'options', 'async', 'schema', 'journal', 'ministore', 'minisnap'],
  // The public entry of the module `ministore`, which is the package itself.
  index: ['errors', 'options', 'schema', 'fs', 'journal', 'ministore'],
  cli: [
    'errors', 'options', 'async', 'fs', 'journal', 'ministore', 'maintenance', 'minisnap', 'ministate', 'miniqueue', 'http',
    'index',
  ],
  // Published for users' own tests: it must not depend on the bricks, only on their interfaces.
  testing: ['errors', 'options', 'fs', 'journal'],
}

/** The files that must be right for a record to be safe, in the order in which README.md names them. */
const CORE = {
  'src/ministore': ['writer', 'active-segment', 'rotation', 'recovery', 'format', 'scan', 'segments'],
  'src/fs': ['lock', 'durable', 'evidence'],
}

const MAX_LINES_PER_FILE = 450
/** Counts the files directly in a folder, so `cli` and `cli/commands` count separately. */
const MAX_FILES_PER_FOLDER = 15

/**
 * Classes that `instanceof` may not use, since an error may come from another copy of the library.
 * A source may use `instanceof` only with other classes that it declares or imports from src.
 */
const MAY_BE_ANOTHERS = ['MiniStoreError']

const ROOT = join(import.meta.dirname, '..')
const sources = readSources(join(ROOT, 'src'))
const runtimeDependencies = Object.keys(
  (JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { dependencies: object }).dependencies,
)

describe('src', () => {
  test('is found: at least the leaves and the file-system port', () => {
    expect([...sources.keys()]).toEqual(expect.arrayContaining(['errors.ts', 'fs/file-system.ts']))
  })

  test('imports only in the direction of the design', () => {
    expect(wrongDirections(sources)).toEqual([])
  })

  test('has a direction: no part may import a part below it in the table, and each part is there', () => {
    expect(tableFaults(MAY_IMPORT, sources)).toEqual([])
  })

  test('imports only files that exist, by their full name', () => {
    expect(danglingImports(sources)).toEqual([])
  })

  test('imports no package but node itself and the runtime dependencies', () => {
    expect(foreignImports(sources, runtimeDependencies)).toEqual([])
  })

  test('has no import cycle', () => {
    expect(importCycles(sources)).toEqual([])
  })

  test('loads nothing of the server of streams with the package itself', () => {
    const loaded = new Set(['index.ts'])
    for (const path of loaded) {
      const { imports } = sources.get(path) as Source
      for (const { specifier, isTypeOnly } of imports) if (specifier.startsWith('.') && !isTypeOnly) loaded.add(resolve(path, specifier))
      expect(imports.map(({ specifier }) => specifier)).not.toContain('node:http')
    }
    expect(loaded.size).toBeGreaterThan(20)
    expect([...loaded].filter((path) => path.startsWith('http/'))).toEqual([])
  })

  test('uses instanceof only for classes that cannot come from another realm or another copy of the library', () => {
    expect(foreignClasses(sources)).toEqual([])
  })

  test(`has no file longer than ${MAX_LINES_PER_FILE} lines`, () => {
    expect(longFiles(sources)).toEqual([])
  })

  test(`has no folder with more than ${MAX_FILES_PER_FOLDER} files`, () => {
    expect(crowdedFolders(sources)).toEqual([])
  })
})

describe('the core', () => {
  const files = Object.entries(CORE).flatMap(([folder, names]) =>
    names.map((name) => ({ name, text: readFileSync(join(ROOT, folder, `${name}.ts`), 'utf8') })),
  )

  test('is named in README.md, with its length rounded to a hundred lines', () => {
    const lines = files.reduce((sum, { text }) => sum + text.split('\n').length - 1, 0)
    const rounded = (Math.round(lines / 100) * 100).toLocaleString('en-US')
    const readme = readFileSync(join(ROOT, 'README.md'), 'utf8').replaceAll('\n', ' ')
    expect(readme, `the core has ${lines} lines`).toContain(`if about ${rounded} lines, comments included, are right`)
    const named = (names: readonly string[]): string =>
      names.map((name) => `\`${name}\``).join(', ').replace(/, (`[\w-]+`)$/, ' and $1')
    for (const [folder, names] of Object.entries(CORE)) expect(readme).toContain(`${named(names)} in \`${folder}\``)
  })

  test.each(files)('begins $name.ts with the invariant that it keeps', ({ text }) => {
    expect(text).toMatch(/^\/\*\*\n(?: \*.*\n)* \* \*\*Invariant\.\*\* /)
  })
})

describe('the checks themselves', () => {
  test('every form of import is seen, and which of them are erased with the types', () => {
    const source = `
      import './effect.ts'
      import plain, * as all from "./plain.ts"
      import type { Only } from './only-types.ts'
      import { type Inline } from './inline.ts'
      import {
        many,
        lines,
      } from './many-lines.ts'
      export { re } from './re-export.ts'
      export * from './star.ts'
      export type { Shape } from './shape.ts'
      let value: import('./in-a-type.ts').Value
      const later = await import('./dynamic.ts')
    `
    expect(importsOf(source)).toEqual([
      { specifier: './effect.ts', isTypeOnly: false },
      { specifier: './plain.ts', isTypeOnly: false },
      { specifier: './only-types.ts', isTypeOnly: true },
      // With verbatimModuleSyntax the statement stays, as `import {}`.
      { specifier: './inline.ts', isTypeOnly: false },
      { specifier: './many-lines.ts', isTypeOnly: false },
      { specifier: './re-export.ts', isTypeOnly: false },
      { specifier: './star.ts', isTypeOnly: false },
      { specifier: './shape.ts', isTypeOnly: true },
      { specifier: './in-a-type.ts', isTypeOnly: true },
      { specifier: './dynamic.ts', isTypeOnly: false },
    ])
  })

  test('comments, strings and templates that look like imports are not imports', () => {
    const source = `
      // import a from './comment.ts'
      /** @example import b from './docs.ts' */
      const text = "import c from './string.ts'"
      const template = \`export * from './template.ts'\`
    `
    expect(importsOf(source)).toEqual([])
  })

  test('an import against the direction is reported with its file and what it imports', () => {
    const tree = treeOf({
      'errors.ts': `import { open } from './fs/node.ts'`,
      'fs/node.ts': `import type { Store } from '../ministore/store.ts'`,
      'ministore/store.ts': `import { node } from '../fs/node.ts'`,
      'testing/simulation.ts': `export { node } from '../fs/node.ts'\nexport * from '../ministore/store.ts'`,
      'miniqueue/queue.ts': `import { Store } from '../ministore/store.ts'`,
    })
    expect(wrongDirections(tree)).toEqual([
      'errors.ts: errors may not import fs (./fs/node.ts)',
      'fs/node.ts: fs may not import ministore (../ministore/store.ts)',
      'testing/simulation.ts: testing may not import ministore (../ministore/store.ts)',
      'miniqueue/queue.ts: miniqueue may not import ministore (../ministore/store.ts)',
    ])
  })

  test('a folder missing from the table is reported, even when it imports nothing', () => {
    expect(wrongDirections(treeOf({ 'utils/misc.ts': '' }))).toEqual([
      'utils/misc.ts: utils is not in the table of what may import what',
    ])
  })

  test('an import that leads out of src is reported', () => {
    expect(wrongDirections(treeOf({ 'errors.ts': `import x from '../test/x.ts'` }))).toEqual([
      'errors.ts: errors may not import .. (../test/x.ts)',
    ])
  })

  test('an import of a file that is not there is reported', () => {
    expect(danglingImports(treeOf({ 'errors.ts': `import x from './option.ts'` }))).toEqual([
      'errors.ts: ./option.ts does not exist',
    ])
  })

  test('a package that is not a runtime dependency is reported; subpaths and scopes are understood', () => {
    const tree = treeOf({
      'errors.ts': `
        import a from 'node:fs/promises'
        import b from 'good'
        import c from 'good/sub'
        import d from '@scope/good/sub'
        import e from 'vitest'
        import f from '@scope/bad'
        import g from 'fs'
      `,
    })
    expect(foreignImports(tree, ['good', '@scope/good'])).toEqual([
      'errors.ts: vitest',
      'errors.ts: @scope/bad',
      'errors.ts: write node:fs',
    ])
  })

  test('a cycle through three files is reported once, by its path', () => {
    const tree = treeOf({
      'fs/a.ts': `import { b } from './b.ts'`,
      'fs/b.ts': `import { c } from './c.ts'`,
      'fs/c.ts': `import { a } from './a.ts'`,
      'fs/d.ts': `import { a } from './a.ts'`,
    })
    expect(importCycles(tree)).toEqual(['fs/a.ts → fs/b.ts → fs/c.ts → fs/a.ts'])
  })

  test('a file that imports itself is a cycle', () => {
    expect(importCycles(treeOf({ 'fs/a.ts': `export * from './a.ts'` }))).toEqual(['fs/a.ts → fs/a.ts'])
  })

  test('an erased cycle of type imports is not reported, nor is a file reached by two paths', () => {
    const tree = treeOf({
      'fs/a.ts': `import { b } from './b.ts'\nimport { c } from './c.ts'`,
      'fs/b.ts': `import { c } from './c.ts'\nimport type { A } from './a.ts'`,
      'fs/c.ts': '',
    })
    expect(importCycles(tree)).toEqual([])
  })

  test('instanceof is reported for global classes, package classes and MiniStoreError, and for no other class of src', () => {
    const tree = treeOf({
      'options.ts': `
        import { MiniStoreError, CallbackError } from './errors.ts'
        import PQueue from 'p-queue'
        class Own {}
        const local = () => {
          class Inner {}
          return value instanceof Inner || value instanceof CallbackError || value instanceof Own
        }
        const text = 'value instanceof Error'
        export const all = value instanceof Error || value instanceof globalThis.Date ||
          value instanceof MiniStoreError || value instanceof PQueue
      `,
    })
    expect(foreignClasses(tree)).toEqual([
      'options.ts: instanceof Error',
      'options.ts: instanceof an expression',
      'options.ts: instanceof MiniStoreError',
      'options.ts: instanceof PQueue',
    ])
  })

  test('a file over the line limit is reported, a file exactly at the limit is not', () => {
    const lines = (count: number) => 'x\n'.repeat(count)
    expect(longFiles(treeOf({ 'errors.ts': lines(450), 'options.ts': lines(451) }))).toEqual([
      'options.ts: 451 lines',
    ])
  })

  test('a folder over the file limit is reported; a folder inside it counts by itself', () => {
    const empty = (folder: string, count: number): Record<string, string> =>
      Object.fromEntries(Array.from({ length: count }, (_, index) => [`${folder}${index}.ts`, '']))
    const tree = treeOf({ ...empty('', 15), ...empty('cli/', 15), ...empty('cli/commands/', 16) })
    expect(crowdedFolders(tree)).toEqual(['cli/commands: 16 files'])
    expect(crowdedFolders(treeOf(empty('', 16)))).toEqual(['.: 16 files'])
  })

  test('a table with a circle, or with a part that is not in src, is reported', () => {
    const tree = treeOf({ 'errors.ts': '', 'fs/node.ts': '' })
    expect(tableFaults({ errors: ['fs'], fs: ['errors'], utils: [] }, tree)).toEqual([
      'errors may import fs, which is not above it in the table',
      'utils is in the table and not in src',
    ])
  })
})

/** One source file: its text and what it imports. */
interface Source {
  readonly text: string
  readonly imports: readonly Import[]
}

interface Import {
  /** The specifier as written: relative, a package or `node:…`. */
  readonly specifier: string
  /** Whether the compiler removes the import, so that it cannot be part of a run-time cycle. */
  readonly isTypeOnly: boolean
}

/** Sources by their path relative to src, with `/`. */
type Tree = ReadonlyMap<string, Source>

function readSources(folder: string): Tree {
  const texts: Record<string, string> = {}
  for (const name of readdirSync(folder, { recursive: true, encoding: 'utf8' }).toSorted()) {
    if (name.endsWith('.ts')) texts[name.split(sep).join('/')] = readFileSync(join(folder, name), 'utf8')
  }
  return treeOf(texts)
}

function treeOf(texts: Readonly<Record<string, string>>): Tree {
  return new Map(Object.entries(texts).map(([path, text]) => [path, { text, imports: importsOf(text) }]))
}

/**
 * Returns everything that a TypeScript source imports, in text order.
 *
 * Uses Vite's parser through vitest, because a regular expression cannot tell code from comments
 * and strings, and typescript 7 has no parser API yet.
 */
function importsOf(text: string): Import[] {
  const found: Import[] = []
  visitNodes(text, (node) => {
    if (isNode(node.source) && typeof node.source.value === 'string') {
      const isTypeOnly = [node.importKind, node.exportKind].includes('type') || node.type === 'TSImportType'
      found.push({ specifier: node.source.value, isTypeOnly })
    }
  })
  return found
}

/** Calls back with every node of a TypeScript source, in text order, parents before children. */
function visitNodes(text: string, onNode: (node: Record<string, unknown>) => void): void {
  const visit = (node: unknown): void => {
    if (Array.isArray(node)) {
      for (const element of node) visit(element)
    } else if (isNode(node)) {
      onNode(node)
      for (const child of Object.values(node)) visit(child)
    }
  }
  // oxlint-disable-next-line typescript/no-deprecated -- its successor is in vite, not in vitest
  visit(parseAst(text, { lang: 'ts' }))
}

/** An ESTree node; `source` is the imported module, on every kind of node that imports. */
function isNode(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function wrongDirections(tree: Tree): string[] {
  return [...tree].flatMap(([path, { imports }]) => {
    const part = partOf(path)
    const allowed = MAY_IMPORT[part]
    if (allowed === undefined) return [`${path}: ${part} is not in the table of what may import what`]
    return imports
      .filter(({ specifier }) => specifier.startsWith('.'))
      .map(({ specifier }) => ({ specifier, target: partOf(resolve(path, specifier)) }))
      .filter(({ target }) => target !== part && !allowed.includes(target))
      .map(({ specifier, target }) => `${path}: ${part} may not import ${target} (${specifier})`)
  })
}

/** What keeps the table from being a direction: an import of a later part, or a part that is gone. */
function tableFaults(table: Readonly<Record<string, readonly string[]>>, tree: Tree): string[] {
  const parts = Object.keys(table)
  const present = new Set([...tree.keys()].map(partOf))
  return parts.flatMap((part, index) => [
    ...(table[part] ?? [])
      .filter((other) => !parts.slice(0, index).includes(other))
      .map((other) => `${part} may import ${other}, which is not above it in the table`),
    ...(present.has(part) ? [] : [`${part} is in the table and not in src`]),
  ])
}

/** The first component of a path in src, without the extension of a file. */
function partOf(path: string): string {
  const [first = path] = path.split('/')
  return first.replace(/\.ts$/, '')
}

function resolve(importer: string, specifier: string): string {
  return posix.join(posix.dirname(importer), specifier)
}

function danglingImports(tree: Tree): string[] {
  return [...tree].flatMap(([path, { imports }]) =>
    imports
      .filter(({ specifier }) => specifier.startsWith('.') && !tree.has(resolve(path, specifier)))
      .map(({ specifier }) => `${path}: ${specifier} does not exist`),
  )
}

function foreignImports(tree: Tree, dependencies: readonly string[]): string[] {
  return [...tree].flatMap(([path, { imports }]) =>
    imports
      .filter(({ specifier }) => !specifier.startsWith('.') && !specifier.startsWith('node:'))
      .filter(({ specifier }) => !dependencies.includes(packageOf(specifier)))
      .map(({ specifier }) => `${path}: ${isBuiltin(specifier) ? `write node:${specifier}` : specifier}`),
  )
}

/** The package that a specifier such as `@scope/name/sub` or `name/sub` belongs to. */
function packageOf(specifier: string): string {
  return specifier.split('/', specifier.startsWith('@') ? 2 : 1).join('/')
}

/**
 * The cycles of imports that exist at run time, each reported once.
 *
 * A depth-first walk: an import of a file on the current path closes a cycle. A finished file is
 * never entered again, so each closing import is found once. At least one cycle of every strongly
 * connected group of files is found.
 */
function importCycles(tree: Tree): string[] {
  const cycles: string[] = []
  const finished = new Set<string>()
  const walk = (path: string, ancestors: readonly string[]): void => {
    const start = ancestors.indexOf(path)
    if (start >= 0) {
      cycles.push([...ancestors.slice(start), path].join(' → '))
      return
    }
    if (finished.has(path)) return
    for (const { specifier, isTypeOnly } of tree.get(path)?.imports ?? []) {
      if (!isTypeOnly && specifier.startsWith('.')) walk(resolve(path, specifier), [...ancestors, path])
    }
    finished.add(path)
  }
  for (const path of tree.keys()) walk(path, [])
  return cycles
}

/** Every `instanceof` of a class that its file neither declares nor imports from src. */
function foreignClasses(tree: Tree): string[] {
  return [...tree].flatMap(([path, { text }]) => {
    const own = new Set<unknown>()
    const asked: unknown[] = []
    visitNodes(text, (node) => {
      if (node.type === 'ClassDeclaration' && isNode(node.id)) own.add(node.id.name)
      if (node.type === 'ImportDeclaration' && isNode(node.source) && String(node.source.value).startsWith('.')) {
        for (const specifier of node.specifiers as Array<{ readonly local: { readonly name: string } }>) {
          own.add(specifier.local.name)
        }
      }
      if (node.type === 'BinaryExpression' && node.operator === 'instanceof' && isNode(node.right)) {
        asked.push(node.right.type === 'Identifier' ? node.right.name : 'an expression')
      }
    })
    for (const name of MAY_BE_ANOTHERS) own.delete(name)
    return asked.filter((name) => !own.has(name)).map((name) => `${path}: instanceof ${String(name)}`)
  })
}

function longFiles(tree: Tree): string[] {
  return [...tree]
    .map(([path, { text }]) => ({ path, lines: text.replace(/\n$/, '').split('\n').length }))
    .filter(({ lines }) => lines > MAX_LINES_PER_FILE)
    .map(({ path, lines }) => `${path}: ${lines} lines`)
}

function crowdedFolders(tree: Tree): string[] {
  const counts = new Map<string, number>()
  for (const path of tree.keys()) {
    const folder = posix.dirname(path)
    counts.set(folder, (counts.get(folder) ?? 0) + 1)
  }
  return [...counts].filter(([, count]) => count > MAX_FILES_PER_FOLDER).map(([folder, count]) => `${folder}: ${count} files`)
}
