import { isDeepStrictEqual } from 'node:util'

import { MiniStore } from '../../index.ts'
import { messageOf } from '../../errors.ts'
import { isObject } from '../../options.ts'
import { type Arguments, type Command, commonOptions } from '../command.ts'
import { exitCodes, UsageError } from '../errors.ts'
import type { Io } from '../io.ts'
import { lineCodec, outlineOf, rangeOf } from '../journal.ts'
import { jsonLine, styleFor, visible, visibleJson } from '../terminal.ts'

export const grep: Command = {
  name: 'grep',
  summary: 'prints the records that contain a text',
  positionals: ['PATTERN', 'JOURNAL'],
  rest: 'JOURNAL',
  options: {
    where: { value: 'FIELD=VALUE', isRepeatable: true, help: 'only records whose field has this value' },
    regex: { short: 'E', help: 'PATTERN is a regular expression, as in JavaScript' },
    'ignore-case': { short: 'i', help: 'capital and small letters are the same' },
    from: { value: 'SEQ', help: 'the first sequence number to search' },
    to: { value: 'SEQ', help: 'the last sequence number to search' },
    limit: { value: 'N', help: 'the maximum number of records to find, in all journals together' },
    count: { short: 'c', help: 'print the number of records found, not the records' },
    sequence: { help: 'print {"sequence":N,"record":…}' },
    'no-json': commonOptions.noJson,
    json: { help: 'print {"journal":…,"sequence":N,"record":…}, and errors as JSON too' },
  },
  details: [
    'Looks for PATTERN in the lines as they are on the disk. Text is also found in the form that JSON',
    'gives it: a quotation mark finds \\" too. An empty PATTERN finds every record. With several',
    'journals, each record has its journal before it.',
    '',
    '--where may be given several times. A field within a field is named as in customer.city, an item',
    'of a list by its index. The value fits if it is equal as text or as JSON.',
    '',
    'The exit code is 0 if something was found, and 1 if nothing was or if there is damage, which ends',
    'the search. To search a damaged journal: ministore cat JOURNAL --salvage | grep PATTERN.',
  ],
  examples: [
    'ministore grep refund journal.jsonl --sequence',
    "ministore grep '' journal.jsonl --where customer.city=Oslo --count",
  ],
  run: runGrep,
}

/** What a line must have to be found. */
interface Search {
  /**
   * Lists of what a line may have. A line that has nothing of one list is not found. Looking for bytes
   * in a whole block is much faster than looking at each line, so most blocks need no more than that.
   */
  readonly needles: ReadonlyArray<readonly Needle[]>
  /** Decides about a line that has the needles. Without it, such a line is found. */
  readonly isMatch: ((line: string) => boolean) | undefined
  /** What is emphasized on a terminal. */
  readonly emphasis: RegExp | undefined
}

type Needle = Buffer | RegExp

interface Found {
  readonly line: string
  /** Undefined unless lines are counted. */
  readonly sequence: number | undefined
}

async function runGrep(args: Arguments, io: Io): Promise<number> {
  const [pattern = '', ...paths] = args.positionals
  const search = searchOf(pattern, args)
  const range = rangeOf(args)
  const limit = args.integer('limit', { min: 0 }) ?? Number.POSITIVE_INFINITY
  const [isJson, isCount] = [args.flag('json'), args.flag('count')]
  let total = 0
  for (const path of paths) {
    const label = paths.length > 1 ? path : undefined
    const textOf = formatterOf(args, io, { path, label, search })
    let count = 0
    if (total < limit) {
      for await (const found of recordsFound(path, { search, range, args, io })) {
        count++
        const waiting = isCount ? undefined : io.stdout.write(textOf(found))
        if (waiting !== undefined) await waiting
        if (total + count === limit) break
      }
    }
    total += count
    if (isCount) io.stdout.tell(isJson ? jsonLine({ journal: path, count }) : `${labelText(label)}${count}\n`)
  }
  // Where only printing is left to do, a closed pipe ends the command as it does while printing.
  await io.stdout.flush()
  return total > 0 ? exitCodes.ok : exitCodes.failed
}

function searchOf(pattern: string, args: Arguments): Search {
  if (pattern.includes('\n')) throw new UsageError('Expected PATTERN to be in one line, got a line feed')
  const isJson = !args.flag('no-json')
  const conditions = args.texts('where').map(conditionOf)
  if (conditions.length > 0 && !isJson) throw new UsageError('Expected records in JSON for --where, got --no-json')
  const expression = expressionOf(pattern, args)
  const isLiteral = !args.flag('regex') && !args.flag('ignore-case')
  const needles = conditions.flatMap((condition) => condition.needles)
  if (isLiteral && pattern !== '') needles.push(formsOf(pattern).map(bytesOf))
  const tests = conditions.map((condition) => (line: string) => condition.fits(JSON.parse(line)))
  if (!isLiteral && expression !== undefined) tests.unshift((line) => expression.test(line))
  return {
    needles,
    isMatch: tests.length === 0 ? undefined : (line) => tests.every((test) => test(line)),
    emphasis: expression === undefined ? undefined : new RegExp(expression, `${expression.flags}g`),
  }
}

/** @throws {UsageError} if the pattern is no regular expression. */
function expressionOf(pattern: string, args: Arguments): RegExp | undefined {
  if (pattern === '') return undefined
  const flags = args.flag('ignore-case') ? 'iu' : 'u'
  const source = args.flag('regex') ? pattern : formsOf(pattern).map(literal).join('|')
  try {
    return new RegExp(source, flags)
  } catch (error) {
    throw new UsageError(`Expected PATTERN to be a regular expression: ${messageOf(error)}`, { cause: error })
  }
}

/** One `--where`. */
function conditionOf(given: string): { readonly needles: Search['needles'][number][]; fits(record: unknown): boolean } {
  const at = given.indexOf('=')
  if (at < 1) throw new UsageError(`Expected --where to be FIELD=VALUE, got ${JSON.stringify(given)}`)
  const keys = given.slice(0, at).split('.')
  const text = given.slice(at + 1)
  const value = jsonOr(text)
  const names = keys.filter((key) => !/^\d+$/.test(key))
  // Lists, objects and numbers of many digits can be written in many ways.
  const isOneWay = typeof value === 'number' ? Number.isSafeInteger(value) : !isObject(value)
  const words = isOneWay ? [...names, String(value)] : names
  // A character may be written as an escape, and a number with an exponent. Such a line is parsed.
  const other = typeof value === 'number' ? [bytesOf('\\'), exponent] : [bytesOf('\\')]
  return {
    needles: words.filter((word) => word !== '').map((word) => [bytesOf(inJson(word)), ...other]),
    fits(record) {
      const found = keys.reduce<unknown>((part, key) => (isObject(part) && Object.hasOwn(part, key) ? Reflect.get(part, key) : undefined), record)
      return found === text || found === value || (isObject(found) && isDeepStrictEqual(found, value))
    },
  }
}

const exponent = /\d[eE][+-]?\d/

function jsonOr(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return text
  }
}

/** The text, and its form within a JSON string if that is another. */
function formsOf(text: string): string[] {
  return [...new Set([text, inJson(text)])]
}

/** The source of a regular expression for this text. */
function literal(text: string): string {
  return text.replaceAll(/[\\^$.*+?()[\]{}|/]/g, String.raw`\$&`)
}

/** Text as it is within a JSON string. */
function inJson(text: string): string {
  return JSON.stringify(text).slice(1, -1)
}

function bytesOf(text: string): Buffer {
  return Buffer.from(text)
}

/** Reads a journal in blocks of lines and gives the lines that are found. */
async function* recordsFound(
  path: string,
  { search, range, args, io }: { readonly search: Search; readonly range: ReturnType<typeof rangeOf>; readonly args: Arguments; readonly io: Io },
): AsyncGenerator<Found> {
  const outline = await outlineOf(path, { signal: io.signal })
  if (outline === undefined) return
  const codec = args.flag('no-json') ? lineCodec({ isJson: false }) : undefined
  const isCounted = args.flag('sequence') || args.flag('json')
  let next = Math.max(range.from ?? 1, outline.firstSequence)
  for await (const bytes of MiniStore.bytes(path, { ...range, codec, signal: io.signal })) {
    const block = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    const first = next
    if (isCounted) next += linesIn(block)
    if (!hasAll(block, search.needles)) continue
    let sequence = first
    for (let start = 0; start < block.length; sequence++) {
      const end = block.indexOf(lineFeed, start)
      const line = block.subarray(start, end)
      start = end + 1
      if (!hasAll(line, search.needles)) continue
      const text = line.toString()
      if (search.isMatch?.(text) !== false) yield { line: text, sequence: isCounted ? sequence : undefined }
    }
  }
}

const lineFeed = 0x0a

function hasAll(bytes: Buffer, needles: Search['needles']): boolean {
  return needles.every((some) => some.some((needle) => (Buffer.isBuffer(needle) ? bytes.includes(needle) : needle.test(bytes.toString('latin1')))))
}

function linesIn(block: Buffer): number {
  let lines = 0
  for (let at = block.indexOf(lineFeed); at !== -1; at = block.indexOf(lineFeed, at + 1)) lines++
  return lines
}

function formatterOf(
  args: Arguments,
  io: Io,
  { path, label, search }: { readonly path: string; readonly label: string | undefined; readonly search: Search },
): (found: Found) => string {
  const style = styleFor(io.stdout, io)
  const isJson = !args.flag('no-json')
  const recordOf = (line: string): string => (isJson ? line : JSON.stringify(line))
  const journal = args.flag('json') ? `"journal":${JSON.stringify(path)},` : ''
  const { emphasis } = search
  return ({ line, sequence }) => {
    const text = sequence === undefined ? line : `{${journal}"sequence":${sequence},"record":${recordOf(line)}}`
    if (!io.stdout.isTerminal) return `${sequence === undefined ? labelText(label) : ''}${text}\n`
    const shown = visibleJson(text)
    const emphasized = emphasis === undefined ? shown : shown.replaceAll(emphasis, (part) => (part === '' ? part : style('red', part)))
    return `${label === undefined || journal !== '' ? '' : style('dim', labelText(visible(label)))}${emphasized}\n`
  }
}

function labelText(label: string | undefined): string {
  return label === undefined ? '' : `${label}:`
}
