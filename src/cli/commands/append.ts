import { isUtf8 } from 'node:buffer'
import { addAbortSignal, type Readable } from 'node:stream'

import { isMiniStoreError, messageOf, type MiniStoreError } from '../../errors.ts'
import { MiniStore } from '../../index.ts'
import type { Arguments, Command } from '../command.ts'
import { CommandFailure, exitCodes, Interrupted } from '../errors.ts'
import type { Io } from '../io.ts'
import { ProgressBar } from '../progress-bar.ts'
import { print } from '../render.ts'
import { linesOf, textOf } from '../../ministore/lines.ts'
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
  const add = async (read: Iterable<InputLine>): Promise<void> => {
    for (const line of read) {
      checkJson(line)
      lines.push(line.text)
      bytes += line.bytes + 1
      if (lines.length >= size || bytes >= maxRecordBytes) await write()
    }
  }
  const splitter = new LineSplitter(maxRecordBytes)
  try {
    for await (const chunk of input) await add(splitter.split(chunk))
    await add(splitter.end())
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
 * Splits chunks of bytes into lines. Lines end in `\n` or `\r\n`; the last line may have no ending.
 * Blank lines are skipped, because they contain no record. Memory use is one line and two chunks.
 *
 * The lines of a chunk are decoded together and given without a promise. A conversion and a promise
 * for each line would cost a fifth of the time of an append in batches.
 */
class LineSplitter {
  readonly #maxLineBytes: number
  /** Number of lines that were given or skipped. */
  #number = 0
  /** The beginning of a line that is not complete. */
  #parts: Buffer[] = []
  #bytes = 0

  /** @param maxLineBytes a longer line is refused before all of it is read. */
  constructor(maxLineBytes: number) {
    this.#maxLineBytes = maxLineBytes
  }

  /**
   * Gives the lines that end in a chunk.
   *
   * @throws {BadInputError} after the lines before it, if a line is too long or not UTF-8.
   */
  *split({ buffer, byteOffset, byteLength }: Uint8Array): Generator<InputLine> {
    const chunk = Buffer.from(buffer, byteOffset, byteLength)
    const end = chunk.lastIndexOf(newline) + 1
    if (end > 0) yield* this.#linesOf(this.#parts.length === 0 ? chunk.subarray(0, end) : this.#join(chunk.subarray(0, end)))
    if (end === chunk.length) return
    this.#parts.push(chunk.subarray(end))
    this.#bytes += chunk.length - end
    // The one extra byte may be a `\r`.
    if (this.#bytes > this.#maxLineBytes + 1) throw this.#tooLong(this.#number + 1)
  }

  /** Gives the last line, if the input did not end in a line feed. */
  *end(): Generator<InputLine> {
    if (this.#bytes > 0) yield* this.#linesOf(this.#join(Buffer.from('\n')))
  }

  #join(end: Buffer): Buffer {
    const whole = Buffer.concat([...this.#parts, end])
    this.#parts = []
    this.#bytes = 0
    return whole
  }

  *#linesOf(block: Buffer): Generator<InputLine> {
    const text = textOf(block)
    if (text === undefined) {
      for (const { line } of linesOf(block)) {
        this.#number++
        if (!isUtf8(line)) throw new BadInputError(this.#number, 'is not UTF-8')
        yield* this.#checked(line.toString())
      }
      return
    }
    const lines = text.split('\n')
    lines.pop()
    for (const line of lines) {
      this.#number++
      yield* this.#checked(line)
    }
  }

  /** Gives a line, unless it is blank. */
  #checked(line: string): InputLine[] {
    const text = line.endsWith('\r') ? line.slice(0, -1) : line
    const bytes = Buffer.byteLength(text)
    if (bytes > this.#maxLineBytes) throw this.#tooLong(this.#number)
    return /^\s*$/.test(text) ? [] : [{ number: this.#number, text, bytes }]
  }

  #tooLong(line: number): BadInputError {
    return new BadInputError(line, `is longer than ${sizeText(this.#maxLineBytes)}`)
  }
}

const newline = 0x0a
