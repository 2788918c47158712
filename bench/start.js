/**
 * `npm run bench`: installs the peers, compiles the bench and runs it with the given arguments. The
 * library must already be built. This file is plain JavaScript because it runs before anything is
 * compiled.
 *
 * A full run installs the peers, and installs them again only if bench/package-lock.json, the
 * platform or the ABI version of Node has changed. A quick run uses the peers already installed. If
 * bench/node_modules does not exist, a quick run installs the peers without running install
 * scripts, and continues without peers if that fails.
 */
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

const bench = import.meta.dirname
const root = join(bench, '..')
const modules = join(bench, 'node_modules')
const stampFile = join(modules, '.installed-for')
const given = process.argv.slice(2)

process.exitCode = await start()

/** Resolves with the exit code. */
async function start() {
  if (!existsSync(join(root, 'dist/index.js'))) {
    console.error('dist/index.js is missing: run `npm run build` first')
    return 1
  }
  const installed = given.includes('--quick') ? await installSome() : await installAll()
  if (installed !== 0) return installed
  rmSync(join(bench, 'dist'), { recursive: true, force: true })
  const compiler = join(root, 'node_modules/@typescript/native/bin/tsc')
  const compiled = await run(process.execPath, [compiler, '-p', join(bench, 'tsconfig.build.json')])
  if (compiled !== 0) return compiled
  return run(process.execPath, ['--expose-gc', '--no-flush-bytecode', join(bench, 'dist/main.js'), ...given])
}

/**
 * Installs all peers, compiling those without a prebuilt binary for this platform. Does nothing if
 * the stamp file says that they are installed. Resolves with the exit code of npm.
 */
async function installAll() {
  const lock = createHash('sha256').update(readFileSync(join(bench, 'package-lock.json'))).digest('hex')
  const stamp = `${process.platform} ${process.arch} ${process.versions.modules} ${lock}\n`
  if (existsSync(stampFile) && readFileSync(stampFile, 'utf8') === stamp) return 0
  const exitCode = await install()
  if (exitCode === 0) writeFileSync(stampFile, stamp)
  return exitCode
}

/**
 * Installs peers without running install scripts, unless bench/node_modules exists. Resolves with 0
 * even if npm fails: the results list every missing peer with the reason.
 */
async function installSome() {
  if (existsSync(modules)) return 0
  const exitCode = await install('--ignore-scripts')
  if (exitCode !== 0) console.error('the peers could not be installed: going on without them')
  return 0
}

function ignore() {}

function install(...flags) {
  // npm's output goes to standard error, because standard output is for results.
  return run('npm', ['ci', '--prefix', bench, '--no-audit', '--no-fund', ...flags], ['ignore', 2, 'inherit'])
}

/**
 * Runs a program and resolves with its exit code, or with 1 if it cannot start or a signal ends it.
 * SIGINT is ignored here, because the program receives it too and cleans up. SIGTERM is passed on.
 */
function run(program, parameters, stdio = 'inherit') {
  process.on('SIGINT', ignore)
  return new Promise((resolve) => {
    const child = spawn(program, parameters, { stdio, cwd: root })
    const pass = (signal) => child.kill(signal)
    process.on('SIGTERM', pass)
    child.on('error', (error) => {
      console.error(`${program}: ${error.message}`)
      resolve(1)
    })
    child.on('close', (code) => {
      process.off('SIGINT', ignore)
      process.off('SIGTERM', pass)
      resolve(code ?? 1)
    })
  })
}
