import { MiniStore } from '../../index.ts'
import type { Arguments } from '../arguments.ts'
import { type Command, commonOptions } from '../command.ts'
import { exitCodes, Interrupted } from '../exit-codes.ts'
import { type Io, lineCodec, numbered, recordLine } from '../io.ts'
import { outlineOf } from '../journal.ts'

const defaultRecords = 10

export const tail: Command = {
  name: 'tail',
  summary: 'prints the last records, and with -f those that come',
  positionals: ['JOURNAL'],
  options: {
    lines: {
      value: 'N',
      short: 'n',
      help: `so many of the last records; ${defaultRecords} unless said otherwise`,
    },
    follow: { short: 'f', help: 'goes on with records as they are appended, until Ctrl-C' },
    sequence: { help: 'prints {"sequence":N,"record":…}' },
    'no-json': commonOptions.noJson,
    json: { help: 'errors as JSON too; records are JSON in any case' },
  },
  details: [
    'Finds them from the end: of a long journal no more than the last segments are read. Follows a writer',
    'in any process, across rotation. A record may be shown whose fsync is still under way.',
  ],
  examples: ['ministore tail -n 3 state/journal.jsonl', 'ministore tail -f state/journal.jsonl | jq .type'],
  run: runTail,
}

async function runTail(args: Arguments, io: Io): Promise<number> {
  const path = args.positional(0)
  const count = args.integer('lines', { least: 0 }) ?? defaultRecords
  const follow = args.flag('follow')
  const isJson = !args.flag('no-json')
  const outline = await outlineOf(path, { signal: io.signal })
  const { firstSequence, lastSequence } = outline ?? { firstSequence: 1, lastSequence: 0 }
  const from = Math.max(lastSequence - count + 1, firstSequence)
  if (from > lastSequence && !follow) return exitCodes.ok
  const range = follow ? { from, follow } : { from, to: lastSequence }
  const isNumbered = args.flag('sequence')
  try {
    const entries = MiniStore.entries<string>(path, {
      ...range,
      codec: lineCodec({ isJson }),
      signal: io.signal,
    })
    for await (const entry of entries)
      await io.stdout.write(recordLine(isNumbered ? numbered(entry, isJson) : entry.record, io))
    await io.stdout.flush()
  } catch (error) {
    if (!follow || !(error instanceof Interrupted)) throw error
    // An interrupt is the normal end of following, so the exit code is 0.
    throw new Interrupted(error.signal, exitCodes.ok)
  }
  return exitCodes.ok
}
