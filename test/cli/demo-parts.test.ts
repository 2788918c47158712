import { describe, expect, test } from 'vitest'

import { type EventTotal, reportLines, totalByEvent } from '../../src/cli/demo/event-report.ts'
import { splitLines } from '../../src/cli/demo/raw-journal.ts'
import {
  isBundle, loadExamples, planRecords, redeliver, type WebhookRecord,
} from '../../src/cli/demo/webhook-records.ts'

describe('the records of the demo', () => {
  const catalogue = [
    { name: 'push', examples: [1, 2, 3] },
    { name: 'ping', examples: [4, 5] },
  ]

  test('are each payload once, in order, numbered, with bundles of all of them in between', () => {
    const records = planRecords(catalogue, { bundles: 2, copies: 2 })
    expect(records.map(({ event }) => event)).toEqual(['push', 'bundle', 'push', 'bundle', 'push', 'ping', 'ping'])
    expect(records.map(({ delivery }) => delivery)).toEqual([1, 2, 3, 4, 5, 6, 7])
    const payloads = records.filter((record) => !isBundle(record)).map(({ payload }) => payload)
    expect(payloads).toEqual([1, 2, 3, 4, 5])
    expect(records[1]?.payload).toHaveLength(10)
  })

  test('of the installed package are hundreds, and no two of them are the same line', () => {
    const records = planRecords(loadExamples(), { bundles: 0, copies: 1 })
    expect(records.length).toBeGreaterThan(300)
    expect(new Set(records.map((record) => JSON.stringify(record))).size).toBe(records.length)
  })

  test('never begin or end with a bundle, nor have two side by side, whatever the numbers are', () => {
    for (let examples = 1; examples <= 12; examples++) {
      for (let bundles = 0; bundles < examples; bundles++) {
        const records = planRecords([{ name: 'push', examples: Array(examples).fill(0) }], { bundles, copies: 1 })
        const kinds = records.map((record) => (isBundle(record) ? 'B' : '.')).join('')
        expect(kinds, `${examples} examples, ${bundles} bundles`).toMatch(/^\.+(?:B\.+)*$/)
        expect(kinds.match(/B/g) ?? []).toHaveLength(bundles)
      }
    }
  })

  test('are delivered once more with numbers that go on', () => {
    const records = planRecords(catalogue, { bundles: 1, copies: 1 })
    const again = redeliver(records, 2)
    expect(again.map(({ delivery }) => delivery)).toEqual([7, 8])
    expect(again.every((record) => !isBundle(record))).toBe(true)
  })
})

describe('the report of the demo', () => {
  test('counts records and bytes by type of event, most records first', async () => {
    const records: WebhookRecord[] = ['ping', 'push', 'push', 'star'].map((event, index) => ({
      event, delivery: index + 1, payload: 'ä',
    }))
    const totals: EventTotal[] = []
    for await (const total of ReadableStream.from(records).pipeThrough(totalByEvent())) totals.push(total)
    const bytes = Buffer.byteLength('{"event":"ping","delivery":1,"payload":"ä"}')
    expect(totals).toEqual([
      { event: 'push', records: 2, bytes: 2 * bytes },
      { event: 'ping', records: 1, bytes },
      { event: 'star', records: 1, bytes },
    ])
  })

  test('puts many small records before few large ones, and of as many the larger first', async () => {
    const records = [['large', 'x'.repeat(99)], ['small', ''], ['small', ''], ['larger', 'x'.repeat(100)]].map(
      ([event = '', payload], index) => ({ event, delivery: index + 1, payload }),
    )
    const totals: EventTotal[] = []
    for await (const total of ReadableStream.from(records).pipeThrough(totalByEvent())) totals.push(total)
    expect(totals.map(({ event }) => event)).toEqual(['small', 'larger', 'large'])
  })

  test('is an aligned table of the most frequent types, the others summed', () => {
    const totals: EventTotal[] = [
      { event: 'pull_request', records: 6, bytes: 2048 },
      { event: 'push', records: 2, bytes: 100 },
      { event: 'ping', records: 1, bytes: 10 },
      { event: 'star', records: 1, bytes: 5 },
    ]
    expect(reportLines(totals, 2)).toEqual([
      'event          records       bytes  share of records',
      'pull_request         6     2.0 KiB   60.0 %  ████████████████████',
      'push                 2   100 bytes   20.0 %  ███████',
      '2 other types        2    15 bytes   20.0 %',
      'all                 10     2.1 KiB  100.0 %',
    ])
  })

  test('has no row for other types when there are none', () => {
    const lines = reportLines([{ event: 'push', records: 2, bytes: 100 }], 2)
    expect(lines.map((line) => line.split(' ')[0])).toEqual(['event', 'push', 'all'])
  })
})

describe('reading a segment as plain text', () => {
  test('gives its lines without their line feeds', () => {
    expect(splitLines(Buffer.from('a\n\nb c\n')).map(String)).toEqual(['a', '', 'b c'])
    expect(splitLines(Buffer.alloc(0))).toEqual([])
  })

  test('refuses a last line without one', () => {
    expect(() => splitLines(Buffer.from('a\nbc'))).toThrow('The last 2 bytes end in no line feed')
  })
})
