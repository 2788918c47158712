import { fork } from 'node:child_process'
import { once } from 'node:events'
import { statSync } from 'node:fs'
import { mkdtemp, readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'

import { settledOrAborted } from '../../async.ts'
import { hasCode, messageOf } from '../../errors.ts'
import { MiniStore, type TornTail } from '../../index.ts'
import type { Command } from '../command.ts'
import { CommandFailure, exitCodes } from '../errors.ts'
import type { Io } from '../io.ts'
import { barOf, formatTable } from '../render.ts'
import { shellWord, sizeText, styleFor, visible } from '../terminal.ts'


const examplesPackage = '@octokit/webhooks-examples'

export const demo: Command = {
  name: 'demo',
  summary: 'shows what it is about: real records, a killed writer, recovery, replay',
  positionals: [],
  options: {},
  details: [
    'It takes seconds and leaves its journal in the temporary directory. The exit code is 1 if a check fails.',
    `It needs the package ${examplesPackage}, which is there in a checkout.`,
  ],
  examples: ['ministore demo'],
  run: (_args, io) => show(demonstrate(planRecords(loadExamples()), io.signal), io),
}

/** One webhook delivery of GitHub, or a `bundle` of many. Its number is part of it, so no two records are equal. */
export interface WebhookRecord {
  readonly event: string
  /** The sequence number that the record must get. */
  readonly delivery: number
  readonly payload: unknown
}

/** Something that must be true, and what is wrong with it: `false` if nothing is. */
export type Check = readonly [claim: string, problem: string | false]

/** The demo is a list of these: lines, headings of its steps, and checks. */
export type Part = string | { readonly step: string } | Check

/** A writer that was killed, and how the journal was found on opening it again. */
export interface Kill {
  readonly lastAcknowledged: number
  /** The append that had begun and was not acknowledged. */
  readonly inFlight: number | undefined
  readonly lastSequence: number
  readonly torn?: TornTail | undefined
}

type Records = readonly WebhookRecord[]
type Store = MiniStore<WebhookRecord>

/** Small enough to rotate often. A larger segment holds a bundle, or the part of one that is written by now. */
const maxBytesPerSegment = 512 * 1024

async function* demonstrate(records: Records, signal: AbortSignal): AsyncGenerator<Part> {
  yield { step: 'Real records' }
  const bundles = records.filter(isBundle).length
  const types = new Set(records.map(({ event }) => event)).size - 1
  yield `${records.length - bundles} webhook payloads of GitHub, ${types} types of event (${examplesPackage}),`
  yield `and ${bundles} bundles of all of them, several times over: large enough for a kill to tear them.`
  const path = join(await mkdtemp(join(tmpdir(), 'ministore-demo-')), 'journal.jsonl')
  yield `Journal: ${visible(path)}`

  yield { step: 'A child process appends them, one fsync each, and is killed (SIGKILL) in the middle' }
  const history = yield* crashAndGoOn(path, records, signal)
  yield `Each writer went on behind what was there; the last one, not killed, came to record ${records.length}.`

  await using store = await openJournal(path)
  yield { step: 'What recovery did, and whether all that was acknowledged is there' }
  yield* compare(store, { ...history, sent: records.map(lineOf) })
  yield { step: 'Three ways to replay' }
  yield* replayAll(store, records, signal)
  yield ''
  yield* replayToReport(store, signal)
  yield ''
  yield* followLive(store, records, signal)

  yield { step: 'Look at it yourself: these are plain text files, and they stay' }
  yield `cd ${shellWord(dirname(path))}`
  const evidence = history.kills.flatMap(({ torn }) => torn?.savedAs ?? []).slice(-1)
  yield* formatTable([
    ['ls -l', '# segments, seal, lock and evidence'],
    [`head -n 3 ${basename(store.segments[0]?.path ?? path)} | cut -c 1-80`, '# the header and the first two records'],
    [`tail -n 1 ${basename(path)} | jq .event`, '# the last record'],
    ...evidence.map((name) => [`tail -c 80 ${basename(name)}`, '# where the write broke off']),
  ])
}

/** Prints each part as it comes. Resolves with the exit code: 0 only if there were checks and none failed. */
export async function show(parts: AsyncIterable<Part>, io: Pick<Io, 'stdout' | 'env' | 'signal'>): Promise<number> {
  const style = styleFor(io.stdout, io)
  const start = performance.now()
  let [steps, checks, failures] = [0, 0, 0]
  const print = async (text: string): Promise<void> => {
    await io.stdout.write(`${text}\n`)
    // Now and not later: what comes next may block, and without a reader the demo must end.
    await io.stdout.flush()
    io.signal.throwIfAborted()
  }
  for await (const part of parts) {
    if (typeof part === 'string') await print(part && `   ${part}`)
    else if ('step' in part) await print(`\n${style('bold', `${++steps}. ${part.step}`)}`)
    else {
      const [claim, problem] = part
      checks++
      if (problem !== false) failures++
      const failed = `${style('red', 'FAILED')}  ${claim}: ${problem}`
      await print(`   ${problem === false ? `${style('green', 'ok')}      ${claim}` : failed}`)
    }
  }
  const good = checks === 0 ? 'Nothing was checked' : `All ${checks} checks are ok`
  const result = failures === 0 ? good : `${failures} of ${checks} checks FAILED`
  await print(`\n   ${result}, after ${((performance.now() - start) / 1000).toFixed(1)} s.`)
  return checks > 0 && failures === 0 ? exitCodes.ok : exitCodes.failed
}

type History = Pick<Facts, 'acknowledged' | 'kills'>

/** Starts writers and kills them, opening the journal after each kill. Then a last writer appends the rest. */
async function* crashAndGoOn(path: string, records: Records, signal: AbortSignal): AsyncGenerator<Part, History> {
  const acknowledged: number[] = []
  const kills: Kill[] = []
  yield 'kill  record in flight  acknowledged  found on opening again'
  for (;;) {
    const { inFlight, wasKilled, ...run } = await runWriter(path, nextAim(records, kills), signal)
    acknowledged.push(...run.acknowledged)
    if (!wasKilled) return { acknowledged, kills }
    await using store = await openJournal(path)
    const lastAcknowledged = run.acknowledged.at(-1) ?? kills.at(-1)?.lastSequence ?? 0
    const kill = { lastAcknowledged, inFlight, lastSequence: store.lastSequence, torn: store.recovery.torn }
    kills.push(kill)
    const record = inFlight === undefined ? undefined : records[inFlight - 1]
    const size = record === undefined ? 'none' : `${inFlight}, ${sizeText(lineOf(record).length)}`
    const cells = [String(kills.length).padStart(4), size.padEnd(16), `1 to ${lastAcknowledged}`.padEnd(12)]
    yield [...cells, foundText(kill)].join('  ')
  }
}

function foundText({ inFlight, lastSequence, torn }: Kill): string {
  if (torn !== undefined) return `${sizeText(torn.bytes)} of it: a torn tail, cut off and kept aside`
  if (inFlight === undefined) return 'killed just after an acknowledgement'
  return lastSequence >= inFlight ? 'all of it: never acknowledged, but whole, so it stays' : 'nothing of it'
}

/** Kill a writer once it has begun this record and its file has so many bytes, or after so many milliseconds. */
type Aim = Readonly<Record<'sequence' | 'bytes' | 'maxMs', number>>

/**
 * Undefined when a torn tail was seen among three kills or more, or when no bundle is left to tear.
 *
 * A kill tears only a write that is under way in the kernel. That of a small record takes microseconds, so a kill finds
 * it whole or not begun. Copying a bundle into the page cache takes a millisecond or two.
 */
function nextAim(records: Records, kills: readonly Kill[]): Aim | undefined {
  const last = kills.at(-1)?.lastSequence ?? 0
  const sequence = records.findIndex((record, index) => index > last && isBundle(record)) + 1
  if (sequence === 0 || (kills.length >= 3 && kills.some(({ torn }) => torn !== undefined))) return undefined
  // First a small record, at any moment from its beginning to about the end of its fsync.
  const small = 1 + Math.floor(Math.random() * (sequence - 1))
  if (kills.length === 0) return { sequence: small, bytes: Infinity, maxMs: Math.random() }
  // Then in the first third of a bundle, which leaves the signal the time to arrive.
  const maxBytes = lineOf(records[sequence - 1] as WebhookRecord).length / 3
  const bytes = maxBytesPerSegment + Math.random() * (maxBytes - maxBytesPerSegment)
  return { sequence, bytes, maxMs: 1000 }
}

/** What a writer tells its parent, before an append and after it has resolved. */
type WriterMessage = { readonly begun: number } | { readonly acknowledged: number }
type WriterRun = Pick<History & Kill, 'acknowledged' | 'inFlight'> & { readonly wasKilled: boolean }

/** Runs a writer until it has appended all records or is killed. */
async function runWriter(path: string, aim: Aim | undefined, signal: AbortSignal): Promise<WriterRun> {
  const child = fork(import.meta.filename, [path], { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] })
  const acknowledged: number[] = []
  let inFlight: number | undefined
  child.on('message', (message: WriterMessage) => {
    inFlight = 'begun' in message ? message.begun : undefined
    if ('acknowledged' in message) acknowledged.push(message.acknowledged)
    if (aim === undefined || inFlight !== aim.sequence) return
    // Blocks on purpose: timers are coarser than the moments that matter.
    const end = performance.now() + aim.maxMs
    while (performance.now() < end && (statSync(path, { throwIfNoEntry: false })?.size ?? 0) < aim.bytes);
    child.kill('SIGKILL')
  })
  try {
    // What the writer said just before its end is still in the pipe: all is heard when the channel has ended.
    const ended = Promise.all([once(child, 'exit'), once(child, 'disconnect')])
    const [[code, by]] = (await settledOrAborted(ended, signal)) as [[number | null, string | null], unknown]
    const wasKilled = aim !== undefined && by === 'SIGKILL'
    if (code !== 0 && !wasKilled) throw new CommandFailure(`The writer ended by itself: ${by ?? `exit code ${code}`}`)
    return { acknowledged, inFlight, wasKilled }
  } finally {
    child.kill('SIGKILL')
  }
}

/** The child process: appends the records that are missing, one by one. It may be killed at any moment. */
async function appendRest(path: string): Promise<void> {
  process.once('disconnect', endWithParent)
  // Ctrl-C goes to all processes of a terminal. It ends the parent, and that ends this one.
  for (const name of ['SIGINT', 'SIGTERM']) process.on(name, () => {})
  await using store = await openJournal(path)
  for (const record of planRecords(loadExamples()).slice(store.lastSequence)) {
    await tell({ begun: store.lastSequence + 1 })
    await tell({ acknowledged: await store.append(record) })
  }
}

/**
 * Resolves when the message is in the pipe, where it outlives this process. So at most one append is ever under way of
 * which the parent knows the beginning and not the end.
 */
function tell(message: WriterMessage): Promise<void> {
  return new Promise((resolve) => {
    process.send?.(message, undefined, undefined, (error) => (error ? endWithParent() : resolve()))
  })
}

function endWithParent(): never {
  process.exit(exitCodes.failed)
}

/** What was done, and what is there now. Lines and evidence have one character for each byte. */
export interface Facts {
  /** The line of record n is at n - 1, here and in `found`. */
  readonly sent: readonly string[]
  readonly found: readonly string[]
  /** Sequence numbers in the order in which they were heard. */
  readonly acknowledged: readonly number[]
  readonly kills: readonly Kill[]
  /** What recovery cut off and kept. */
  readonly evidence: ReadonlyArray<{ readonly sequence: number; readonly bytes: string }>
  readonly lastSequence: number
  readonly segments: number
  /** What recovery cut off after the last writer, which was not killed. */
  readonly tornAtEnd: number
}

/** Shows what recovery did and compares the files, read without the library, with what was sent and acknowledged. */
async function* compare(store: Store, done: History & Pick<Facts, 'sent'>): AsyncGenerator<Part> {
  const evidence: Array<{ sequence: number; bytes: string }> = []
  const tails = done.kills.flatMap(({ torn }) => torn ?? [])
  if (tails.length === 0) yield 'No write was torn: the kills fell before or after them. Run it again to see one.'
  for (const { sequence, bytes, offset, reason, savedAs } of tails) {
    yield `Torn tail: ${sizeText(bytes)} of record ${sequence}, from offset ${offset} on (${reason})`
    yield savedAs === undefined ? '  not kept: there was no room for a copy' : `  kept in ${basename(savedAs)}`
    if (savedAs !== undefined) evidence.push({ sequence, bytes: await readFile(savedAs, 'latin1') })
  }
  const { torn, scannedBytes } = store.recovery
  const total = sizeText(sumOf(store.segments))
  yield `Opening it now read ${sizeText(scannedBytes)} of ${total}: the active segment is enough`
  const files = await Promise.all(store.segments.map(({ path }) => readFile(path, 'latin1')))
  const found = files.flatMap(linesOf)
  yield `The files, read as plain text: ${files.length} segments, ${found.length} records`
  const { lastSequence } = store
  yield* checksOf({ ...done, found, evidence, lastSequence, segments: files.length, tornAtEnd: torn?.bytes ?? 0 })
}

/** The records of a segment. One without a line feed behind it loses a character, so that a check fails. */
export function linesOf(text: string): string[] {
  return text.slice(0, -1).split('\n').slice(1)
}

export function checksOf(facts: Facts): Check[] {
  const { sent, found, acknowledged, kills, evidence, lastSequence, segments, tornAtEnd } = facts
  const inFlight = kills.flatMap((kill) => kill.inFlight ?? [])
  const others = found.map((_, at) => at + 1).filter((sequence) => !acknowledged.includes(sequence))
  const reopened = kills.flatMap(({ lastAcknowledged, inFlight: begun, lastSequence: last }, at) => {
    const allowed = begun === undefined ? [lastAcknowledged] : [lastAcknowledged, begun]
    if (allowed.includes(last)) return []
    return [`after kill ${at + 1} it ended with record ${last}, expected ${allowed.join(' or ')}`]
  })
  const late = acknowledged.findIndex((sequence, at) => at > 0 && sequence <= (acknowledged[at - 1] as number))
  const lost = acknowledged.filter((sequence) => found[sequence - 1] === undefined)
  const again = found.findIndex((line, at) => found.indexOf(line) < at)
  const wrong = found.findIndex((line, at) => line !== sent[at])
  const unexplained = others.find((sequence) => !inFlight.includes(sequence))
  const present = `${acknowledged.length - lost.length} of ${acknowledged.length}`
  return [
    ...evidence.map(({ sequence, bytes }): Check => [
      `the torn bytes are kept, and are a true beginning of record ${sequence}`,
      (bytes === '' || !sent[sequence - 1]?.startsWith(bytes)) &&
        `its ${bytes.length} bytes are not what record ${sequence} began with`,
    ]),
    checkEqual('after a proper close there is nothing to repair', { expected: 0, actual: tornAtEnd }),
    [
      `after each of ${kills.length} kills it ended with the last acknowledged record or the one in flight`,
      reopened[0] ?? false,
    ],
    [
      `${acknowledged.length} appends were acknowledged, their sequence numbers only ever rising`,
      late >= 0 && `${acknowledged[late]} came after ${acknowledged[late - 1]}`,
    ],
    [`every acknowledged record is there (${present})`, lost.length > 0 && `record ${lost[0]} is gone`],
    ['each of them once', again >= 0 && `record ${again + 1} is record ${found.indexOf(`${found[again]}`) + 1} again`],
    ['in order, byte for byte what was sent', wrong >= 0 && `record ${wrong + 1} is not what was sent`],
    [
      `besides them only what was in flight at a kill (${others.length} of ${inFlight.length} such records)`,
      unexplained !== undefined && `record ${unexplained} was neither acknowledged nor in flight`,
    ],
    checkEqual('the store counts as many', { expected: found.length, actual: lastSequence }),
    [`it was rotated several times (${segments} segments)`, segments < 4 && `expected at least 4, got ${segments}`],
  ]
}

function checkEqual(claim: string, values: { readonly expected: unknown; readonly actual: unknown }): Check {
  const { expected, actual } = values
  return [claim, actual !== expected && `expected ${String(expected)}, got ${String(actual)}`]
}

/** `for await`: counts the records and compares each with what was sent. */
export async function* replayAll(store: Store, records: Records, signal: AbortSignal): AsyncGenerator<Part> {
  const start = performance.now()
  let [count, equal] = [0, 0]
  for await (const record of store.stream({ signal })) {
    if (JSON.stringify(record) === JSON.stringify(records[count++])) equal++
  }
  const ms = (performance.now() - start).toFixed(0)
  yield `for await (const record of store.stream())   ${sizeText(sumOf(store.segments))} in ${ms} ms, comparing`
  yield checkEqual(`it gave ${count} records`, { expected: records.length, actual: count })
  yield checkEqual('each is what was sent', { expected: records.length, actual: equal })
}

/** Through a TransformStream into a table of the most frequent types of event. */
export async function* replayToReport(store: Store, signal: AbortSignal): AsyncGenerator<Part> {
  yield 'store.stream().pipeThrough(transform)'
  const transform = new TransformStream<WebhookRecord, { readonly event: string; readonly bytes: number }>({
    transform: (record, to) => to.enqueue({ event: record.event, bytes: lineOf(record).length }),
  })
  const all: Array<{ readonly event: string; readonly bytes: number }> = []
  for await (const size of store.stream({ signal }).pipeThrough(transform)) all.push(size)
  const groups = [...new Set(all.map(({ event }) => event))].map((type) => all.filter(({ event }) => event === type))
  groups.sort((a, b) => b.length - a.length || sumOf(b) - sumOf(a))
  const row = (name = '', sizes: typeof all = [], bar = ''): string[] =>
    [name, String(sizes.length), sizeText(sumOf(sizes)), `${((100 * sizes.length) / all.length).toFixed(1)} %`, bar]
  const [top, rest] = [groups.slice(0, 12), groups.slice(12)]
  const rows = top.map((sizes) =>
    row(sizes[0]?.event, sizes, barOf(sizes.length, { max: top[0]?.length ?? 0, columns: 20 })))
  if (rest.length > 0) rows.push(row(`${rest.length} other types`, rest.flat()))
  yield* ['', ...formatTable([['event', 'records', 'bytes', 'share'], ...rows, row('all', all)], [1, 2, 3]), '']
  yield '(The bundles are one of the other types: few records, many bytes.)'
  yield checkEqual(`the table counts ${all.length} records`, { expected: store.lastSequence, actual: all.length })
}

/** Follows the journal while the last payloads are appended once more. */
export async function* followLive(store: Store, records: Records, signal: AbortSignal): AsyncGenerator<Part> {
  const from = store.lastSequence + 1
  const more = records.slice(-3).map((record, index) => ({ ...record, delivery: from + index }))
  yield `store.entries({ from: ${from}, follow: true })   while ${more.length} more are appended`
  // Only a defect would take so long, and the demo must end then.
  const limit = AbortSignal.any([signal, AbortSignal.timeout(10_000)])
  const live = store.entries({ from, follow: true, signal: limit })[Symbol.asyncIterator]()
  const seen: string[] = []
  for (const next of more) {
    const start = performance.now()
    const [entry] = await Promise.all([live.next(), store.append(next)])
    const ms = (performance.now() - start).toFixed(1)
    if (entry.done !== true) seen.push(`${entry.value.sequence}, ${entry.value.record.event}`)
    yield `  record ${seen.at(-1)}, seen and acknowledged ${ms} ms after append() was called`
  }
  await live.return?.()
  const expected = more.map(({ delivery, event }) => `${delivery}, ${event}`).join('; ')
  yield checkEqual('all of them were seen live, in order', { expected, actual: seen.join('; ') })
}

/** Event names and payloads, as the package publishes them. */
export function loadExamples(): ReadonlyArray<{ readonly name: string; readonly examples: readonly unknown[] }> {
  try {
    return createRequire(import.meta.url)(examplesPackage) as ReturnType<typeof loadExamples>
  } catch (error) {
    if (!hasCode(error, 'MODULE_NOT_FOUND')) throw error
    const message = `The demo needs ${examplesPackage}, which is not there: npm install ${examplesPackage}`
    throw new CommandFailure(message, { cause: error })
  }
}

/**
 * Each payload as a record and in between, evenly spread, bundles that hold all payloads several times. A bundle is
 * never the first, the last or next to another. Parent and writer both know the records: number n is at n - 1.
 */
export function planRecords(catalogue: ReturnType<typeof loadExamples>, bundles = 4, copies = 3): WebhookRecord[] {
  // Linux looks for a kill between the blocks in which it copies a write into the page cache, and these have up to
  // 2 MiB (seen with 6.18 on ext4). A record that tears well is several times as large; all payloads are about 3 MiB.
  const singles = catalogue.flatMap(({ name, examples }) => examples.map((payload) => ({ event: name, payload })))
  const bundle = { event: 'bundle', payload: Array.from({ length: copies }, () => singles).flat() }
  const gap = Math.floor(singles.length / (bundles + 1))
  return singles
    .flatMap((single, index) => {
      const nth = (index + 1) / gap
      return Number.isInteger(nth) && nth <= bundles ? [single, bundle] : [single]
    })
    .map(({ event, payload }, index) => ({ event, delivery: index + 1, payload }))
}

export function isBundle({ event }: WebhookRecord): boolean {
  return event === 'bundle'
}

/** The line of a record as it must be in the journal, one character for each byte. */
function lineOf(record: WebhookRecord): string {
  return Buffer.from(JSON.stringify(record)).toString('latin1')
}

function openJournal(path: string): Promise<Store> {
  return MiniStore.open<WebhookRecord>(path, { maxBytesPerSegment })
}

function sumOf(sizes: ReadonlyArray<{ readonly bytes: number }>): number {
  return sizes.reduce((sum, { bytes }) => sum + bytes, 0)
}

// Started by `runWriter` with a path, and not imported: this process is the writer.
if (process.argv[1] === import.meta.filename) {
  try {
    await appendRest(process.argv[2] as string)
    process.exit()
  } catch (error) {
    process.stderr.write(`ministore: ${visible(messageOf(error))}\n`)
    process.exit(exitCodes.failed)
  }
}
