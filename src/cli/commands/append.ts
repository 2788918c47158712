import { isUtf8 } from 'node:buffer'
import { addAbortSignal, type Readable } from 'node:stream'

import { isMiniStoreError, messageOf, type MiniStoreError } from '../../errors.ts'
import { MiniStore } from '../../index.ts'
import type { Arguments } from '../arguments.ts'
import type { Command } from '../command.ts'
import { CommandFailure, exitCodes, Interrupted } from '../exit-codes.ts'
import type { Io } from '../io.ts'
import { ProgressBar } from '../terminal/progress-bar.ts'
import { jsonLine } from '../terminal/style.ts'
import { plural, sizeText } from '../terminal/units.ts'

const mostInBatch = 100_000
/**
 * The longest record that is accepted, in bytes. A batch is also written when it reaches this
 * length.
 */
const maxRecordBytes = 16 * 1024 * 1024

export const append: Command = {
  name: 'append',
  summary: 'appends records, lines of JSON from standard input',
  positionals: ['JOURNAL'],
  options: {
    batch: { value: 'N', help: 'so many lines with one fsync; 1 unless said otherwise' },
    json: { help: 'prints the result as an object' },
  },
  details: [
    'Each line is on stable storage before the next is taken; with --batch N, each N lines, or 16 MiB, or',
    'what there is when the input ends. Prints the sequence number of the last record. A line is stored',
    'as it came, byte for byte, without its line ending; blank lines are passed over. A line that is not',
    'JSON ends it: nothing of it is written, every line before it is durable. Makes the journal when',
    'there is none.',
  ],
  examples: [
    'jq -c .[] events.json | ministore append state/journal.jsonl',
    'ministore append state/journal.jsonl --batch 1000 < events.jsonl',
  ],
  changes: () => true,
  run: runAppend,
}

async function runAppend(args: Arguments, io: Io): Promise<number> {
  const size = args.integer('batch', { most: mostInBatch }) ?? 1
  const stdin = io.openStdin()
  // A valid line is stored unchanged, so a number that no double can hold keeps its value.
  const codec = { encode: (line: string) => line, decode: (line: string) => line }
  await using store = await MiniStore.open<string>(args.positional(0), { codec, maxRecordBytes })
  const before = store.lastSequence
  const bar = new ProgressBar(io.stderr, 'append')
  try {
    await appendLines(store, { input: untilAborted(stdin, io.signal), size, bar })
  } catch (error) {
    bar.clear()
    const done = store.lastSequence - before
    if (error instanceof Interrupted) {
      const { lastSequence } = store
      const message = `Interrupted after ${plural(done, 'record')}; the last has sequence ${lastSequence}`
      const told = { code: 'ERR_INTERRUPTED', message, records: done, lastSequence }
      io.stderr.tell(args.flag('json') ? jsonLine({ error: told }) : `${message}.\n`)
    }
    if (!(error instanceof BadInputError) && !isMiniStoreError(error)) throw error
    throw failure(error, done, store.lastSequence)
  }
  bar.clear()
  const { lastSequence } = store
  const result = { firstSequence: before + 1, lastSequence, records: lastSequence - before }
  await io.stdout.write(args.flag('json') ? jsonLine(result) : `${lastSequence}\n`)
  return exitCodes.ok
}

async function appendLines(
  store: MiniStore<string>,
  how: { readonly input: AsyncIterable<Uint8Array>; readonly size: number; readonly bar: ProgressBar },
): Promise<void> {
  const { input, size, bar } = how
  let batch: string[] = []
  let batchBytes = 0
  let records = 0
  let bytes = 0
  const write = async (): Promise<void> => {
    const lines = batch
    batch = []
    batchBytes = 0
    if (lines.length === 0) return
    await store.appendAll(lines)
    records += lines.length
    bar.update({ bytes, records })
  }
  try {
    for await (const line of inputLines(input, maxRecordBytes)) {
      checkJson(line)
      batch.push(line.text)
      batchBytes += line.text.length + 1
      bytes += line.text.length + 1
      if (batch.length >= size || batchBytes >= maxRecordBytes) await write()
    }
  } catch (error) {
    // The lines before a bad line are valid, so they are written.
    if (error instanceof BadInputError) await write()
    throw error
  }
  await write()
}

function checkJson({ number, text }: InputLine): void {
  try {
    JSON.parse(text)
  } catch (error) {
    throw new BadInputError(number, `is not JSON: ${messageOf(error)}`)
  }
}

/**
 * Yields standard input until the process is asked to end. Without the signal, reading from a
 * terminal would wait for input forever.
 */
async function* untilAborted(stdin: Readable, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  addAbortSignal(signal, stdin)
  try {
    yield* stdin as AsyncIterable<Uint8Array>
  } catch (error) {
    throw signal.aborted ? signal.reason : error
  }
}

function failure(error: BadInputError | MiniStoreError, done: number, lastSequence: number): CommandFailure {
  const kept =
    done === 0
      ? 'Nothing was appended'
      : `Durable before it: ${plural(done, 'record')}, the last with sequence ${lastSequence}`
  const line = error instanceof BadInputError ? error.line : undefined
  const code = error instanceof BadInputError ? 'ERR_BAD_INPUT' : error.code
  return new CommandFailure(`${error.message}. ${kept}`, {
    cause: error,
    code,
    details: { line, records: done, lastSequence },
  })
}

/** One line of standard input that is not blank. */
export interface InputLine {
  /** Counted from 1, including blank lines. */
  readonly number: number
  /** The line without its line ending. */
  readonly text: string
}

/** A line of the input that cannot be stored. */
export class BadInputError extends Error {
  override readonly name = 'BadInputError'
  readonly line: number

  constructor(line: number, problem: string) {
    super(`Line ${line} of the input ${problem}`)
    this.line = line
  }
}

/**
 * Yields the lines of a stream of bytes. Lines end in `\n` or `\r\n`; the last line may have no
 * ending. Blank lines are skipped, because they contain no record. Memory use is one line and one
 * chunk.
 *
 * @param maxLineBytes a longer line is refused before all of it is read.
 * @throws {BadInputError} if a line is too long or not UTF-8.
 */
export async function* inputLines(
  input: AsyncIterable<Uint8Array>,
  maxLineBytes: number,
): AsyncGenerator<InputLine> {
  let number = 0
  let parts: Buffer[] = []
  let bytes = 0
  const tooLong = (line: number): BadInputError => new BadInputError(line, `is longer than ${sizeText(maxLineBytes)}`)
  const take = (part: Buffer): void => {
    bytes += part.length
    // The one extra byte may be a `\r`.
    if (bytes > maxLineBytes + 1) throw tooLong(number + 1)
    parts.push(part)
  }
  const finish = (): InputLine | undefined => {
    const whole = parts.length === 1 ? (parts[0] as Buffer) : Buffer.concat(parts)
    parts = []
    bytes = 0
    number++
    const line = whole.at(-1) === carriageReturn ? whole.subarray(0, -1) : whole
    if (line.length > maxLineBytes) throw tooLong(number)
    if (!isUtf8(line)) throw new BadInputError(number, 'is not UTF-8')
    const text = line.toString()
    return /^\s*$/.test(text) ? undefined : { number, text }
  }
  for await (const given of input) {
    const chunk = Buffer.from(given.buffer, given.byteOffset, given.byteLength)
    let from = 0
    for (let end; (end = chunk.indexOf(newline, from)) !== -1; from = end + 1) {
      take(chunk.subarray(from, end))
      const line = finish()
      if (line !== undefined) yield line
    }
    if (from < chunk.length) take(chunk.subarray(from))
  }
  const line = bytes === 0 ? undefined : finish()
  if (line !== undefined) yield line
}

const newline = 0x0a
const carriageReturn = 0x0d
