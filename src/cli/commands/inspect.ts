import { stat } from 'node:fs/promises'

import { hasCode } from '../../errors.ts'
import { nodeFileSystem } from '../../fs/node.ts'
import { inspectJournal, type JournalInspection, type SegmentInspection } from '../../maintenance/inspect.ts'
import { locateJournal } from '../../ministore/locate.ts'
import type { Arguments } from '../arguments.ts'
import { type Command, commonOptions } from '../command.ts'
import { damageReport, damageText } from '../damage.ts'
import { exitCodes } from '../exit-codes.ts'
import type { Io } from '../io.ts'
import { assertThere, countingFileSystem, outlineOf } from '../journal.ts'
import { type LockState, lockState } from '../lock-state.ts'
import { barOf } from '../terminal/bar-chart.ts'
import { ProgressBar } from '../terminal/progress-bar.ts'
import { jsonLine, type Style, styleFor, visible } from '../terminal/style.ts'
import { formatTable, widthOf } from '../terminal/table.ts'
import { countText, plural, sizeText } from '../terminal/units.ts'

export const inspect: Command = {
  name: 'inspect',
  summary: 'shows the segments: sequence numbers, sizes, versions, chain, seal',
  positionals: ['JOURNAL'],
  options: {
    quick: { help: 'reads headers only: then chain and seal are unknown' },
    json: commonOptions.json,
  },
  details: [
    'Opens nothing for writing. Chain: whether what is before a segment is as it was when it began;',
    '"start" is the first, with nothing before it, "unknown" one that has no checksum, as in version 0.1.',
    'Reads every byte but does not parse records: that does verify. The exit code is 1 when there is',
    'damage.',
  ],
  examples: [
    'ministore inspect state/journal.jsonl',
    'ministore inspect --json state/journal.jsonl | jq .lastSequence',
  ],
  run: runInspect,
}

async function runInspect(args: Arguments, io: Io): Promise<number> {
  const path = args.positional(0)
  const outline = await outlineOf(path, { salvage: () => {}, signal: io.signal })
  const totalBytes = sum(outline?.view.segments ?? [], (segment) => segment.bytes)
  const bar = new ProgressBar(io.stderr, 'inspect')
  let bytes = 0
  const fileSystem = countingFileSystem((read) => {
    bytes += read
    bar.update({ bytes, totalBytes })
  })
  const isQuick = args.flag('quick')
  const found = await inspectJournal(fileSystem, path, { isQuick, signal: io.signal }).finally(() =>
    bar.clear(),
  )
  if (found === undefined) await assertThere(path)
  const files = await locateJournal(nodeFileSystem, path)
  const lock = await lockState(files)
  const times = await Promise.all((found?.segments ?? []).map((segment) => modifiedAt(segment.path)))
  const seen = { path: files.path, found, times, lock }
  await io.stdout.write(args.flag('json') ? jsonLine(jsonOf(seen)) : textOf(seen, io))
  return found === undefined || found.damages.length === 0 ? exitCodes.ok : exitCodes.failed
}

interface Seen {
  readonly path: string
  /** Undefined if the journal has no header yet. */
  readonly found: JournalInspection | undefined
  /** When each segment was last modified. */
  readonly times: ReadonlyArray<string | undefined>
  readonly lock: LockState
}

/** Returns a time in ISO 8601, or undefined if the file no longer exists. */
async function modifiedAt(path: string): Promise<string | undefined> {
  try {
    return (await stat(path)).mtime.toISOString()
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return undefined
    throw error
  }
}

function jsonOf({ path, found, times, lock }: Seen): object {
  const {
    segments = [],
    firstSequence = 1,
    lastSequence = 0,
    seal,
    torn,
    evidence = [],
    damages = [],
  } = found ?? {}
  return {
    journal: path,
    firstSequence,
    lastSequence,
    records: sum(segments, ({ records }) => records),
    bytes: sum(segments, ({ bytes }) => bytes),
    segments: segments.map((segment, at) => ({
      file: segment.name,
      state: segment.isSealed ? 'sealed' : 'active',
      firstSequence: segment.firstSequence,
      lastSequence: segment.lastSequence,
      records: segment.records,
      bytes: segment.bytes,
      formatVersion: segment.version,
      chain: segment.chain,
      modifiedAt: times[at] ?? null,
    })),
    seal: {
      state: seal?.state ?? 'missing',
      bytes: seal?.covered?.bytes ?? null,
      records: seal?.covered?.records ?? null,
    },
    torn: torn === undefined ? null : { offset: torn.offset, bytes: torn.bytes, reason: torn.reason },
    evidence,
    damages: damages.map((damage) => damageReport(damage)),
    lock: { state: lock.state, holder: lock.state === 'held' ? (lock.holder ?? null) : null },
  }
}

function textOf({ path, found, times, lock }: Seen, io: Io): string {
  const style = styleFor(io.stdout, io)
  const lines = [visible(path), '']
  if (found === undefined) lines.push('empty: the next open writes its header')
  else lines.push(...segmentTable(found.segments, times, io, style), '', ...factsOf(found, style))
  lines.push(...lockLine(lock))
  for (const damage of found?.damages ?? []) {
    lines.push(`${style('red', 'damage')}: ${visible(damageText(damageReport(damage)))}`)
  }
  return `${lines.join('\n')}\n`
}

/** Narrower bars are too coarse to compare. */
const leastBarColumns = 8
const mostBarColumns = 30

function segmentTable(
  segments: readonly SegmentInspection[],
  times: Seen['times'],
  io: Io,
  style: Style,
): string[] {
  const head = ['segment', 'first', 'last', 'records', 'size', 'format', 'chain', 'modified (UTC)']
  const rows = segments.map((segment, at) => [
    visible(segment.name),
    // Printed without digit groups, so that the number can be copied into a command.
    String(segment.firstSequence),
    segment.records === 0 ? '-' : String(segment.lastSequence),
    countText(segment.records),
    sizeText(segment.bytes),
    segment.version === '' ? style('red', 'damaged') : `v${visible(segment.version)}`,
    chainText(segment, style),
    times[at]?.replace('T', ' ').slice(0, 19) ?? '-',
  ])
  const most = Math.max(...segments.map(({ records }) => records))
  const columns = barColumns([head, ...rows], io)
  const bars = segments.map(({ records }) => style('dim', barOf(records, { most, columns })))
  const table =
    columns === 0 ? [head, ...rows] : [[...head, ''], ...rows.map((row, at) => [...row, bars[at] ?? ''])]
  const [first = '', ...others] = formatTable(table, rightAligned)
  return [style('bold', first), ...others]
}

const rightAligned = [1, 2, 3, 4]

/**
 * Returns the columns left beside the table for a chart of records. Returns 0 if the output is not
 * a terminal or has no room.
 */
function barColumns(rows: ReadonlyArray<readonly string[]>, io: Io): number {
  if (!io.stdout.isTerminal) return 0
  const room =
    io.stdout.columns - Math.max(...formatTable(rows, rightAligned).map((line) => widthOf(line))) - 3
  return room < leastBarColumns ? 0 : Math.min(room, mostBarColumns)
}

function chainText({ chain }: SegmentInspection, style: Style): string {
  if (chain === 'broken') return style('red', chain)
  return chain === 'ok' ? style('green', chain) : chain
}

function factsOf(found: JournalInspection, style: Style): string[] {
  const { segments, firstSequence, lastSequence, seal, torn, evidence } = found
  const records = sum(segments, (segment) => segment.records)
  const bytes = sum(segments, (segment) => segment.bytes)
  const range = records === 0 ? `the next is ${firstSequence}` : `${firstSequence} to ${lastSequence}`
  const facts = [
    [
      'total',
      `${plural(records, 'record')} (${range}) in ${plural(segments.length, 'segment')}, ${sizeText(bytes)}`,
    ],
    ['seal', sealText(found.seal, style)],
  ]
  if (torn !== undefined) {
    const where = `${sizeText(torn.bytes)} at offset ${torn.offset}: ${visible(torn.reason)}`
    facts.push(['torn', `${where} (an append under way, or the next open cuts it off)`])
  }
  if (seal.state === 'unreadable')
    facts.push(['', 'a seal that is not whole is no damage: the next open writes it anew'])
  if (evidence.length > 0) facts.push(['evidence', evidence.map(visible).join(', ')])
  return formatTable(facts)
}

function sealText({ state, covered }: JournalInspection['seal'], style: Style): string {
  const shown = state === 'broken' ? style('red', state) : state === 'ok' ? style('green', state) : state
  return covered === undefined
    ? shown
    : `${shown}, covers ${plural(covered.records, 'record')} of the active segment`
}

function lockLine(lock: LockState): string[] {
  if (lock.state === 'free') return ['lock   free: no writer has it open']
  if (lock.state !== 'held') return []
  const { holder } = lock
  const who = holder === undefined ? 'by a writer' : `by process ${holder.pid} (${visible(holder.command)})`
  return [`lock   held ${who}`]
}

function sum<T>(items: readonly T[], value: (item: T) => number): number {
  return items.reduce((total, item) => total + value(item), 0)
}
