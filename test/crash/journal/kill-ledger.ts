import { createHash } from 'node:crypto'
import { readdir, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'

import { expect } from 'vitest'

import { type JournalEntry, MiniStore, type RecoveryReport } from '../../../src/index.ts'
import { collect } from '../../support/consume.ts'
import type { CommonReport } from '../processes/kill-process.ts'

/** What `processes/writer.js` reports. */
export type WriterReport =
  | {
      readonly type: 'opened'
      readonly first: number
      readonly last: number
      readonly isTorn: boolean
      readonly tornBytes: number
    }
  | {
      readonly type: 'call'
      readonly name: 'append' | 'appendAll'
      readonly hashes: readonly string[]
      readonly bytes: number
    }
  | { readonly type: 'call'; readonly name: 'truncateBefore'; readonly before: number }
  | { readonly type: 'call'; readonly name: 'rotate' | 'close' }
  | { readonly type: 'done'; readonly first: number; readonly last: number }

type Call = Extract<WriterReport, { readonly type: 'call' }>

/** How much was seen. The tests check these counts, so a shrinking suite fails. */
export interface LedgerCounts {
  acknowledgedRecords: number
  comparedRecords: number
  tornTails: number
  tornBytes: number
  /** Records that were complete on the disk, but never acknowledged. */
  unacknowledgedRecords: number
}

/**
 * What one journal must hold, derived from its writers' reports and compared with the disk after
 * each crash. Records are identified by hashes, which the writer reports before it makes the call.
 */
export class KillLedger {
  readonly counts: LedgerCounts = {
    acknowledgedRecords: 0,
    comparedRecords: 0,
    tornTails: 0,
    tornBytes: 0,
    unacknowledgedRecords: 0,
  }
  readonly #path: string
  readonly #hashes = new Map<number, string>()
  #first = 1
  #last = 0
  #inFlight: Call | undefined

  constructor(path: string) {
    this.#path = path
  }

  /**
   * Takes all reports of a writer from one round.
   *
   * @param options.mayFail whether the writer's last call may have failed because its disk was
   * taken away.
   */
  take(reports: ReadonlyArray<WriterReport | CommonReport>, { mayFail = false } = {}): void {
    for (const report of reports) {
      if (report.type === 'opened') this.#opened(report)
      else if (report.type === 'call') this.#inFlight = report
      else if (report.type === 'done') this.#done(report)
      else if (report.type === 'failed' && !mayFail) throw new Error(`A writer failed: ${report.message}`)
    }
  }

  /**
   * Compares what a static reader gives with what must be there, and checks that reading has
   * changed nothing. What was found must be there from now on, since SIGKILL takes nothing from the
   * page cache.
   *
   * If the journal is empty, calls in flight stay undecided: without records, the journal's
   * position is unknown.
   */
  async checkStaticRead(): Promise<void> {
    const before = await fingerprint(this.#path)
    const entries = await collect(MiniStore.entries(this.#path))
    expect(await fingerprint(this.#path), 'a static reader has changed something').toEqual(before)
    const first = entries.at(0)?.sequence
    this.#checkEntries(entries)
    if (first !== undefined) this.#settle(first, first + entries.length - 1)
  }

  /**
   * Opens the journal in this process, compares it with what must be there and closes it. Does so
   * twice.
   */
  async checkOpen(): Promise<void> {
    await this.#checkOpenOnce(true)
    await this.#checkOpenOnce(false)
  }

  async #checkOpenOnce(mayBeTorn: boolean): Promise<void> {
    const store = await MiniStore.open(this.#path)
    try {
      const { firstSequence, lastSequence, recovery } = store
      if (!mayBeTorn) expect(recovery.torn, 'a torn tail was found again').toBeUndefined()
      await this.#countTorn(recovery)
      const entries = await collect(store.entries())
      this.#checkEntries(entries)
      expect(entries.length).toBe(lastSequence - firstSequence + 1)
      this.#settle(firstSequence, lastSequence)
    } finally {
      await store.close()
    }
  }

  #opened(report: Extract<WriterReport, { readonly type: 'opened' }>): void {
    if (report.isTorn) this.#tornTail(report.tornBytes)
    this.#settle(report.first, report.last)
  }

  #done({ first, last }: { readonly first: number; readonly last: number }): void {
    const call = this.#inFlight
    const hashes = hashesOf(call)
    expect(last, `the last sequence number after ${call?.name}`).toBe(this.#last + hashes.length)
    this.counts.acknowledgedRecords += hashes.length
    this.#settle(first, last)
    this.counts.unacknowledgedRecords -= hashes.length
  }

  /**
   * Checks all records: each occurs once, in order, byte for byte, with none missing at either end.
   */
  #checkEntries(entries: ReadonlyArray<JournalEntry<unknown>>): void {
    const possible = hashesOf(this.#inFlight)
    const first = entries.at(0)?.sequence ?? this.#first
    for (const [index, { sequence, record }] of entries.entries()) {
      expect(sequence).toBe(first + index)
      const expected = this.#hashes.get(sequence) ?? possible[sequence - this.#last - 1]
      const actual = createHash('sha1').update(JSON.stringify(record)).digest('base64url')
      if (actual !== expected) expect.fail(`Record ${sequence} is not what was written (${this.#state()})`)
    }
    this.counts.comparedRecords += entries.length
    if (entries.length > 0) this.#checkBounds(first, first + entries.length - 1)
    else if (this.#hashes.size > 0 && this.#inFlight?.name !== 'truncateBefore') {
      expect.fail(`No record is there (${this.#state()})`)
    }
  }

  #checkBounds(first: number, last: number): void {
    const context = `found ${first}–${last} (${this.#state()})`
    const call = this.#inFlight
    const highestFirst = call?.name === 'truncateBefore' ? Math.max(call.before, this.#first) : this.#first
    expect(first, context).toBeGreaterThanOrEqual(this.#first)
    expect(first, context).toBeLessThanOrEqual(highestFirst)
    expect(last, context).toBeGreaterThanOrEqual(this.#last)
    expect(last, context).toBeLessThanOrEqual(this.#last + hashesOf(call).length)
  }

  /** Records that what is there now must be there from now on. */
  #settle(first: number, last: number): void {
    this.#checkBounds(first, last)
    const hashes = hashesOf(this.#inFlight)
    for (let sequence = this.#last + 1; sequence <= last; sequence++) {
      this.#hashes.set(sequence, hashes[sequence - this.#last - 1] as string)
      this.counts.unacknowledgedRecords += 1
    }
    for (let sequence = this.#first; sequence < first; sequence++) this.#hashes.delete(sequence)
    this.#first = first
    this.#last = last
    this.#inFlight = undefined
  }

  async #countTorn({ torn }: RecoveryReport): Promise<void> {
    if (torn === undefined) return
    expect((await stat(String(torn.savedAs))).size, 'the size of the evidence').toBe(torn.bytes)
    expect(torn.sequence, 'where the tail was torn').toBeGreaterThan(this.#last)
    this.#tornTail(torn.bytes)
  }

  #tornTail(bytes: number): void {
    this.counts.tornTails += 1
    this.counts.tornBytes += bytes
  }

  #state(): string {
    return `acknowledged ${this.#first}–${this.#last}, in flight ${JSON.stringify(this.#inFlight)}`
  }
}

function hashesOf(call: Call | undefined): readonly string[] {
  return call?.name === 'append' || call?.name === 'appendAll' ? call.hashes : []
}

/**
 * Names, sizes and change times of all files. The change time shows every write, even of the same
 * bytes.
 */
async function fingerprint(path: string): Promise<string[]> {
  const directory = dirname(path)
  const names = (await readdir(directory)).toSorted()
  return Promise.all(
    ['', ...names].map(async (name) => {
      const { ino, size, ctimeNs } = await stat(join(directory, name), { bigint: true })
      return `${name} ${ino} ${size} ${ctimeNs}`
    }),
  )
}
