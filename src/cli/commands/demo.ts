// The demo: a child process appends real records and is killed while it writes. Then the journal is
// compared with what was sent and acknowledged, and replayed in three ways.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { statSync, writeSync } from 'node:fs'
import { mkdtemp, readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { createInterface } from 'node:readline'

import { settledOrAborted } from '../../async.ts'
import { hasCode, messageOf } from '../../errors.ts'
import { MiniStore, type TornTail } from '../../index.ts'
import type { Command } from '../command.ts'
import { CommandFailure, exitCodes } from '../errors.ts'
import type { Io } from '../io.ts'
import { barOf, formatTable } from '../render.ts'
import { plural, shellWord, sizeText, styleFor, visible } from '../terminal.ts'

const examplesPackage = '@octokit/webhooks-examples'

export const demo: Command = {
  name: 'demo',
  summary: 'shows real records, a killed writer, recovery and replay',
  positionals: [],
  options: {},
  details: [
    'Takes seconds and leaves its journal in the temporary directory. The exit code is 1 if a check',
    `fails. Needs the package ${examplesPackage}, which a checkout has.`,
  ],
  examples: ['ministore demo'],
  run: (_args, io) => show(demonstrate(planRecords(loadExamples()), io.signal), io),
}

/** A webhook delivery of GitHub, or a `bundle` of many. Its number makes every record different. */
export interface WebhookRecord {
  readonly event: string
  /** The sequence number that the record must get. */
  readonly delivery: number
  readonly payload: unknown
}

/** A claim, and what is wrong with it: `false` if nothing is. */
export type Check = readonly [claim: string, problem: string | false]

type Records = readonly WebhookRecord[]
type Store = MiniStore<WebhookRecord>

/** Small enough to rotate often. A larger file holds a bundle, or the part of one written so far. */
const maxBytesPerSegment = 512 * 1024

async function* demonstrate(records: Records, signal: AbortSignal): AsyncGenerator<string | Check> {
  yield `1. ${records.length} records: GitHub webhooks, and bundles of all of them`
  const path = join(await mkdtemp(join(tmpdir(), 'ministore-demo-')), 'journal.jsonl')
  yield `Journal: ${visible(path)}`
  yield '\n2. A writer appends them and is killed while it writes'
  const history = yield* crashAndContinue(path, records, signal)
  yield `The last writer was not killed and reached record ${records.length}.`
  await using store = await openJournal(path)
  yield '\n3. Is every acknowledged record there, and nothing else?'
  yield* compare(store, records, history)
  yield '\n4. Three ways to replay'
  yield* replayAll(store, records, signal)
  yield* replayToReport(store, signal)
  yield* followLive(store, records, signal)
  yield '\n5. Look at the files: they are plain text, and they stay'
  yield `cd ${shellWord(dirname(path))}`
  yield `head -n 3 ${basename(store.segments[0]?.path ?? path)} | cut -c 1-80`
  yield `tail -n 1 ${basename(path)} | jq .event\n`
}

/** Prints each part as it comes. Resolves with the exit code: 0 if there were checks and none failed. */
export async function show(
  parts: AsyncIterable<string | Check>,
  io: Pick<Io, 'stdout' | 'env' | 'signal'>,
): Promise<number> {
  const style = styleFor(io.stdout, io)
  let [checks, failures] = [0, 0]
  for await (const part of parts) {
    let text = part
    if (typeof text !== 'string') {
      const [claim, problem] = text
      checks++
      text = `${style('green', 'ok')}      ${claim}`
      if (problem !== false) {
        failures++
        text = `${style('red', 'FAILED')}  ${claim}: ${problem}`
      }
    }
    await io.stdout.write(`${text}\n`)
    // At once, because the next step may block. If the output is closed, the demo ends here.
    await io.stdout.flush()
    io.signal.throwIfAborted()
  }
  const result = failures === 0 ? `All ${checks} checks passed.` : `${failures} of ${checks} checks FAILED.`
  await io.stdout.write(`${checks === 0 ? 'Nothing was checked.' : result}\n`)
  return checks > 0 && failures === 0 ? exitCodes.ok : exitCodes.failed
}

/** A writer that was killed, and what the next open of the journal found. */
export interface Kill {
  readonly lastAcknowledged: number
  /** The append that had begun and was not acknowledged. */
  readonly inFlight: number | undefined
  readonly lastSequence: number
  readonly torn?: TornTail | undefined
}

/**
 * Runs writers and kills them, opening the journal after each kill. A last writer appends the rest.
 *
 * A kill tears only a write that is under way in the kernel. That of a small record takes
 * microseconds; copying a bundle into the page cache takes a millisecond or two.
 */
async function* crashAndContinue(path: string, records: Records, signal: AbortSignal): AsyncGenerator<string, History> {
  const acknowledged: number[] = []
  const kills: Kill[] = []
  const bundles = records.filter(({ event }) => event === bundleEvent).map(({ delivery }) => delivery)
  for (const target of [...bundles, undefined]) {
    if (target !== undefined && kills.length >= 3 && kills.some(({ torn }) => torn !== undefined)) continue
    const { inFlight, wasKilled, ...run } = await runWriter(path, target, signal)
    acknowledged.push(...run.acknowledged)
    if (!wasKilled) break
    await using store = await openJournal(path)
    const lastAcknowledged = run.acknowledged.at(-1) ?? kills.at(-1)?.lastSequence ?? 0
    const { lastSequence, recovery: { torn } } = store
    kills.push({ lastAcknowledged, inFlight, lastSequence, torn })
    const found = torn === undefined ? `found 1 to ${lastSequence}` : `torn after ${sizeText(torn.bytes)}`
    yield `kill ${kills.length}: acknowledged 1 to ${lastAcknowledged}, in flight ${inFlight ?? 'none'}, ${found}`
  }
  return { acknowledged, kills }
}

/** Runs a writer. Kills it in the first third of the target, a bundle, if one is given. */
async function runWriter(path: string, target: number | undefined, signal: AbortSignal) {
  const child = spawn(process.execPath, [import.meta.filename, path], { stdio: ['ignore', 'pipe', 'inherit'] })
  const acknowledged: number[] = []
  let inFlight: number | undefined
  createInterface({ input: child.stdout }).on('line', (line) => {
    const [event, number] = line.split(' ')
    inFlight = event === 'begun' ? Number(number) : undefined
    if (inFlight === undefined) acknowledged.push(Number(number))
    if (target === undefined || inFlight !== target) return
    // Blocks on purpose: timers are coarser than the moments that matter.
    const bytes = maxBytesPerSegment * (1 + 5 * Math.random())
    const end = performance.now() + 1000
    while (performance.now() < end && (statSync(path, { throwIfNoEntry: false })?.size ?? 0) < bytes);
    child.kill('SIGKILL')
  })
  try {
    // Emitted after the last line, so everything that the writer printed has been read.
    const closed = once(child, 'close') as Promise<[code: number | null, by: string | null]>
    await settledOrAborted(closed, signal)
    const [code, by] = await closed
    const wasKilled = target !== undefined && by === 'SIGKILL'
    if (code !== 0 && !wasKilled) throw new CommandFailure(`The writer ended by itself: ${by ?? `exit code ${code}`}`)
    return { acknowledged, inFlight, wasKilled }
  } finally {
    child.kill('SIGKILL')
  }
}

/** The child process: appends the records that are missing, one by one. It may be killed at any moment. */
async function appendRest(path: string): Promise<void> {
  // Ctrl-C goes to all processes of a terminal. It ends the parent, and that ends this one.
  for (const name of ['SIGINT', 'SIGTERM']) process.on(name, () => {})
  await using store = await openJournal(path)
  for (const record of planRecords(loadExamples()).slice(store.lastSequence)) {
    // Each line is in the pipe before the next step, and outlives this process there.
    writeSync(1, `begun ${record.delivery}\n`)
    writeSync(1, `acknowledged ${await store.append(record)}\n`)
  }
}

type History = Pick<Facts, 'acknowledged' | 'kills'>

/** What was done, and what is there now. Lines and evidence have one character for each byte. */
export interface Facts {
  /** The line of record n is at n - 1, here and in `found`. */
  readonly sent: readonly string[]
  readonly found: readonly string[]
  /** Sequence numbers in the order of their acknowledgement. */
  readonly acknowledged: readonly number[]
  readonly kills: readonly Kill[]
  /** What recovery cut off and kept. */
  readonly evidence: ReadonlyArray<{ readonly sequence: number; readonly bytes: string }>
  readonly lastSequence: number
  readonly segments: number
  /** What recovery cut off after the last writer, which was not killed. */
  readonly tornAtEnd: number
}

/** Compares the files, read without the library, with what was sent and acknowledged. */
async function* compare(store: Store, records: Records, history: History): AsyncGenerator<string | Check> {
  const evidence: Array<{ sequence: number; bytes: string }> = []
  const tails = history.kills.flatMap(({ torn }) => torn ?? [])
  if (tails.length === 0) yield 'No kill tore a write. Run the demo again to see one.'
  for (const { sequence, bytes, savedAs } of tails) {
    const kept = savedAs === undefined ? 'there was no room to keep it' : `kept in ${basename(savedAs)}`
    yield `record ${sequence}: ${sizeText(bytes)} cut off, ${kept}`
    if (savedAs !== undefined) evidence.push({ sequence, bytes: await readFile(savedAs, 'latin1') })
  }
  const { segments, lastSequence, recovery } = store
  const files = await Promise.all(segments.map(({ path }) => readFile(path, 'latin1')))
  const [sent, found, tornAtEnd] = [records.map(lineOf), files.flatMap(linesOf), recovery.torn?.bytes ?? 0]
  yield* checksOf({ ...history, sent, found, evidence, lastSequence, segments: segments.length, tornAtEnd })
}

/** The records of a segment. One without a line feed at its end loses a character, so that a check fails. */
export function linesOf(text: string): string[] {
  return text.slice(0, -1).split('\n').slice(1)
}

export function checksOf(facts: Facts): Check[] {
  const { sent, found, acknowledged, kills, evidence, lastSequence, segments, tornAtEnd } = facts
  const inFlight = new Set(kills.map((kill) => kill.inFlight))
  const others = found.map((_, at) => at + 1).filter((sequence) => !acknowledged.includes(sequence))
  const untrue = evidence.find(({ sequence, bytes }) => bytes === '' || !sent[sequence - 1]?.startsWith(bytes))
  const reopened = kills.find((kill) => ![kill.lastAcknowledged, kill.inFlight].includes(kill.lastSequence))
  const late = acknowledged.find((sequence, at) => sequence <= (acknowledged[at - 1] ?? 0))
  const lost = acknowledged.find((sequence) => sequence > found.length)
  const wrong = found.findIndex((line, at) => line !== sent[at])
  const unexplained = others.find((sequence) => !inFlight.has(sequence))
  return [
    check(`the bytes kept (${plural(evidence.length, 'file')}) begin their record`, untrue?.sequence, 'differs'),
    check('each kill left the right record last', reopened?.lastSequence, 'was not'),
    check('records were acknowledged in their order', late, 'was late'),
    check(`all ${acknowledged.length} acknowledged records are there`, lost, 'is missing'),
    check(`${found.length} records are as they were sent`, wrong < 0 ? undefined : wrong + 1, 'is not what was sent'),
    check(`records without an acknowledgement (${others.length}) were in flight at a kill`, unexplained, 'was not'),
    equal('after the last close, nothing was torn', { expected: 0, actual: tornAtEnd }),
    equal(`the store counts ${lastSequence} records`, { expected: found.length, actual: lastSequence }),
    [`the journal was rotated (${segments} segments)`, segments < 4 && `expected at least 4, got ${segments}`],
  ]
}

function check(claim: string, record: number | undefined, problem: string): Check {
  return [claim, record !== undefined && `record ${record} ${problem}`]
}

function equal(claim: string, { expected, actual }: { readonly expected: unknown; readonly actual: unknown }): Check {
  return [claim, actual !== expected && `expected ${String(expected)}, got ${String(actual)}`]
}

/** `for await`: counts the records and compares each with what was sent. */
export async function* replayAll(store: Store, records: Records, signal: AbortSignal): AsyncGenerator<string | Check> {
  yield 'for await (const record of store.stream())'
  let [count, same] = [0, 0]
  for await (const record of store.stream({ signal })) {
    if (JSON.stringify(record) === JSON.stringify(records[count++])) same++
  }
  yield equal(`it gave ${count} records`, { expected: records.length, actual: count })
  yield equal('each is what was sent', { expected: records.length, actual: same })
}

const shownEvents = 10

/** Through a TransformStream into a table of the most frequent events. */
export async function* replayToReport(store: Store, signal: AbortSignal): AsyncGenerator<string | Check> {
  yield '\nstore.stream().pipeThrough(transform)'
  const transform = new TransformStream<WebhookRecord, { readonly event: string; readonly bytes: number }>({
    transform: (record, to) => to.enqueue({ event: record.event, bytes: lineOf(record).length }),
  })
  const events = new Map<string, { readonly event: string; readonly records: number; readonly bytes: number }>()
  for await (const { event, bytes } of store.stream({ signal }).pipeThrough(transform)) {
    const sum = events.get(event) ?? { records: 0, bytes: 0 }
    events.set(event, { event, records: sum.records + 1, bytes: sum.bytes + bytes })
  }
  const all = [...events.values()].toSorted((left, right) => right.records - left.records || right.bytes - left.bytes)
  const max = all[0]?.records ?? 0
  const rows = all.slice(0, shownEvents).map(({ event, records, bytes }) =>
    [event, String(records), sizeText(bytes), barOf(records, { max, columns: 20 })])
  yield* formatTable([['event', 'records', 'bytes'], ...rows], [1, 2])
  if (all.length > shownEvents) yield `and ${plural(all.length - shownEvents, 'other event')}`
  const actual = all.reduce((sum, { records }) => sum + records, 0)
  yield equal(`the report counts ${actual} records`, { expected: store.lastSequence, actual })
}

/** Follows the journal while the last payloads are appended once more. */
export async function* followLive(store: Store, records: Records, signal: AbortSignal): AsyncGenerator<string | Check> {
  const from = store.lastSequence + 1
  yield `\nstore.entries({ from: ${from}, follow: true }), appending more`
  // Only a defect would take so long, and the demo must end then.
  const limit = AbortSignal.any([signal, AbortSignal.timeout(10_000)])
  const live = store.entries({ from, follow: true, signal: limit })[Symbol.asyncIterator]()
  const more = records.slice(-3).map((record, index) => ({ ...record, delivery: from + index }))
  const seen: string[] = []
  for (const next of more) {
    const [entry] = await Promise.all([live.next(), store.append(next)])
    if (entry.done !== true) seen.push(`${entry.value.sequence}, ${entry.value.record.event}`)
    yield `record ${seen.at(-1)}, seen live`
  }
  await live.return?.()
  const expected = more.map(({ delivery, event }) => `${delivery}, ${event}`).join('; ')
  yield equal('all of them were seen live, in order', { expected, actual: seen.join('; ') })
}

/** Event names and payloads, as the package publishes them. */
export function loadExamples(): ReadonlyArray<{ readonly name: string; readonly examples: readonly unknown[] }> {
  try {
    return createRequire(import.meta.url)(examplesPackage) as ReturnType<typeof loadExamples>
  } catch (error) {
    if (!hasCode(error, 'MODULE_NOT_FOUND')) throw error
    const message = `The demo needs ${examplesPackage}, which is not installed: npm install ${examplesPackage}`
    throw new CommandFailure(message, { cause: error })
  }
}

const bundleEvent = 'bundle'

/**
 * Each payload as a record, and after every so many of them a bundle that holds all payloads several
 * times. Record number n is at n - 1.
 *
 * Linux checks for a kill between the blocks in which it copies a write into the page cache, of up
 * to 2 MiB (seen with 6.18 on ext4). So a bundle is several times as large: all payloads are 3 MiB.
 */
export function planRecords(catalogue: ReturnType<typeof loadExamples>, every = 70, copies = 3): WebhookRecord[] {
  const singles = catalogue.flatMap(({ name, examples }) => examples.map((payload) => ({ event: name, payload })))
  const bundle = { event: bundleEvent, payload: Array.from({ length: copies }, () => singles).flat() }
  return singles
    .flatMap((single, at) => (at % every === every - 1 ? [single, bundle] : [single]))
    .map(({ event, payload }, at) => ({ event, delivery: at + 1, payload }))
}

/** The line of a record as it must be in the journal, one character for each byte. */
function lineOf(record: WebhookRecord): string {
  return Buffer.from(JSON.stringify(record)).toString('latin1')
}

function openJournal(path: string): Promise<Store> {
  return MiniStore.open<WebhookRecord>(path, { maxBytesPerSegment })
}

// Started by `runWriter` with a path, and not imported: this process is the writer.
if (process.argv[1] === import.meta.filename) {
  try {
    await appendRest(process.argv[2] as string)
    process.exit()
  } catch (error) {
    // The writer must not outlive its parent, which has closed the pipe then.
    if (!hasCode(error, 'EPIPE')) process.stderr.write(`ministore: ${visible(messageOf(error))}\n`)
    process.exit(exitCodes.failed)
  }
}
