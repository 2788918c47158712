import { isUtf8 } from 'node:buffer'
import { addAbortSignal, type Readable } from 'node:stream'

import { isMiniStoreError, messageOf, type MiniStoreError } from '../../errors.ts'
import { MiniStore } from '../../index.ts'
import type { Arguments, Command } from '../command.ts'
import { CommandFailure, exitCodes, Interrupted } from '../errors.ts'
import type { Io } from '../io.ts'
import { ProgressBar } from '../progress-bar.ts'
import { print } from '../render.ts'
import { jsonLine, plural, sizeText } from '../terminal.ts'

const maxBatch = 100_000
/**
 * The longest record that is accepted, in bytes. A batch is also written when it reaches this
 * length.
 */
const maxRecordBytes = 16 * 1024 * 1024

export const append: Command = {
  name: 'append',
  summary: 'appends lines of JSON from standard input',
  positionals: ['JOURNAL'],
  options: {
    batch: { value: 'N', help: 'write N lines with one fsync (default: 1)' },
    json: { help: 'print the result as an object' },
  },
  details: [
    'Each line is on stable storage before the next one is taken. With --batch, this holds for N lines',
    'at a time; a batch also ends at 16 MiB and at the end of the input. Prints the sequence number of',
    'the last record. Creates the journal if it does not exist.',
    '',
    'A line is stored byte for byte, without its line ending. Blank lines are skipped. A line that is',
    'not JSON ends the command: it is not stored, and every line before it is durable.',
  ],
  examples: [
    'jq -c .[] events.json | ministore append journal.jsonl',
    'ministore append journal.jsonl --batch 1000 < events.jsonl',
  ],
  changes: () => true,
  run: runAppend,
}

async function runAppend(args: Arguments, io: Io): Promise<number> {
  const size = args.integer('batch', { max: maxBatch }) ?? 1
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
    const { lastSequence } = store
    const records = lastSequence - before
    if (error instanceof Interrupted) {
      const message = `Interrupted after ${plural(records, 'record')}; the last has sequence ${lastSequence}`
      const told = { code: 'ERR_INTERRUPTED', message, records, lastSequence }
      io.stderr.tell(args.flag('json') ? jsonLine({ error: told }) : `${message}.\n`)
    }
    if (!(error instanceof BadInputError) && !isMiniStoreError(error)) throw error
    throw failure(error, records, lastSequence)
  }
  bar.clear()
  const { lastSequence } = store
  const facts = { firstSequence: before + 1, lastSequence, records: lastSequence - before }
  await print(facts, { args, io }, () => [String(lastSequence)])
  return exitCodes.ok
}

async function appendLines(
  store: MiniStore<string>,
  how: { readonly input: AsyncIterable<Uint8Array>; readonly size: number; readonly bar: ProgressBar },
): Promise<void> {
  const { input, size, bar } = how
  let lines: string[] = []
  let bytes = 0
  const done = { records: 0, bytes: 0 }
  const write = async (): Promise<void> => {
    if (lines.length === 0) return
    const batch = { lines, bytes }
    lines = []
    bytes = 0
    await store.appendAll(batch.lines)
    done.records += batch.lines.length
    done.bytes += batch.bytes
    bar.update(done)
  }
  try {
    for await (const line of inputLines(input, maxRecordBytes)) {
      checkJson(line)
      lines.push(line.text)
      bytes += line.bytes + 1
      if (lines.length >= size || bytes >= maxRecordBytes) await write()
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
      : `Appended before it: ${plural(done, 'record')}; the last has sequence ${lastSequence}`
  const line = error instanceof BadInputError ? error.line : undefined
  const code = error instanceof BadInputError ? 'ERR_BAD_INPUT' : error.code
  return new CommandFailure(`${error.message}. ${kept}`, {
    cause: error,
    code,
    details: { line, records: done, lastSequence },
  })
}

/** One line of standard input that is not blank. */
interface InputLine {
  /** Counted from 1, including blank lines. */
  readonly number: number
  /** The line without its line ending. */
  readonly text: string
  /** Length of the text in UTF-8. */
  readonly bytes: number
}

/** A line of the input that cannot be stored. */
class BadInputError extends Error {
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
async function* inputLines(
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
    return /^\s*$/.test(text) ? undefined : { number, text, bytes: line.length }
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
