import { fstatSync } from 'node:fs'
import type { Readable } from 'node:stream'

import type { Codec } from '../ministore/settings.ts'
import { Interrupted, UsageError } from './exit-codes.ts'
import { Output } from './output.ts'
import { visibleJson } from './terminal/style.ts'

/** The parts of its process that a command uses. */
export interface Io {
  /**
   * Returns standard input, a stream of bytes.
   *
   * @throws {UsageError} if standard input is a directory, which would read like empty input.
   */
  openStdin(): Readable
  readonly stdout: Output
  readonly stderr: Output
  readonly env: Readonly<Record<string, string | undefined>>
  /** Aborted with an {@link Interrupted} when the process is asked to end. */
  readonly signal: AbortSignal
}

/**
 * Returns the Io of this process. From now on the first SIGINT (Ctrl-C) or SIGTERM only aborts
 * `signal`. A second signal of the same kind ends the process.
 */
export function processIo(): Io {
  const stop = new AbortController()
  for (const name of ['SIGINT', 'SIGTERM'] as const)
    process.once(name, () => stop.abort(new Interrupted(name)))
  return {
    openStdin,
    stdout: new Output(process.stdout, stop.signal),
    stderr: new Output(process.stderr, stop.signal),
    env: process.env,
    signal: stop.signal,
  }
}

function openStdin(): Readable {
  if (isDirectory(stdinDescriptor)) throw new UsageError('Expected lines on standard input, got a directory')
  return process.stdin
}

function isDirectory(descriptor: number): boolean {
  try {
    return fstatSync(descriptor).isDirectory()
  } catch {
    // Not every console can be queried, and no console is a directory.
    return false
  }
}

const stdinDescriptor = 0

/**
 * Decodes each record as its line, byte for byte: numbers, spaces and the order of keys stay as
 * they were written.
 */
export function lineCodec(options: { readonly isJson: boolean }): Pick<Codec<never, string>, 'decode'> {
  return { decode: options.isJson ? checkedLine : (line) => line }
}

function checkedLine(line: string): string {
  JSON.parse(line)
  return line
}

/**
 * Formats a record for printing, byte for byte, except on a terminal, which could act on invisible
 * characters. There they are printed as JSON escapes, so that a copied line keeps its value.
 */
export function recordLine(record: string, { stdout }: Pick<Io, 'stdout'>): string {
  return `${stdout.isTerminal ? visibleJson(record) : record}\n`
}

/**
 * Formats a record and its sequence number as one JSON object. Text of another codec becomes a
 * string.
 */
export function numbered(entry: { readonly sequence: number; readonly record: string }, isJson: boolean): string {
  const { sequence, record } = entry
  return `{"sequence":${sequence},"record":${isJson ? record : JSON.stringify(record)}}`
}
