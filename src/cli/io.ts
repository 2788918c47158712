import { fstatSync } from 'node:fs'
import type { Readable } from 'node:stream'

import type { Codec } from '../ministore/settings.ts'
import { Interrupted, UsageError } from './exit-codes.ts'
import { Output } from './output.ts'
import { visibleJson } from './terminal/style.ts'

/** Everything a command has to do with the process it runs in. */
export interface Io {
  /**
   * Standard input, a stream of bytes.
   *
   * @throws {UsageError} when it is a directory, which would pass for an input that is empty.
   */
  openStdin(): Readable
  readonly stdout: Output
  readonly stderr: Output
  readonly env: Readonly<Record<string, string | undefined>>
  /** Aborted, with an {@link Interrupted}, when the process is asked to end. */
  readonly signal: AbortSignal
}

/** That of this process. From here on Ctrl-C ends nothing by itself: the signal tells. A second one does. */
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
    // Not every console can be asked; none is a directory.
    return false
  }
}

const stdinDescriptor = 0

/**
 * Reads records as the lines they are, byte for byte: numbers, spaces and the order of keys stay as they were
 * written.
 */
export function lineCodec(options: { readonly isJson: boolean }): Pick<Codec<never, string>, 'decode'> {
  return { decode: options.isJson ? checkedLine : (line) => line }
}

function checkedLine(line: string): string {
  JSON.parse(line)
  return line
}

/**
 * A record as it is printed: byte for byte, but on a terminal, to which it could do things. There what is not seen
 * stands as an escape of JSON, so that a line that is copied from it has the same value.
 */
export function recordLine(record: string, { stdout }: Pick<Io, 'stdout'>): string {
  return `${stdout.isTerminal ? visibleJson(record) : record}\n`
}

/** A record with its sequence number as one object of JSON; the text of another codec becomes a string. */
export function numbered(entry: { readonly sequence: number; readonly record: string }, isJson: boolean): string {
  const { sequence, record } = entry
  return `{"sequence":${sequence},"record":${isJson ? record : JSON.stringify(record)}}`
}
