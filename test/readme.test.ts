import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

import { afterAll, describe, expect, test } from 'vitest'

import {
  claimedOutput,
  codeBlocks,
  fileNameOf,
  outputMismatch,
  scriptOfCommand,
  shellCommands,
  Workspace,
  type CodeBlock,
} from './support/markdown-code.ts'
import { filesOfRepository, pagesIn } from './support/pages.ts'

/** Languages whose blocks are not run; a `sh` block runs only when its fence says `sh run`. */
const SHOWN_LANGUAGES = new Set(['sh', 'text', 'json', 'jsonl'])

const ROOT = join(import.meta.dirname, '..')
const manifest = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
  readonly name: string
  readonly bin?: Readonly<Record<string, string>>
  readonly scripts: Readonly<Record<string, string>>
}

interface Page {
  /** Path relative to the root, with `/`. */
  readonly path: string
  readonly blocks: readonly CodeBlock[]
  /** The blocks of the page that are run. */
  readonly runnable: readonly CodeBlock[]
}

const pages = pagesIn(ROOT).map(pageOf)
const pagesWithCode = pages.filter(({ runnable }) => runnable.length > 0)
const shellBlocks = pages.flatMap(({ path, blocks }) =>
  blocks.filter(({ language }) => language === 'sh').map(({ code }) => ({ path, code })),
)

describe('every page', () => {
  test('with code is run: the README and one beside each brick', () => {
    const bricks = ['ministore', 'minisnap', 'ministate', 'miniqueue', 'postgres', 'http', 'cli', 'testing']
    expect(pagesWithCode.map(({ path }) => path)).toEqual(
      expect.arrayContaining(['README.md', ...bricks.map((brick) => `src/${brick}/README.md`)]),
    )
  })

  test('with code that git knows is run', (context) => {
    const repository = filesOfRepository(ROOT)
    if ('unknown' in repository) {
      console.log(`skipped, for there is no telling what belongs to the repository: ${repository.unknown}`)
      context.skip(repository.unknown)
      return
    }
    const withCode = repository.files
      .filter((path) => path.endsWith('.md'))
      .filter((path) => pageOf(path).runnable.length > 0)
    expect(withCode.toSorted()).toEqual(pagesWithCode.map(({ path }) => path))
  })

  test('marks each code block with a language that this test knows, and only shell with `run`', () => {
    const unknown = pages.flatMap(({ path, blocks, runnable }) =>
      blocks
        .filter((block) => !runnable.includes(block))
        .filter(({ language, flags }) => !SHOWN_LANGUAGES.has(language) || flags.length > 0)
        .map(({ line, language, flags }) => `${path}, line ${line}: ${[language, ...flags].join(' ')}`),
    )
    expect(unknown).toEqual([])
  })

  test('names only scripts of package.json after `npm run`', () => {
    const missing = shellBlocks.flatMap(({ path, code }) =>
      [...code.matchAll(/\bnpm run (?:--\S+ )*([\w:-]+)/g)]
        .map(([, script = '']) => script)
        .filter((script) => !(script in manifest.scripts))
        .map((script) => `${path}: ${script}`),
    )
    expect(missing).toEqual([])
  })

  test('is about the code that was built', () => {
    expect(existsSync(join(ROOT, 'dist/index.js')), 'dist is missing: run `npm run build` first').toBe(true)
  })
})

describe.each(pagesWithCode)('every program of $path runs, and prints what its comments say', ({ runnable }) => {
  const workspaces: Workspace[] = []

  afterAll(async () => {
    await Promise.all(workspaces.map((workspace) => workspace.remove()))
  })

  test.each(runnable.map((block) => [`${block.heading} (line ${block.line})`, block] as const))(
    '%s',
    async (_name, block) => {
      // A shell block uses the files of the program before it on the page: `cat` on a journal, say.
      // What follows a block that is a file uses that file.
      const shares = isRunnableShell(block) || isFile(runnable[runnable.indexOf(block) - 1])
      const workspace = shares ? workspaces.at(-1) : await createWorkspace()
      if (workspace === undefined) throw new Error('A `sh run` block needs a ts or js block before it')
      if (!workspaces.includes(workspace)) workspaces.push(workspace)
      expect(outputMismatch(claimedOutput(block.code), await workspace.run(block))).toBeUndefined()
    },
    // A block may compile and start several programs, such as vitest, beside other tests.
    300_000,
  )
})

describe('README.md', () => {
  describe('its install-and-run commands', () => {
    const commands = shellBlocks
      .filter(({ path }) => path === 'README.md')
      .flatMap(({ code }) => shellCommands(code))
      .filter((command) => command.includes('&&'))

    test('are two, begin with an install and end in a script of package.json', () => {
      const scripts = commands.map((command) => scriptOfCommand(command) ?? `no script: ${command}`)
      expect(scripts).toHaveLength(2)
      for (const script of scripts) expect(Object.keys(manifest.scripts)).toContain(script)
    })

    test('include the one that .ci/run runs', () => {
      const ci = readFileSync(join(ROOT, '.ci/run'), 'utf8')
      // Flags that only silence npm may differ.
      const run = /^ *(npm ci .*&& npm test)$/m.exec(ci)?.[1]?.replaceAll(/ --\S+/g, '')
      expect(commands).toContain(run)
    })
  })
})

function pageOf(path: string): Page {
  const blocks = codeBlocks(readFileSync(join(ROOT, path), 'utf8'))
  const runnable = blocks.filter(
    (block) => ['ts', 'js', 'cjs'].includes(block.language) || isRunnableShell(block),
  )
  return { path, blocks, runnable }
}

/** Whether a block is not a program but a file beside it: the fence names it, as in `js module.mjs`. */
function isFile(block: CodeBlock | undefined): boolean {
  return block !== undefined && fileNameOf(block) !== undefined
}

function isRunnableShell({ language, flags }: CodeBlock): boolean {
  return language === 'sh' && flags.length === 1 && flags[0] === 'run'
}

/** A project that has installed this checkout and the other packages of the examples. */
function createWorkspace(): Promise<Workspace> {
  const installed = [
    'zod', 'valibot', 'hono', '@durable-streams/client', '@types/node', '@octokit/webhooks-examples', 'pino', 'prom-client', 'vitest',
    '@electric-sql/pglite', 'pg', '@types/pg', 'postgres',
    ...['api', 'context-async-hooks', 'core', 'sdk-trace-base'].map((name) => `@opentelemetry/${name}`),
  ]
  const missing = installed.filter((name) => !existsSync(join(ROOT, 'node_modules', name)))
  if (missing.length > 0) throw new Error(`Not installed: ${missing.join(', ')}. Run \`npm ci\` first`)
  return Workspace.create({
    packages: {
      [manifest.name]: ROOT,
      ...Object.fromEntries(installed.map((name) => [name, join(ROOT, 'node_modules', name)])),
    },
    commands: {
      ...Object.fromEntries(Object.entries(manifest.bin ?? {}).map(([name, target]) => [name, join(ROOT, target)])),
      vitest: join(ROOT, 'node_modules/vitest/vitest.mjs'),
    },
    compiler: join(ROOT, 'node_modules/@typescript/native/bin/tsc'),
    timeoutMs: 120_000,
  })
}
