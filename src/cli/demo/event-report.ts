import { bytesText } from './printer.ts'
import type { WebhookRecord } from './webhook-records.ts'

/** What the journal holds of one type of event. */
export interface EventTotal {
  readonly event: string
  readonly records: number
  readonly bytes: number
}

const barWidth = 20

/** Takes records and gives, at their end, one total for each type of event, most records first. */
export function totalByEvent(): TransformStream<WebhookRecord, EventTotal> {
  const totals = new Map<string, EventTotal>()
  return new TransformStream({
    transform(record) {
      const { event, records, bytes } = totals.get(record.event) ?? { event: record.event, records: 0, bytes: 0 }
      const length = Buffer.byteLength(JSON.stringify(record))
      totals.set(event, { event, records: records + 1, bytes: bytes + length })
    },
    flush(controller) {
      const sorted = [...totals.values()].toSorted(
        (a, b) => b.records - a.records || b.bytes - a.bytes || (a.event < b.event ? -1 : 1),
      )
      for (const total of sorted) controller.enqueue(total)
    },
  })
}

/** The totals as lines of a table: the first `top` of them, and the rest as one. */
export function reportLines(totals: readonly EventTotal[], top: number): string[] {
  const shown = totals.slice(0, top)
  const rest = sumOf(totals.slice(top), `${totals.length - shown.length} other types`)
  const all = sumOf(totals, 'all')
  const most = Math.max(...shown.map(({ records }) => records))
  const widths = { event: Math.max(...[...shown, rest, all].map(({ event }) => event.length)), records: 7, bytes: 10 }
  const row = ({ event, records, bytes }: Record<keyof EventTotal, string>, share: string): string =>
    `${event.padEnd(widths.event)}  ${records.padStart(widths.records)}  ${bytes.padStart(widths.bytes)}  ${share}`.trimEnd()
  const totalRow = (total: EventTotal, bar: string): string => {
    const share = `${((100 * total.records) / all.records).toFixed(1)} %`.padStart(7)
    return row({ event: total.event, records: String(total.records), bytes: bytesText(total.bytes) }, `${share}  ${bar}`)
  }
  return [
    row({ event: 'event', records: 'records', bytes: 'bytes' }, 'share of records'),
    ...shown.map((total) => totalRow(total, '█'.repeat(Math.max(1, Math.round((barWidth * total.records) / most))))),
    ...(rest.records > 0 ? [totalRow(rest, '')] : []),
    totalRow(all, ''),
  ]
}

export function sumOf(totals: readonly EventTotal[], name: string): EventTotal {
  let [records, bytes] = [0, 0]
  for (const total of totals) {
    records += total.records
    bytes += total.bytes
  }
  return { event: name, records, bytes }
}
