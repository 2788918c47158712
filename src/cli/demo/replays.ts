import type { MiniStore } from '../../index.ts'
import { checkEqual } from './checks.ts'
import { type EventTotal, reportLines, sumOf, totalByEvent } from './event-report.ts'
import { bytesText, type Printer } from './printer.ts'
import { redeliver, type WebhookRecord } from './webhook-records.ts'

const topEvents = 12
const liveRecords = 3
const followTimeoutMs = 10_000

/** `for await`: counts the records and compares each with what was sent. */
export async function replayAll(
  printer: Printer,
  store: MiniStore<WebhookRecord>,
  records: readonly WebhookRecord[],
): Promise<void> {
  const start = performance.now()
  let count = 0
  let equal = 0
  for await (const { delivery, event, payload } of store.stream()) {
    const sent = records[count]
    if (sent?.delivery === delivery && sent.event === event && sameJson(sent.payload, payload)) equal++
    count++
  }
  const bytes = bytesText(sumBytes(store))
  printer.line(`for await (const record of store.stream())   ${bytes} in ${millisecondsSince(start)} ms, comparing`)
  printer.check(checkEqual(`it gave ${count} records`, { expected: records.length, actual: count }))
  printer.check(checkEqual('each is what was sent', { expected: records.length, actual: equal }))
}

/** Through a TransformStream into a table. */
export async function replayToReport(printer: Printer, store: MiniStore<WebhookRecord>): Promise<void> {
  printer.line('store.stream().pipeThrough(transform)')
  const totals: EventTotal[] = []
  for await (const total of store.stream().pipeThrough(totalByEvent())) totals.push(total)
  printer.line('')
  for (const line of reportLines(totals, topEvents)) printer.line(line)
  printer.line('')
  printer.line('(The bundles are one of the other types: few records, many bytes.)')
  const { records } = sumOf(totals, 'all')
  printer.check(checkEqual(`the table counts ${records} records`, { expected: store.lastSequence, actual: records }))
}

/** Follows the journal while more is appended to it. */
export async function followLive(
  printer: Printer,
  store: MiniStore<WebhookRecord>,
  records: readonly WebhookRecord[],
): Promise<void> {
  const more = redeliver(records, liveRecords)
  const from = store.lastSequence + 1
  printer.line(`store.entries({ from: ${from}, follow: true })   while ${more.length} more are appended`)
  const seen: number[] = []
  let appendedAt = 0
  // Only a defect would take so long, and it should be an error then and not a demo that hangs.
  const signal = AbortSignal.timeout(followTimeoutMs)
  const following = (async (): Promise<void> => {
    for await (const { sequence, record } of store.entries({ from, follow: true, signal })) {
      seen.push(sequence)
      const waited = millisecondsSince(appendedAt, 1)
      printer.line(`  record ${sequence}, ${record.event}, seen ${waited} ms after append() was called`)
      // Leaving the loop ends the stream.
      if (seen.length === more.length) break
    }
  })()
  const appending = (async (): Promise<void> => {
    for (const record of more) {
      appendedAt = performance.now()
      await store.append(record)
    }
  })()
  await Promise.all([following, appending])
  const expected = more.map((_, index) => from + index).join(', ')
  printer.check(checkEqual('all of them were seen live, in order', { expected, actual: seen.join(', ') }))
}

function sameJson(a: unknown, b: unknown): boolean {
  return JSON.stringify(a) === JSON.stringify(b)
}

function sumBytes(store: MiniStore<WebhookRecord>): number {
  return store.segments.reduce((sum, { bytes }) => sum + bytes, 0)
}

function millisecondsSince(start: number, digits = 0): string {
  return (performance.now() - start).toFixed(digits)
}
