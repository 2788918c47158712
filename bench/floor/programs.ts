import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'

import { benchFolder, compiledFolder } from '../folders.ts'
import { firstLine } from '../packages.ts'

const run = promisify(execFile)

/** A compiled program that appends by itself, or why it is missing. */
export type Compiled = { readonly program: string } | { readonly missing: string }

/**
 * Compiles bench/floor/append-floor.c with the first compiler that succeeds: `$CC` (default: `cc`),
 * then `gcc`, then `clang`. If all fail, resolves with the reasons.
 */
export async function compileFloor(): Promise<Compiled> {
  const source = join(benchFolder, 'floor/append-floor.c')
  const program = join(compiledFolder, 'append-floor')
  const failures: string[] = []
  for (const compiler of [process.env['CC'] ?? 'cc', 'gcc', 'clang']) {
    try {
      await run(compiler, ['-std=c99', '-O2', '-o', program, source])
      return { program }
    } catch (error) {
      failures.push(firstLine(error))
    }
  }
  return { missing: `not compiled: ${failures.join('; ')}` }
}

/** Where Debian's packages `librust-*-dev` put the sources of crates. */
const debianCrates = '/usr/share/cargo/registry'

/**
 * Compiles bench/floor/rust, the append of the Rust crate, from Debian's packages of its
 * dependencies. If they or Rust are not installed, resolves with the reason.
 */
export async function compileRustCrate(): Promise<Compiled> {
  if (!existsSync(debianCrates)) {
    return { missing: 'not compiled: needs Rust and the Debian packages librust-tokio-dev and librust-serde-json-dev' }
  }
  const manifest = join(benchFolder, 'floor/rust/Cargo.toml')
  const target = join(compiledFolder, 'rust')
  const configuration = ['source.crates-io.replace-with="debian"', `source.debian.directory="${debianCrates}"`]
  const configured = configuration.flatMap((line) => ['--config', line])
  try {
    await run('cargo', ['build', '--quiet', '--release', '--offline', '--manifest-path', manifest, '--target-dir', target, ...configured])
    return { program: join(target, 'release/ministore-append') }
  } catch (error) {
    return { missing: `not compiled: ${firstLine(error)}` }
  }
}

/**
 * Runs a compiled program for `milliseconds` and resolves with the duration of each append, in
 * nanoseconds and in order. `bytes` counts a line with its line feed.
 */
export async function runProgram(
  program: string,
  options: { readonly path: string; readonly bytes: number; readonly milliseconds: number },
): Promise<number[]> {
  const given = [options.path, String(options.bytes), String(options.milliseconds)]
  const { stdout } = await run(program, given, { maxBuffer: 2 ** 28 })
  return stdout.trimEnd().split('\n').map(Number)
}
