import { type Arguments, type Command, commonOptions } from '../command.ts'
import { exitCodes, Interrupted } from '../errors.ts'
import type { Io } from '../io.ts'
import { outlineOf, printRecords } from '../journal.ts'

const defaultRecords = 10

export const tail: Command = {
  name: 'tail',
  summary: 'prints the last records; with -f, also new ones',
  positionals: ['JOURNAL'],
  options: {
    lines: { value: 'N', short: 'n', help: `the number of records to print (default: ${defaultRecords})` },
    follow: { short: 'f', help: 'print new records as they are appended, until Ctrl-C' },
    sequence: { help: 'print {"sequence":N,"record":…}' },
    'no-json': commonOptions.noJson,
    json: { help: 'print errors as JSON too; records are JSON in any case' },
  },
  details: [
    'Finds the records from the end, so only the last segments of a long journal are read. With -f,',
    'follows a writer in any process, across rotations. A record may be printed while its fsync is',
    'still under way.',
  ],
  examples: ['ministore tail -n 3 journal.jsonl', 'ministore tail -f journal.jsonl | jq .type'],
  run: runTail,
}

async function runTail(args: Arguments, io: Io): Promise<number> {
  const path = args.positional(0)
  const count = args.integer('lines', { min: 0 }) ?? defaultRecords
  const follow = args.flag('follow')
  const outline = await outlineOf(path, { signal: io.signal })
  const { firstSequence, lastSequence } = outline ?? { firstSequence: 1, lastSequence: 0 }
  const from = Math.max(lastSequence - count + 1, firstSequence)
  if (from > lastSequence && !follow) return exitCodes.ok
  const range = follow ? { from, follow } : { from, to: lastSequence }
  try {
    await printRecords(path, io, { range, isJson: !args.flag('no-json'), isNumbered: args.flag('sequence') })
  } catch (error) {
    if (!follow || !(error instanceof Interrupted)) throw error
    // An interrupt is the normal end of following, so the exit code is 0.
    throw new Interrupted(error.signal, exitCodes.ok)
  }
  return exitCodes.ok
}
