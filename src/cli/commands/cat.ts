import type { MiniStoreError } from '../../errors.ts'
import { type Arguments, type Command, commonOptions } from '../command.ts'
import { damageReport, damageText, exitCodes } from '../errors.ts'
import type { Io } from '../io.ts'
import { outlineOf, printBlocks, printRecords, rangeOf } from '../journal.ts'
import { jsonLine, visible } from '../terminal.ts'

export const cat: Command = {
  name: 'cat',
  summary: 'prints records, one line of JSON each',
  positionals: ['JOURNAL'],
  options: {
    from: { value: 'SEQ', help: 'the first sequence number to print' },
    to: { value: 'SEQ', help: 'the last sequence number to print' },
    limit: { value: 'N', help: 'the maximum number of records to print' },
    sequence: { help: 'print {"sequence":N,"record":…}' },
    salvage: { help: 'report damage on standard error and continue after it' },
    'no-json': commonOptions.noJson,
    json: { help: 'print errors and damage as JSON too; records are JSON in any case' },
  },
  details: [
    'Prints the lines byte for byte as they are on the disk. On a terminal, invisible characters are',
    'printed as \\uXXXX. Without --salvage, the command stops at the first damage, after it has printed',
    'every good record before it. The exit code is 1 if there is damage.',
    '',
    'Into a file or a pipe, lines that a checksum covers are printed without being parsed. If one of',
    'them has changed and is still text, it is printed, and the damage is reported at the end of its',
    'segment. With --salvage, --sequence or --json, every line is parsed before it is printed.',
  ],
  examples: [
    'ministore cat journal.jsonl --from 100 --limit 5 | jq .',
    'ministore cat journal.jsonl --salvage > rescued.jsonl',
  ],
  run: runCat,
}

async function runCat(args: Arguments, io: Io): Promise<number> {
  const path = args.positional(0)
  const { from, to } = rangeOf(args)
  const limit = args.integer('limit', { min: 0 })
  let damages = 0
  const tell = (damage: MiniStoreError): void => {
    damages++
    const report = damageReport(damage)
    io.stderr.tell(args.flag('json') ? jsonLine({ damage: report }) : `damage: ${visible(damageText(report))}\n`)
  }
  const isSalvage = args.flag('salvage')
  const isJson = !args.flag('no-json')
  const isNumbered = args.flag('sequence')
  const outline = await outlineOf(path, { salvage: isSalvage ? () => {} : undefined, signal: io.signal })
  if (isSalvage || isNumbered || args.flag('json') || io.stdout.isTerminal) {
    await printRecords(path, io, { range: { from, to, salvage: isSalvage ? tell : undefined }, limit, isJson, isNumbered })
  } else if (limit !== 0) {
    const last = (from ?? outline?.firstSequence ?? 1) + (limit ?? Number.POSITIVE_INFINITY) - 1
    await printBlocks(path, io, { from, to: Number.isSafeInteger(last) ? Math.min(last, to ?? last) : to, isJson })
  }
  return damages === 0 ? exitCodes.ok : exitCodes.failed
}
