import { join } from 'node:path'
import { crc32 } from 'node:zlib'

import { describe, expect, test } from 'vitest'

import { type JournalEntry, type JournalStream, MiniStore, MiniStoreError } from '../../src/index.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'
import { turn } from '../support/consume.ts'
import { numbers, writeJournal } from '../support/journals.ts'
import { ObservedFileSystem } from '../support/observed-file-system.ts'
import { RemoteStore } from '../support/remote-store.ts'
import { pickSeed, seededRandom } from '../support/seeded-random.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'

interface Numbered {
  readonly n: number
  readonly pad: string
}

/** The operations of both kinds of writer. */
interface Writer {
  append(record: Numbered): Promise<number>
  appendAll(records: readonly Numbered[]): Promise<{ first: number; last: number }>
  rotate(): Promise<void>
  truncateBefore(sequence: number): Promise<void>
}

type Random = (limit: number) => number

/** The state of the journal, as far as the writer has reported it. */
interface Progress {
  acknowledged: number
  truncatedBefore: number
}

const operations = 60

/** Appends, rotates and truncates in random order, one after the other. */
async function write(writer: Writer, random: Random, progress: Progress): Promise<void> {
  for (let operation = 0; operation < operations; operation++) {
    const choice = random(10)
    const { acknowledged } = progress
    const next = acknowledged + 1
    if (choice < 4) {
      progress.acknowledged = await writer.append(numbered(next, random))
    } else if (choice < 7) {
      const records = numbers(next, acknowledged + 1 + random(20)).map((n) => numbered(n, random))
      progress.acknowledged = (await writer.appendAll(records)).last
    } else if (choice < 9) {
      await writer.rotate()
    } else {
      const before = progress.truncatedBefore + random(next - progress.truncatedBefore + 1)
      progress.truncatedBefore = Math.max(progress.truncatedBefore, before)
      await writer.truncateBefore(Math.max(before, 1))
    }
  }
}

/** Mostly short, sometimes longer than a block, so that segments end in every possible way. */
function numbered(n: number, random: Random): Numbered {
  return { n, pad: '\u00e9'.repeat(random(20) === 0 ? 20_000 + random(40_000) : random(200)) }
}

/** The outcome of one replay. */
interface Seen {
  readonly first: number | undefined
  readonly last: number | undefined
  readonly count: number
  readonly error: unknown
}

/** Reads entries at a random pace and checks that none is missing, duplicated or wrong. */
async function read(
  entries: JournalStream<JournalEntry<Numbered>>,
  random: Random,
  from: number | undefined,
): Promise<Seen> {
  let first: number | undefined
  let last: number | undefined
  let count = 0
  const pace = random(4) === 0 ? 1 : 1 + random(300)
  try {
    for await (const { sequence, record } of entries) {
      expect(record.n, 'the record of its sequence number').toBe(sequence)
      if (last === undefined) expect(sequence).toBe(from ?? sequence)
      else expect(sequence, 'no gap and no repetition').toBe(last + 1)
      first ??= sequence
      last = sequence
      count++
      if (count % pace === 0) for (let turns = random(6); turns > 0; turns--) await turn()
    }
  } catch (error) {
    // A failed check in this loop is not part of the outcome.
    if (!(error instanceof MiniStoreError)) throw error
    return { first, last, count, error }
  }
  return { first, last, count, error: undefined }
}

/** A replay of a random range is gap-free up to its required end, or reports a deleted record. */
async function checkReplay(
  open: (options: { from?: number }) => JournalStream<JournalEntry<Numbered>>,
  progress: Progress,
  random: Random,
): Promise<Seen> {
  const from = random(2) === 0 ? undefined : 1 + random(progress.acknowledged + 1)
  const acknowledged = progress.acknowledged
  const stream = open(from === undefined ? {} : { from })
  // Lets the writer change everything between the creation of the stream and its first read.
  for (let turns = random(20); turns > 0; turns--) await turn()
  const seen = await read(stream, random, from)
  if (seen.error === undefined) {
    const end = seen.last ?? (from ?? acknowledged + 1) - 1
    expect(end, 'every record that was acknowledged when the stream was made').toBeGreaterThanOrEqual(
      acknowledged,
    )
  } else {
    const { code, message, sequence = 0 } = seen.error as MiniStoreError
    expect(code, message).toBe('ERR_MINISTORE_SEQUENCE_GONE')
    expect(sequence, 'what is gone was deleted').toBeLessThan(Math.max(progress.truncatedBefore, 1))
  }
  return seen
}

/** Runs readers, one after another in each lane, until the writer is done. */
async function readUntil(
  written: Promise<void>,
  lanes: number,
  replay: (lane: number) => Promise<Seen>,
): Promise<Seen[]> {
  const progress = { isWritten: false }
  const done = written.then(() => {
    progress.isWritten = true
  })
  const seen: Seen[] = []
  const lane = async (index: number): Promise<void> => {
    do {
      seen.push(await replay(index))
      await turn()
    } while (!progress.isWritten)
  }
  await Promise.all([done, ...Array.from({ length: lanes }, (_, index) => lane(index))])
  return seen
}

function report(name: string, seen: readonly Seen[], progress: Progress): void {
  const gone = seen.filter(({ error }) => error !== undefined).length
  const records = seen.reduce((sum, { count }) => sum + count, 0)
  console.log(
    `${name}: ${seen.length} replays of ${progress.acknowledged} records, ${records} read, ${gone} gone`,
  )
}

const rounds = numbers(1, 4)

describe('a stream consumed while the journal changes', () => {
  test.each(rounds)(
    'by a writer in this process: a gap-free run or ERR_MINISTORE_SEQUENCE_GONE (round %i)',
    async (round) => {
      const seed = pickSeed(`same process, round ${round}`)
      const random = seededRandom(seed + round)
      const path = join(await temporaryDirectory(), 'journal.jsonl')
      await using store = await MiniStore.open<Numbered>(path, { maxBytesPerSegment: 4000 + random(200_000) })
      const progress: Progress = { acknowledged: 0, truncatedBefore: 1 }
      const disk = new ObservedFileSystem()
      const sources = [
        (options: { from?: number }) => store.entries(options),
        (options: { from?: number }) => MiniStore.entries<Numbered>(path, options),
        (options: { from?: number }) => MiniStore.entries<Numbered>(path, { ...options, fileSystem: disk }),
      ] as const
      const seen = await readUntil(write(store, random, progress), 6, (lane) =>
        checkReplay(sources[(lane % 3) as 0 | 1 | 2], progress, seededRandom(seed + round * 100 + lane)),
      )
      report('same process', seen, progress)
      expect(seen.length).toBeGreaterThanOrEqual(6)
      expect(disk.openFiles).toBe(0)
      expect((await store.replay()).map(({ n }) => n)).toEqual(
        numbers(store.firstSequence, progress.acknowledged),
      )
    },
  )

  test.each(rounds)(
    'by a writer in another process: a gap-free run or ERR_MINISTORE_SEQUENCE_GONE (round %i)',
    async (round) => {
      const seed = pickSeed(`another process, round ${round}`)
      const random = seededRandom(seed + round)
      const path = join(await temporaryDirectory(), 'journal.jsonl')
      const writer = RemoteStore.inProcess()
      await writer.open(path, { maxBytesPerSegment: 4000 + random(200_000) })
      const progress: Progress = { acknowledged: 0, truncatedBefore: 1 }
      const seen = await readUntil(write(writer, random, progress), 3, () =>
        checkReplay((options) => MiniStore.entries<Numbered>(path, options), progress, random),
      )
      await writer.close()
      report('another process', seen, progress)
      expect(seen.length).toBeGreaterThanOrEqual(3)
      expect((await MiniStore.replay<Numbered>(path)).at(-1)?.n ?? progress.acknowledged).toBe(
        progress.acknowledged,
      )
    },
  )

  test.each(rounds)('by either, followed to the last record: gap-free (round %i)', async (round) => {
    const seed = pickSeed(`followers, round ${round}`)
    const random = seededRandom(seed + round)
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    const isRemote = round % 2 === 0
    const writer = isRemote ? RemoteStore.inProcess() : undefined
    await writer?.open(path, { maxBytesPerSegment: 2000 })
    const store = isRemote ? undefined : await MiniStore.open<Numbered>(path, { maxBytesPerSegment: 2000 })
    const progress: Progress = { acknowledged: 0, truncatedBefore: 1 }
    const followers = numbers(1, 3).map((each) => {
      const options = { follow: true, from: 1, to: 200, pollIntervalMs: 1 + random(20) }
      const disk = each === 3 ? { fileSystem: new ObservedFileSystem() } : {}
      const isLive = store !== undefined && each === 1
      const entries = isLive
        ? store.entries({ follow: true, from: 1, to: 200 })
        : MiniStore.entries<Numbered>(path, { ...options, ...disk })
      return read(entries, random, 1)
    })
    const target: Writer = store ?? (writer as Writer)
    // Nothing is deleted here, so no record may be reported as gone.
    while (progress.acknowledged < 200) {
      const count = 1 + random(10)
      await target.appendAll(
        numbers(progress.acknowledged + 1, progress.acknowledged + count).map((n) => numbered(n, random)),
      )
      progress.acknowledged += count
      if (random(3) === 0) await target.rotate()
      if (random(3) === 0) await turn()
    }
    const seen = await Promise.all(followers)
    for (const each of seen) expect(each).toEqual({ first: 1, last: 200, count: 200, error: undefined })
    await (store ?? writer)?.close()
  })
})

describe('a seal that is replaced between two reads by a reader', () => {
  const path = '/journal.jsonl'
  const facts = 'bytes=40 records=1 crc32=00000000'
  /** A valid seal that matches no prefix of the segment being read. */
  const foreign = `${facts} check=${crc32(facts).toString(16).padStart(8, '0')}\n`

  async function journal(): Promise<SimulatedFileSystem> {
    const files = new SimulatedFileSystem()
    await writeJournal(path, [['a', 'b', 'c']], { fileSystem: files })
    return files
  }

  test('is foreign, so that the test can fail', async () => {
    const files = await journal()
    files.writeFile(`${path}.seal`, foreign)
    await expect(MiniStore.replay(path, { fileSystem: files })).rejects.toMatchObject({ code: 'ERR_MINISTORE_CORRUPT' })
  })

  test.each([
    ['before', 1],
    ['after', 2],
  ])('is not reported as damage of the segment: the foreign seal is read %s it', async (_, foreignLook) => {
    const files = await journal()
    const seal = files.readFile(`${path}.seal`)
    let looks = 0
    files.onOperation(({ operation, path: at }) => {
      if (operation === 'open' && at === `${path}.seal`) files.writeFile(at, ++looks === foreignLook ? foreign : seal)
    })
    expect(await MiniStore.replay(path, { fileSystem: files })).toEqual(['a', 'b', 'c'])
    expect(looks).toBe(2)
  })
})
