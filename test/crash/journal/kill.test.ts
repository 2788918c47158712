import { statSync } from 'node:fs'
import { mkdir, readdir, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'

import { expect, onTestFinished, test } from 'vitest'

import { scaled } from '../../support/crash-scale.ts'
import { pickSeed, seededRandom } from '../../support/seeded-random.ts'
import { temporaryDirectory } from '../../support/temporary-directory.ts'
import { KillLedger, type WriterReport } from './kill-ledger.ts'
import { KillableProcess, spin } from '../processes/kill-process.ts'

const rounds = scaled(30, 2000)
/** 30 rounds see few torn tails, and may by chance see none. */
const leastTornTails = scaled(0, 10)
const mebibyte = 2 ** 20

type Writer = KillableProcess<WriterReport>
type Random = (limit: number) => number

/** When the writer of a round is killed. */
interface Moment {
  /**
   * The event from which the delay counts: the start, the end of opening, the report of a call, or
   * the growth of the file during a call.
   */
  readonly after: 'start' | 'opened' | 'call' | 'growth'
  /**
   * Which call since the start, counted from 1. For `growth`, only calls that write more than 128
   * KiB count.
   */
  readonly call: number
  readonly delayUs: number
}

test(`a writer killed with SIGKILL at a random moment loses nothing, ${rounds} times`, async () => {
  const seed = pickSeed('kill')
  const random = seededRandom(seed)
  const path = join(await temporaryDirectory(), 'state/journal.jsonl')
  await mkdir(dirname(path))
  const ledger = new KillLedger(path)
  const spare = new SpareWriters()
  const calls = new Map<string, number>()
  const start = performance.now()

  // On a loaded machine fewer kills hit the middle of a write. The test then makes up to twice as
  // many kills, the additional ones all during a large write.
  const isEnough = (round: number): boolean => round > rounds && ledger.counts.tornTails >= leastTornTails
  for (let round = 1; round <= 2 * rounds && !isEnough(round); round++) {
    const writer = spare.take()
    const moment = pickMoment(random, { isLarge: round > rounds })
    await writer.start({
      path,
      seed: random(2 ** 32),
      options: { maxBytesPerSegment: 2 ** (12 + random(7)), preallocate: random(2) === 0 ? undefined : 2 ** (9 + random(8)) },
      largePercent: moment.after === 'growth' ? 50 : 3,
      // On ext4, a write can be interrupted, and its growth is visible, between folios of up to a
      // few MiB.
      maxRecordBytes: (moment.after === 'growth' ? 8 : 1) * mebibyte,
      maxJournalBytes: mebibyte / 4,
    })
    await killAt(writer, path, moment)
    const last = writer.reports.at(-1)
    const inFlight = last === undefined ? 'open' : last.type === 'call' ? last.name : 'none'
    calls.set(inFlight, (calls.get(inFlight) ?? 0) + 1)

    ledger.take(writer.reports)
    await ledger.checkStaticRead()
    // In the other half of the rounds, the next writer is the first to open the journal, and may be
    // killed while opening it.
    if (random(2) === 0) {
      await ledger.checkOpen()
      await removeEvidence(path)
    }
  }
  await ledger.checkOpen()

  const { acknowledgedRecords, comparedRecords, tornTails, tornBytes, unacknowledgedRecords } = ledger.counts
  console.log(
    `kill: ${[...calls.values()].reduce((sum, count) => sum + count, 0)} rounds in ${((performance.now() - start) / 1000).toFixed(1)} s, ` +
      `${acknowledgedRecords} records acknowledged, ${unacknowledgedRecords} there without, ` +
      `${comparedRecords} compared, ${tornTails} torn tails of ${tornBytes} bytes in all; ` +
      `in flight: ${[...calls].map(([name, count]) => `${name} ${count}`).join(', ')}`,
  )
  // Without this floor, the kills might come at moments that prove nothing.
  expect(acknowledgedRecords).toBeGreaterThan(rounds)
  expect((calls.get('append') ?? 0) + (calls.get('appendAll') ?? 0)).toBeGreaterThan(rounds / 4)
  expect(tornTails).toBeGreaterThanOrEqual(leastTornTails)
})

/** Writers started in advance while another one works, since starting takes longer than a round. */
class SpareWriters {
  readonly #ready: Writer[] = []
  readonly #all = new Set<Writer>()

  constructor() {
    onTestFinished(async () => {
      await Promise.all([...this.#all].map((writer) => writer.kill()))
    })
    // One for each of the two cores that the tests have.
    this.#add()
    this.#add()
  }

  take(): Writer {
    this.#add()
    return this.#ready.shift() as Writer
  }

  #add(): void {
    const writer = new KillableProcess<WriterReport>('writer.js')
    this.#ready.push(writer)
    this.#all.add(writer)
    void writer.ended().then(() => this.#all.delete(writer))
  }
}

function pickMoment(random: Random, { isLarge }: { readonly isLarge: boolean }): Moment {
  switch (isLarge ? 4 : random(6)) {
    case 0:
      return { after: 'start', call: 0, delayUs: random(10_000) }
    case 1:
      return { after: 'opened', call: 0, delayUs: random(30_000) }
    case 2:
    case 3:
      return { after: 'call', call: 1 + random(20), delayUs: random(800) }
    default:
      return { after: 'growth', call: 1, delayUs: random(random(3) > 0 ? 60 : 1000) }
  }
}

/** Resolves when the writer is gone. */
function killAt(writer: Writer, path: string, { after, call, delayUs }: Moment): Promise<void> {
  return new Promise((resolve, reject) => {
    const kill = (): void => {
      clearTimeout(timer)
      void writer.kill().then(resolve, reject)
    }
    let timer = setTimeout(kill, after === 'start' ? delayUs / 1000 : 1000)
    let calls = 0
    writer.onReport = (report) => {
      if (report.type === 'failed') return kill()
      if (after === 'start') return
      if (report.type === 'opened' && calls === 0) {
        clearTimeout(timer)
        // The awaited call may not come for a while. This timer bounds the length of a round.
        timer = setTimeout(kill, after === 'opened' ? delayUs / 1000 : after === 'call' ? 60 : 300)
      }
      if (after === 'opened' || report.type !== 'call') return
      if (after === 'growth' && !('bytes' in report && report.bytes > 128 * 1024)) return
      calls += 1
      if (calls !== call) return
      if (after === 'growth') waitForGrowth(path)
      spin(delayUs)
      kill()
    }
  })
}

/**
 * Returns when a large write into the active segment has begun. Polls without yielding to the event
 * loop, since the write would be over by then. Gives up after 30 ms, as the call may have ended.
 */
function waitForGrowth(path: string): void {
  const end = performance.now() + 30
  let smallest = Infinity
  while (performance.now() < end) {
    // During a rotation the file may be replaced by a shorter one, or be missing for a moment.
    const size = statSync(path, { throwIfNoEntry: false })?.size ?? 0
    smallest = Math.min(smallest, size)
    if (size > smallest + 1024) return
  }
}

/** Deletes evidence files that recovery saved. Those of 2,000 rounds would fill the disk. */
async function removeEvidence(path: string): Promise<void> {
  const directory = dirname(path)
  for (const name of await readdir(directory)) {
    if (name.includes('.torn-')) await rm(join(directory, name))
  }
}
