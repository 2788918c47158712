import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as after } from 'node:timers/promises'

import { describe, expect, onTestFinished, test, type TestContext } from 'vitest'

import { type JournalEntry, MiniStore, MiniStoreError, nodeFileSystem } from '../../../src/index.ts'
import { inspectJournal } from '../../../src/maintenance/inspect.ts'
import { collect } from '../../support/consume.ts'
import { isFullCrashSuite } from '../../support/crash-scale.ts'
import { pickSeed, seededRandom } from '../../support/seeded-random.ts'
import { temporaryDirectory } from '../../support/temporary-directory.ts'
import { KillLedger, type WriterReport } from './kill-ledger.ts'
import { type CommonReport, KillableProcess } from '../processes/kill-process.ts'
import { Volume, whyNoVolume } from './real-disk-volumes.ts'

const powerLosses = Number(process.env['MINISTORE_DISK_ROUNDS'] ?? 20)

/**
 * Skips the test, with a reason, unless this is the full suite and the machine supports the test.
 */
async function needs(context: TestContext, type?: 'tmpfs' | 'ext4' | 'xfs'): Promise<void> {
  let reason: string | undefined
  if (!isFullCrashSuite) reason = 'it is part of the full crash suite only (npm run test:crash)'
  else if (type !== undefined) reason = await whyNoVolume(type)
  else if (process.platform === 'win32') reason = 'it needs a POSIX shell with ulimit'
  if (reason === undefined) return
  console.log(`real disk: skipped “${context.task.name}”: ${reason}`)
  context.skip(reason)
}

describe('a disk that is really full', () => {
  test.for<{ name: string; type: 'tmpfs' | 'ext4'; mebibytes: number; recordBytes: number }>([
    { name: 'tmpfs, small records', type: 'tmpfs', mebibytes: 2, recordBytes: 700 },
    { name: 'tmpfs, records of some pages', type: 'tmpfs', mebibytes: 4, recordBytes: 30_000 },
    { name: 'tmpfs, records larger than a segment', type: 'tmpfs', mebibytes: 4, recordBytes: 300_000 },
    { name: 'ext4, records of two pages', type: 'ext4', mebibytes: 16, recordBytes: 8000 },
    { name: 'ext4, records larger than a segment', type: 'ext4', mebibytes: 16, recordBytes: 300_000 },
  ])('refuses the append and continues when there is space again ($name)', async (row, context) => {
    await needs(context, row.type)
    const { type, mebibytes } = row
    const isInMemory = type === 'tmpfs'
    const { directory } = await (isInMemory ? Volume.inMemory(mebibytes) : Volume.inImage(type, mebibytes))
    const path = join(directory, 'state/journal.jsonl')
    const options = { maxBytesPerSegment: 148 * 1024 }
    let store = await MiniStore.open<string>(path, options)
    onTestFinished(() => store.close())
    const expected = new Map<number, string>()
    let refused = 0

    /**
     * Returns whether the record was written. It may only be refused for lack of space, and then
     * nothing has changed.
     */
    const append = async (bytes: number): Promise<boolean> => {
      const before = store.lastSequence
      const text = `${before + 1} of cycle `.padEnd(bytes, 'ä')
      try {
        expect(await store.append(text)).toBe(before + 1)
      } catch (error) {
        expect(error).toBeInstanceOf(MiniStoreError)
        expect(error).toMatchObject({ code: 'ERR_MINISTORE_IO', cause: { code: 'ENOSPC' } })
        expect(store.lastSequence).toBe(before)
        refused += 1
        return false
      }
      expected.set(before + 1, text)
      return true
    }
    const checkAll = async (): Promise<void> => {
      const entries = [...expected].map(([sequence, record]): JournalEntry<string> => ({ sequence, record }))
      expect(await collect(store.entries())).toEqual(entries)
      expect(await collect(MiniStore.entries(path))).toEqual(entries)
    }

    for (let cycle = 1; cycle <= 3; cycle++) {
      while (await append(row.recordBytes));
      await append(row.recordBytes)
      // A small record may still fit.
      await append(10)
      await checkAll()
      // On a full disk, a journal can be closed and opened again.
      await store.close()
      store = await MiniStore.open<string>(path, options)
      expect(store.recovery.torn, 'what was rolled back is gone').toBeUndefined()
      await checkAll()

      await store.truncateBefore(store.lastSequence + 1)
      for (const sequence of expected.keys()) if (sequence < store.firstSequence) expected.delete(sequence)
      expect(store.segments).toHaveLength(1)
      for (let count = 0; count < 3; count++) {
        expect(await append(row.recordBytes), 'there is space').toBe(true)
      }
      await checkAll()
      await store.close()
      store = await MiniStore.open<string>(path, options)
      await checkAll()
    }
    console.log(`full disk: ${row.name}: ${store.lastSequence} records, ${refused} refusals`)
    expect(refused).toBeGreaterThanOrEqual(6)
  })
})

describe('a limit on the size of files', () => {
  type LimitedReport =
    | { readonly type: 'appended'; readonly sequence: number; readonly text: string }
    | { readonly type: 'refused'; readonly cause: string | undefined; readonly last: number }
    | { readonly type: 'replayed'; readonly texts: readonly string[] }
    | { readonly type: 'closed' }

  test.for<{ name: string; bytes: number }>([
    // Writes up to 128 KiB run on the calling thread, larger ones in the thread pool.
    { name: 'a write of 4 KB', bytes: 4000 },
    { name: 'a write of 100 KB', bytes: 100_000 },
    { name: 'a write of 400 KB', bytes: 400_000 },
  ])('refuses the append, accepts smaller ones, and continues after a rotation ($name)', async (row, context) => {
    await needs(context)
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    // In units of 1024 bytes. Node ignores SIGXFSZ, so the system writes up to the limit and then
    // answers EFBIG.
    const limit = Math.ceil((row.bytes * 1.7) / 1024)
    const writer = new KillableProcess<LimitedReport>('limited-writer.js', {
      before: ['bash', '-c', `ulimit -f ${limit} && exec "$0" "$@"`],
    })
    onTestFinished(() => writer.kill())
    await writer.start({ path, bytes: row.bytes })
    await writer.ended()

    const { reports } = writer
    expect(reports.find(({ type }) => type === 'failed')).toBeUndefined()
    expect(reports.at(-1)).toEqual({ type: 'closed' })
    const appended = reports.flatMap((report) => (report.type === 'appended' ? [report] : []))
    expect(appended.map(({ sequence }) => sequence)).toEqual([1, 2, 3, 4])
    const refusals = reports.flatMap((report) => (report.type === 'refused' ? [report] : []))
    expect(refusals).toEqual([
      { type: 'refused', cause: 'EFBIG', last: 1 },
      { type: 'refused', cause: 'EFBIG', last: 1 },
    ])
    const texts = appended.map(({ text }) => text)
    expect(reports.find(({ type }) => type === 'replayed')).toEqual({ type: 'replayed', texts })
    expect(await MiniStore.replay(path)).toEqual(texts)
    // This process has no such limit.
    await using store = await MiniStore.open<string>(path)
    expect(store.recovery.torn).toBeUndefined()
    expect(await store.append('x'.repeat(row.bytes * 2))).toBe(5)
  })
})

// This test cannot cover a drive's own volatile cache. What the file system has passed to the loop
// device stays, as on a drive that keeps everything it has accepted. The tests of the order of
// system calls show that a flush follows.
describe('power loss', () => {
  test.for<{ type: 'ext4' | 'xfs'; mebibytes: number }>([
    { type: 'ext4', mebibytes: 64 },
    // The smallest size that mkfs.xfs accepts.
    { type: 'xfs', mebibytes: 320 },
  ])(`on $type keeps what was acknowledged, ${powerLosses} times`, async ({ type, mebibytes }, context) => {
    await needs(context, type)
    const seed = pickSeed(`power loss on ${type}`)
    const random = seededRandom(seed)
    const volume = await Volume.inImage(type, mebibytes)
    const path = join(volume.directory, 'journal.jsonl')
    const ledger = new KillLedger(path)
    const start = performance.now()
    let failedWriters = 0
    let survivors = 0
    let falseSuccesses = 0

    for (let round = 1; round <= powerLosses; round++) {
      const writer = new KillableProcess<WriterReport>('writer.js')
      // Runs before the volume is unmounted, since a process with an open file there would block
      // that.
      onTestFinished(() => writer.kill())
      const isBusy = acknowledgements(writer, random(4) === 0 ? 0 : 1 + random(30))
      await writer.start({
        path,
        seed: random(2 ** 32),
        options: { maxBytesPerSegment: 2 ** (12 + random(8)), preallocate: random(2) === 0 ? undefined : 2 ** (9 + random(8)) },
        largePercent: random(3) === 0 ? 40 : 3,
        maxRecordBytes: 2 ** 20,
        maxJournalBytes: 2 ** 20,
      })
      await isBusy
      await after(random(6))
      // A stopped writer cannot notice the failure. In the other rounds the disk vanishes during a
      // call, and the writer must handle the errors.
      const isStopped = random(2) === 0
      if (isStopped) writer.signal('SIGSTOP')
      await volume.losePower()
      await writer.kill()
      const failure = writer.reports.find((report) => report.type === 'failed')
      if (failure?.type === 'failed') {
        expect(isStopped, failure.message).toBe(false)
        expect(failure.code).toMatch(/^ERR_MINISTORE_(?:IO|OUTCOME_UNKNOWN|POISONED)$/)
        failedWriters += 1
      }
      await volume.unmount()
      await volume.mount()

      const reports = isStopped ? writer.reports : await withoutFalseSuccess(writer.reports, path)
      if (reports.length < writer.reports.length) falseSuccesses += 1
      ledger.take(reports, { mayFail: true })
      const { unacknowledgedRecords } = ledger.counts
      await ledger.checkStaticRead()
      await ledger.checkOpen()
      if (ledger.counts.unacknowledgedRecords > unacknowledgedRecords) survivors += 1
      expect(await readdir(volume.directory), 'what recovery removes').not.toContain('journal.jsonl.next')
    }

    const { acknowledgedRecords, comparedRecords, tornTails, tornBytes } = ledger.counts
    const seconds = ((performance.now() - start) / 1000).toFixed(1)
    console.log(
      `power loss on ${type}: ${powerLosses} rounds in ${seconds} s, ` +
        `${acknowledgedRecords} records acknowledged, ${comparedRecords} compared, ` +
        `${tornTails} torn tails of ${tornBytes} bytes in all, ${survivors} calls in flight that survived, ` +
        `${failedWriters} writers that saw the disk go, ${falseSuccesses} that the kernel told of a success that was none`,
    )
    expect(acknowledgedRecords).toBeGreaterThan(powerLosses)
  })
})

/**
 * The reports of a writer whose disk went away, up to the call that overlapped the ioctl if that
 * call is not on the disk.
 *
 * Linux may report success for a sync that is in progress at that moment. A loop of `write` and
 * `fdatasync` in C sees the same, in one round of eight on a busy machine. In a real power failure,
 * no process survives to see that success. What this one call reported may therefore be missing, as
 * if it had not been acknowledged. Nothing else may be missing: from then on every call fails.
 */
async function withoutFalseSuccess<Report extends WriterReport | CommonReport>(
  reports: readonly Report[],
  path: string,
): Promise<readonly Report[]> {
  const at = reports.findLastIndex(({ type }) => type === 'done')
  const done = reports[at]
  if (done?.type !== 'done') return reports
  const found = await inspectJournal(nodeFileSystem, path, { isQuick: true })
  const { firstSequence = 1, lastSequence = 0 } = found ?? {}
  return lastSequence < done.last || firstSequence < done.first ? reports.slice(0, at) : reports
}

/** Resolves once this many calls were acknowledged, or the writer has failed. */
function acknowledgements(writer: KillableProcess<WriterReport>, count: number): Promise<void> {
  if (count === 0) return Promise.resolve()
  return new Promise((resolve) => {
    let done = 0
    writer.onReport = ({ type }) => {
      if (type === 'done') done += 1
      if (type === 'failed' || done === count) resolve()
    }
  })
}
