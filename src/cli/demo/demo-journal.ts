import { MiniStore } from '../../index.ts'
import { loadExamples, planRecords, type WebhookRecord } from './webhook-records.ts'

/**
 * Small enough for the journal to rotate every forty records or so, and smaller than a bundle: a segment
 * larger than this holds a bundle or a part of one.
 */
export const maxBytesPerSegment: number = 512 * 1024

/** What parent and writer both know: the record with sequence number n is the one at n - 1. */
export function recordsToSend(): WebhookRecord[] {
  // Linux looks for a kill between the blocks in which it copies a write into the page cache, and these have up to 2 MiB
  // (seen with 6.18 on ext4). So a record that tears well is several times as large; all payloads are about 3 MiB.
  return planRecords(loadExamples(), { bundles: 4, copies: 3 })
}

/** The line of a record as it must be in the journal, without its line feed. */
export function lineOf(record: WebhookRecord): Buffer {
  return Buffer.from(JSON.stringify(record))
}

export function openJournal(path: string): Promise<MiniStore<WebhookRecord>> {
  return MiniStore.open<WebhookRecord>(path, { maxBytesPerSegment })
}
