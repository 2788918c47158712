import { stat } from 'node:fs/promises'

import { hasCode } from '../../errors.ts'
import { nodeFileSystem } from '../../fs/node.ts'
import { inspectJournal } from '../../maintenance/inspect.ts'
import { locateJournal } from '../../ministore/segments.ts'
import { type Arguments, type Command, commonOptions } from '../command.ts'
import { damageReport, damageText, exitCodes } from '../errors.ts'
import type { Io } from '../io.ts'
import { lockState, readWhole } from '../journal.ts'
import { barOf, definitions, padded, type Page, print, table, widest } from '../render.ts'
import { countText, plural, sizeText, type Style, timeText, visible } from '../terminal.ts'

export const inspect: Command = {
  name: 'inspect',
  summary: 'shows segments, sequence numbers, sizes, chain, seal and id',
  positionals: ['JOURNAL'],
  options: {
    quick: { help: 'read headers only; the chain and the seal are then unknown' },
    json: commonOptions.json,
  },
  details: [
    'Opens nothing for writing. "chain" says whether all bytes before a segment are as they were when',
    'the segment began: "start" is the first segment, "unknown" one without a checksum, as in version',
    '0.1. Reads every byte but does not parse records; verify does. The exit code is 1 if there is',
    'damage.',
  ],
  examples: ['ministore inspect journal.jsonl', 'ministore inspect --json journal.jsonl | jq .lastSequence'],
  run: runInspect,
}

async function runInspect(args: Arguments, io: Io): Promise<number> {
  const path = args.positional(0)
  const options = { isQuick: args.flag('quick'), signal: io.signal }
  const found = await readWhole(path, { label: 'inspect', io }, (fs) => inspectJournal(fs, path, options))
  const facts = await factsOf(path, found)
  await print(facts, { args, io }, (_, page) => linesOf(facts, { page, isEmpty: found === undefined }))
  return facts.damages.length === 0 ? exitCodes.ok : exitCodes.failed
}

/** @param found undefined if the journal has no header yet. */
async function factsOf(given: string, found: Awaited<ReturnType<typeof inspectJournal>>) {
  const files = await locateJournal(nodeFileSystem, given)
  const lock = await lockState(files)
  const { segments = [], firstSequence = 1, lastSequence = 0, seal, torn, evidence = [], damages = [] } = found ?? {}
  const times = await Promise.all(segments.map(({ path }) => modifiedAt(path)))
  return {
    journal: files.path,
    id: found?.id ?? null,
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
    damages: damages.map(damageReport),
    lock: { state: lock.state, holder: lock.state === 'held' ? (lock.holder ?? null) : null },
  }
}

type Facts = Awaited<ReturnType<typeof factsOf>>

/** Returns a time in ISO 8601, or undefined if the file no longer exists. */
async function modifiedAt(path: string): Promise<string | undefined> {
  try {
    return (await stat(path)).mtime.toISOString()
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return undefined
    throw error
  }
}

function linesOf(facts: Facts, { page, isEmpty }: { readonly page: Page; readonly isEmpty: boolean }): string[] {
  const { journal, segments, damages, lock } = facts
  const rows: Array<readonly [string, string]> = []
  if (!isEmpty) rows.push(['total', totalText(facts)], ...sealAndTail(facts, page.style))
  if (facts.id !== null) rows.push(['id', facts.id])
  if (lock.state === 'free') rows.push(['lock', 'free: no writer has the journal open'])
  if (lock.state === 'held') {
    const { holder } = lock
    const who = holder === null ? 'a writer' : `process ${holder.pid} (${visible(holder.command)})`
    rows.push(['lock', `held by ${who}`])
  }
  return [
    visible(journal),
    '',
    ...(isEmpty ? ['empty: the next open writes the header'] : [...segmentTable(segments, page), '']),
    ...definitions(rows, page.columns),
    ...damages.map((damage) => `${page.style('red', 'damage')}: ${visible(damageText(damage))}`),
  ]
}

function totalText({ records, firstSequence, lastSequence, segments, bytes }: Facts): string {
  const range = records === 0 ? `the next is ${firstSequence}` : `${firstSequence} to ${lastSequence}`
  return `${plural(records, 'record')} (${range}) in ${plural(segments.length, 'segment')}, ${sizeText(bytes)}`
}

function* sealAndTail({ seal, torn, evidence }: Facts, style: Style): Generator<readonly [string, string]> {
  const color = colorOf(seal.state)
  const state = color === undefined ? seal.state : style(color, seal.state)
  if (seal.records !== null) yield ['seal', `${state}, covers ${plural(seal.records, 'record')} of the active segment`]
  else if (seal.state === 'unreadable') yield ['seal', 'unreadable; this is not damage: the next open writes a new one']
  else yield ['seal', state]
  if (torn !== null) {
    const where = `${sizeText(torn.bytes)} at offset ${torn.offset}: ${visible(torn.reason)}`
    yield ['torn', `${where} (an append is under way, or the next open removes it)`]
  }
  if (evidence.length > 0) yield ['evidence', evidence.map(visible).join(', ')]
}

/** Narrower bars are too coarse to compare. */
const minBarColumns = 8
const maxBarColumns = 30

/** On a terminal with enough room, a bar for the records of each segment stands beside the table. */
function segmentTable(segments: Facts['segments'], page: Page): string[] {
  const lines = table(
    segments,
    [
      { head: 'segment', cell: ({ file }) => file },
      // Without digit groups, so that the number can be copied into a command.
      { head: 'first', cell: ({ firstSequence }) => firstSequence, align: 'right' },
      { head: 'last', cell: ({ records, lastSequence }) => (records === 0 ? '-' : lastSequence), align: 'right' },
      { head: 'records', cell: ({ records }) => countText(records), align: 'right' },
      { head: 'size', cell: ({ bytes }) => sizeText(bytes), align: 'right' },
      {
        head: 'format',
        cell: ({ formatVersion }) => (formatVersion === '' ? 'damaged' : `v${formatVersion}`),
        style: ({ formatVersion }) => (formatVersion === '' ? 'red' : undefined),
        isOptional: true,
      },
      {
        head: 'chain',
        cell: ({ chain }) => chain,
        style: ({ chain }) => colorOf(chain),
      },
      {
        head: 'modified (UTC)',
        cell: ({ modifiedAt: time }) => (time === null ? '-' : timeText(time)),
        isOptional: true,
      },
    ],
    page,
  )
  const width = widest(lines)
  const columns = Math.min(page.columns - width - 3, maxBarColumns)
  if (!Number.isFinite(page.columns) || columns < minBarColumns) return lines
  const max = Math.max(...segments.map(({ records }) => records))
  const [head = '', ...others] = lines
  const bars = segments.map(({ records }) => page.style('dim', barOf(records, { max, columns })))
  return [head, ...others.map((line, at) => `${padded(line, width)}  ${bars[at]}`.trimEnd())]
}

function colorOf(state: string): 'red' | 'green' | undefined {
  return state === 'broken' ? 'red' : state === 'ok' ? 'green' : undefined
}

function sum<T>(items: readonly T[], value: (item: T) => number): number {
  return items.reduce((total, item) => total + value(item), 0)
}
