import type { TornTail } from '../../index.ts'
import { lineOf, maxBytesPerSegment, openJournal } from './demo-journal.ts'
import { type Kill, runWriter, waitFor, waitForBytes } from './killed-writer.ts'
import { bytesText, type Printer } from './printer.ts'
import { isBundle, type WebhookRecord } from './webhook-records.ts'

/** What came of all writers, killed and not. */
export interface CrashHistory {
  /** Sequence numbers of all acknowledged appends, in the order in which they were heard. */
  readonly acknowledged: readonly number[]
  readonly kills: readonly KilledRound[]
}

/** A writer killed, and the journal as it was found after that. */
export interface KilledRound {
  readonly lastAcknowledged: number
  readonly inFlight: number | undefined
  readonly lastSequence: number
  readonly torn: TornTail | undefined
}

/** The first kill is in a small record; after these, the first torn tail ends the killing. */
const leastKills = 3

/**
 * Starts writers and kills them in the middle of an append, opening the journal after each kill, until a torn
 * tail was seen or there are no bundles left to tear. Then a last writer appends the rest undisturbed.
 *
 * A kill tears only a write that is under way in the kernel, and that of a small record takes microseconds: whole or
 * not begun is all that a kill finds of it. Copying a bundle into the page cache takes a millisecond or two.
 */
export async function crashAndGoOn(
  printer: Printer,
  setup: { readonly program: string; readonly path: string; readonly records: readonly WebhookRecord[] },
): Promise<CrashHistory> {
  const { program, path, records } = setup
  const acknowledged: number[] = []
  const kills: KilledRound[] = []
  printer.line(row({ kill: 'kill', inFlight: 'record in flight', acknowledged: 'acknowledged', found: 'found on opening again' }))
  for (let last = 0; ; ) {
    const isTornSeen = kills.length >= leastKills && kills.some(({ torn }) => torn !== undefined)
    const kill = isTornSeen ? undefined : chooseKill(path, records, { after: last, isFirst: kills.length === 0 })
    const run = await runWriter(program, path, kill)
    for (const sequence of run.acknowledged) acknowledged.push(sequence)
    if (!run.wasKilled) return { acknowledged, kills }
    const lastAcknowledged = run.acknowledged.at(-1) ?? last
    const round = { lastAcknowledged, inFlight: run.inFlight, ...(await reopen(path)) }
    kills.push(round)
    printer.line(roundLine(round, kills.length, records))
    last = round.lastSequence
  }
}

async function reopen(path: string): Promise<Pick<KilledRound, 'lastSequence' | 'torn'>> {
  await using store = await openJournal(path)
  return { lastSequence: store.lastSequence, torn: store.recovery.torn }
}

/** Undefined when no bundle is left. */
function chooseKill(
  path: string,
  records: readonly WebhookRecord[],
  state: { readonly after: number; readonly isFirst: boolean },
): Kill | undefined {
  const nextBundle = records.findIndex((record, index) => index > state.after && isBundle(record)) + 1
  if (nextBundle === 0) return undefined
  if (state.isFirst) {
    // Any small record before the bundle, and any moment from at once to a little more than its fsync may take.
    return { sequence: 1 + Math.floor(Math.random() * (nextBundle - 1)), wait: () => waitFor(Math.random()) }
  }
  // A segment larger than the limit can only be one that the bundle is being written to. Aiming for its first
  // third leaves the signal the time to arrive.
  const most = lineOf(records[nextBundle - 1] as WebhookRecord).length / 3
  const bytes = maxBytesPerSegment + Math.random() * (most - maxBytesPerSegment)
  return { sequence: nextBundle, wait: () => waitForBytes(path, bytes) }
}

function roundLine(round: KilledRound, number: number, records: readonly WebhookRecord[]): string {
  const { inFlight, lastAcknowledged } = round
  const record = inFlight === undefined ? undefined : records[inFlight - 1]
  return row({
    kill: String(number),
    inFlight: record === undefined ? 'none' : `${inFlight}, ${bytesText(lineOf(record).length)}`,
    acknowledged: `1 to ${lastAcknowledged}`,
    found: foundText(round),
  })
}

function foundText({ inFlight, lastSequence, torn }: KilledRound): string {
  if (torn !== undefined) return `${bytesText(torn.bytes)} of it: a torn tail, cut off and kept aside`
  if (inFlight === undefined) return 'killed just after an acknowledgement'
  return lastSequence >= inFlight ? 'all of it: never acknowledged, but whole, so it stays' : 'nothing of it'
}

function row(cells: Record<'kill' | 'inFlight' | 'acknowledged' | 'found', string>): string {
  const { kill, inFlight, acknowledged, found } = cells
  return `${kill.padStart(4)}  ${inFlight.padEnd(17)} ${acknowledged.padEnd(13)} ${found}`
}
