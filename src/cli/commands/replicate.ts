import { constants } from 'node:buffer'
import { resolve } from 'node:path'

import { MiniStore, replicate as copyJournal, type ReplicationReport } from '../../index.ts'
import { type Arguments, type Command, commonOptions } from '../command.ts'
import { exitCodes, Interrupted, UsageError } from '../errors.ts'
import type { Io } from '../io.ts'
import { assertThere, lineCodec } from '../journal.ts'
import { ProgressBar } from '../progress-bar.ts'
import { print } from '../render.ts'
import { jsonLine, plural } from '../terminal.ts'

const maxBatch = 100_000

/** Milliseconds between two looks at the progress. */
const progressMs = 100

export const replicate: Command = {
  name: 'replicate',
  summary: 'copies a journal to another place; with --follow, also new records',
  positionals: ['FROM', 'TO'],
  options: {
    follow: { short: 'f', help: 'copy new records as they are appended, until Ctrl-C' },
    batch: { value: 'N', help: 'write up to N records with one fsync (default: 1000)' },
    'no-json': commonOptions.noJson,
    json: commonOptions.json,
  },
  details: [
    'TO becomes, or is continued as, a replica of FROM: the same lines at the same sequence numbers. FROM',
    'is only read, and a writer in any process may have it open. TO is created if it does not exist. It is',
    'locked meanwhile, and nothing else may write to it.',
    '',
    'Run it again after a crash or an interruption: it continues where TO ends. A journal that is not a',
    'replica of FROM is refused and not changed.',
  ],
  examples: [
    'ministore replicate orders/journal.jsonl /backup/orders/journal.jsonl',
    'ministore replicate --follow orders/journal.jsonl /standby/orders/journal.jsonl',
  ],
  changes: () => true,
  run: runReplicate,
}

async function runReplicate(args: Arguments, io: Io): Promise<number> {
  const [source, target] = [args.positional(0), args.positional(1)]
  const batch = args.integer('batch', { max: maxBatch })
  const follow = args.flag('follow')
  if (resolve(source) === resolve(target)) throw new UsageError('Expected TO to be another journal than FROM, got the same')
  const codec = lineCodec({ isJson: !args.flag('no-json') })
  const from = await MiniStore.read(source, { codec })
  if (from.segments.length === 0) await assertThere(source)
  // Whatever fits into the source fits into its replica.
  const maxRecordBytes = constants.MAX_STRING_LENGTH - 1
  await using to = await MiniStore.open<string>(target, { codec: { ...codec, encode: (line) => line }, maxRecordBytes })
  const before = to.lastSequence
  /** A replica that began with this call has no records before its first. */
  const copied = (): number => to.lastSequence - Math.max(before, to.firstSequence - 1)
  const stopProgress = showProgress(io, to, copied)
  let report: ReplicationReport
  try {
    report = await copyJournal(from, to, { follow, batch, signal: io.signal })
  } catch (error) {
    stopProgress()
    if (error instanceof Interrupted) tellInterrupted(args, io, { records: copied(), lastSequence: to.lastSequence })
    throw error
  }
  stopProgress()
  const facts = {
    from: from.path, to: to.path, firstSequence: report.first, lastSequence: report.last, records: report.copied,
  }
  await print(facts, { args, io }, linesOf)
  return exitCodes.ok
}

/** Shows the progress until the returned function is called. */
function showProgress({ stderr }: Io, to: MiniStore<string>, copied: () => number): () => void {
  const bar = new ProgressBar(stderr, 'replicate')
  const bytesOf = (): number => to.segments.reduce((sum, { bytes }) => sum + bytes, 0)
  const before = bytesOf()
  const timer = setInterval(() => bar.update({ bytes: bytesOf() - before, records: copied() }), progressMs)
  return () => {
    clearInterval(timer)
    bar.clear()
  }
}

function tellInterrupted(
  args: Arguments,
  { stderr }: Io,
  done: { readonly records: number; readonly lastSequence: number },
): void {
  const message = `Interrupted after ${plural(done.records, 'record')}; the last has sequence ${done.lastSequence}`
  stderr.tell(args.flag('json') ? jsonLine({ error: { code: 'ERR_INTERRUPTED', message, ...done } }) : `${message}.\n`)
}

function linesOf(facts: { readonly firstSequence: number; readonly lastSequence: number; readonly records: number }): string[] {
  const { firstSequence, lastSequence, records } = facts
  if (records === 0) return [`Nothing to copy: the replica is at sequence ${lastSequence}.`]
  return [`Copied ${plural(records, 'record')} (${firstSequence} to ${lastSequence}).`]
}
