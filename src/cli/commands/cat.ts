import type { MiniStoreError } from '../../errors.ts'
import { MiniStore, type ReadOptions } from '../../index.ts'
import type { Arguments } from '../arguments.ts'
import { type Command, commonOptions } from '../command.ts'
import { damageReport, damageText } from '../damage.ts'
import { exitCodes, UsageError } from '../exit-codes.ts'
import { type Io, lineCodec, numbered, recordLine } from '../io.ts'
import { outlineOf } from '../journal.ts'
import { jsonLine, visible } from '../terminal/style.ts'

export const cat: Command = {
  name: 'cat',
  summary: 'prints records, one line of JSON each',
  positionals: ['JOURNAL'],
  options: {
    from: { value: 'SEQ', help: 'begins with this sequence number' },
    to: { value: 'SEQ', help: 'ends with this sequence number' },
    limit: { value: 'N', help: 'prints no more than so many records' },
    sequence: { help: 'prints {"sequence":N,"record":…}' },
    salvage: { help: 'tells damage on standard error and goes on behind it' },
    'no-json': commonOptions.noJson,
    json: { help: 'errors and damage as JSON too; records are JSON in any case' },
  },
  details: [
    'Prints the lines as they are on the disk, byte for byte; on a terminal, characters that are not seen',
    'stand as \\uXXXX. Without --salvage it ends at the first damage, after every good record before it.',
    'The exit code is 1 when there was damage.',
  ],
  examples: [
    'ministore cat state/journal.jsonl --from 100 --limit 5 | jq .',
    'ministore cat state/journal.jsonl --salvage > rescued.jsonl',
  ],
  run: runCat,
}

async function runCat(args: Arguments, io: Io): Promise<number> {
  const path = args.positional(0)
  const isJson = !args.flag('no-json')
  const from = args.integer('from')
  const to = args.integer('to')
  const limit = args.integer('limit', { least: 0 }) ?? Number.POSITIVE_INFINITY
  if (from !== undefined && to !== undefined && to < from)
    throw new UsageError(`Expected --to to be ${from} or greater, got ${to}`)
  let damages = 0
  const tell = (damage: MiniStoreError): void => {
    damages++
    const report = damageReport(damage)
    io.stderr.tell(args.flag('json') ? jsonLine({ damage: report }) : `damage: ${visible(damageText(report))}\n`)
  }
  await outlineOf(path, { salvage: args.flag('salvage') ? () => {} : undefined, signal: io.signal })
  const salvage = args.flag('salvage') ? tell : undefined
  const options = { from, to, salvage, codec: lineCodec({ isJson }), signal: io.signal }
  if (limit > 0) await print(path, io, { options, limit, isJson, isNumbered: args.flag('sequence') })
  // This command only prints, so a closed pipe ends it here as it does while printing.
  await io.stdout.flush()
  return damages === 0 ? exitCodes.ok : exitCodes.failed
}

async function print(
  path: string,
  io: Io,
  how: {
    readonly options: ReadOptions<string>
    readonly limit: number
    readonly isJson: boolean
    readonly isNumbered: boolean
  },
): Promise<void> {
  let left = how.limit
  const put = (record: string): Promise<void> | undefined => {
    left--
    return io.stdout.write(recordLine(record, io))
  }
  if (how.isNumbered) {
    for await (const entry of MiniStore.entries(path, how.options)) {
      await put(numbered(entry, how.isJson))
      if (left === 0) return
    }
    return
  }
  for await (const line of MiniStore.stream(path, how.options)) {
    const waiting = put(line)
    if (waiting !== undefined) await waiting
    if (left === 0) return
  }
}
