import { describe, expect, test } from 'vitest'

import { MiniStore, MiniStoreError } from '../../src/index.ts'
import type { SimulatedFileSystem } from '../../src/testing/index.ts'
import {
  active, type Damage, damagedCopy, type Entries, flips, type Journal, path, truncations, writeJournal,
} from '../support/damaged-journals.ts'

/**
 * The outcome for a damaged journal.
 *
 * - `harmless`: every record is present under its number.
 * - `refused`: open reports the damage and changes nothing.
 * - `found`: open succeeds, and reading everything reports the damage.
 * - `torn`: open reports a torn tail; every record before it is present.
 * - `unseen`: reads return something other than the written records, without an error.
 */
type Outcome = 'harmless' | 'refused' | 'found' | 'torn' | 'unseen'
type Counts = Record<Outcome, number>
/** All records that a reader returns, or the damage that it ends with. */
async function readAll(
  stream: AsyncIterable<{ sequence: number; record: unknown }>,
): Promise<Entries | MiniStoreError> {
  const entries: Array<readonly [number, string]> = []
  try {
    for await (const { sequence, record } of stream) entries.push([sequence, JSON.stringify(record)])
    return entries
  } catch (error) {
    return damageOf(error)
  }
}

/** Only these two codes report damage; every other error is a failure of the test. */
function damageOf(error: unknown): MiniStoreError {
  const codes = ['ERR_MINISTORE_CORRUPT', 'ERR_MINISTORE_UNSUPPORTED_VERSION']
  if (error instanceof MiniStoreError && codes.includes(error.code)) return error
  throw error
}

async function readStatically(
  files: SimulatedFileSystem,
  expected: Entries,
): Promise<'harmless' | 'found' | 'unseen'> {
  const before = textOf(files)
  const read = await readAll(MiniStore.entries(path, { fileSystem: files }))
  expect(textOf(files), 'a static reader changes nothing').toBe(before)
  if (read instanceof MiniStoreError) return 'found'
  return JSON.stringify(read) === JSON.stringify(expected) ? 'harmless' : 'unseen'
}

async function openAndRead(files: SimulatedFileSystem, expected: Entries): Promise<Outcome> {
  const before = textOf(files)
  let store: MiniStore
  try {
    store = await MiniStore.open(path, { fileSystem: files })
  } catch (error) {
    damageOf(error)
    expect(textOf(files), 'an open that finds damage changes nothing').toBe(before)
    return 'refused'
  }
  const read = await readAll(store.entries())
  const { torn } = store.recovery
  await store.close()
  if (read instanceof MiniStoreError) return 'found'
  if (JSON.stringify(read) === JSON.stringify(expected)) return 'harmless'
  const whole = expected.slice(0, read.length)
  return torn !== undefined && JSON.stringify(read) === JSON.stringify(whole) ? 'torn' : 'unseen'
}

function textOf(files: SimulatedFileSystem): string {
  return JSON.stringify([...files.snapshot()].map(([at, bytes]) => [at, bytes.toString('latin1')]))
}

/** The offset in the active segment at which the line of the record with this number ends. */
function endOfRecord(journal: Journal, sequence: number): number {
  const bytes = journal.files.get(active) ?? Buffer.alloc(0)
  const first = Number(/ seq=(\d+)/.exec(bytes.toString())?.[1])
  let end = 0
  for (let line = 0; line <= sequence - first + 1; line++) end = bytes.indexOf(0x0a, end) + 1
  return end
}

/**
 * Damages one file in every way, and counts the outcomes for opening and for reading only.
 */
async function damageEverywhere(
  journal: Journal,
  name: string,
  damages: Iterable<Damage>,
): Promise<{ opened: Counts; read: Counts; wrong: string[] }> {
  const opened: Counts = { harmless: 0, refused: 0, found: 0, torn: 0, unseen: 0 }
  const read: Counts = { ...opened }
  const wrong: string[] = []
  for (const damage of damages) {
    const byReader = await readStatically(damagedCopy(journal, name, damage.bytes), journal.entries)
    const byOpen = await openAndRead(damagedCopy(journal, name, damage.bytes), journal.entries)
    read[byReader] += 1
    opened[byOpen] += 1
    const mayGoUnseen = name === active && damage.offset >= journal.sealedBytes
    const isUnseen = byOpen === 'unseen' || byOpen === 'torn' || byReader === 'unseen'
    if (isUnseen && !mayGoUnseen) wrong.push(`${name} ${damage.name}: opened ${byOpen}, read ${byReader}`)
  }
  return { opened, read, wrong }
}

/** Every file of a journal, damaged everywhere. */
async function damageAll(
  journal: Journal,
  how: (bytes: Buffer) => Iterable<Damage>,
): Promise<{ opened: Counts; read: Counts; wrong: string[] }> {
  const sum = {
    opened: { harmless: 0, refused: 0, found: 0, torn: 0, unseen: 0 },
    read: { harmless: 0, refused: 0, found: 0, torn: 0, unseen: 0 },
  }
  const wrong: string[] = []
  for (const [name, bytes] of journal.files) {
    const counts = await damageEverywhere(journal, name, how(bytes))
    for (const key of Object.keys(sum.opened) as Outcome[]) {
      sum.opened[key] += counts.opened[key]
      sum.read[key] += counts.read[key]
    }
    wrong.push(...counts.wrong)
  }
  return { ...sum, wrong }
}

const shown = (counts: Counts): string =>
  Object.entries(counts)
    .map(([outcome, count]) => `${count} ${outcome}`)
    .join(', ')

describe('the undamaged journal', () => {
  test.each(['closed', 'with an older seal', 'without a seal'] as const)(
    '%s: has several segments and is read whole',
    async (how) => {
      const journal = await writeJournal(how)
      const names = [...journal.files.keys()].filter((name) => /\.\d+$/.test(name))
      expect(names.length).toBeGreaterThanOrEqual(2)
      expect(await readStatically(damagedCopy(journal, '', Buffer.alloc(0)), journal.entries)).toBe(
        'harmless',
      )
      expect(await openAndRead(damagedCopy(journal, '', Buffer.alloc(0)), journal.entries)).toBe('harmless')
      const size = journal.files.get(active)?.length ?? 0
      if (how === 'closed') expect(journal.sealedBytes).toBe(size)
      else expect(journal.sealedBytes).toBeLessThan(size)
      expect(journal.sealedBytes > 0).toBe(how !== 'without a seal')
    },
  )
})

describe('after a clean close no damage is unseen', () => {
  test('cut at every length of every file', async () => {
    const { opened, read, wrong } = await damageAll(await writeJournal('closed'), truncations)
    console.log(`closed, cut: opened ${shown(opened)}; read ${shown(read)}`)
    expect(wrong).toEqual([])
    expect([opened.unseen, opened.torn, read.unseen]).toEqual([0, 0, 0])
    expect(opened.refused + opened.found).toBeGreaterThan(250)
  }, 120_000)

  test('every single bit of every file flipped', async () => {
    const { opened, read, wrong } = await damageAll(await writeJournal('closed'), flips)
    console.log(`closed, flipped: opened ${shown(opened)}; read ${shown(read)}`)
    expect(wrong).toEqual([])
    expect([opened.unseen, opened.torn, read.unseen]).toEqual([0, 0, 0])
    expect(opened.refused + opened.found).toBeGreaterThan(2000)
  }, 240_000)

  test('damage to the seal itself loses nothing and is not an error', async () => {
    const journal = await writeJournal('closed')
    const name = `${active}.seal`
    const seal = journal.files.get(name) ?? Buffer.alloc(0)
    for (const damages of [truncations(seal), flips(seal)]) {
      const { opened, read } = await damageEverywhere(journal, name, damages)
      expect(opened).toEqual({ harmless: read.harmless, refused: 0, found: 0, torn: 0, unseen: 0 })
      expect(opened.harmless).toBeGreaterThanOrEqual(seal.length)
    }
  }, 120_000)
})

describe.each(['with an older seal', 'without a seal'] as const)('a journal left open, %s', (how) => {
  test.each([
    ['cut', truncations],
    ['flipped', flips],
  ] as const)(
    'has unseen or torn damage only after the last seal: %s everywhere',
    async (name, damages) => {
      const { opened, read, wrong } = await damageAll(await writeJournal(how), damages)
      console.log(`left open ${how}, ${name}: opened ${shown(opened)}; read ${shown(read)}`)
      expect(wrong).toEqual([])
      expect(opened.torn).toBeGreaterThan(5)
      expect(opened.refused + opened.found).toBeGreaterThan(250)
    },
    240_000,
  )

  test('a cut after the last seal leaves a torn tail or whole lines, and every record before it is present', async () => {
    const journal = await writeJournal(how)
    const bytes = journal.files.get(active) ?? Buffer.alloc(0)
    let tested = 0
    for (const { offset, bytes: cut } of truncations(bytes)) {
      if (offset < Math.max(journal.sealedBytes, endOfRecord(journal, 0))) continue
      const files = damagedCopy(journal, active, cut)
      const store = await MiniStore.open(path, { fileSystem: files })
      const expected = journal.entries.filter(
        ([sequence]) => sequence < firstInActive(journal) || endOfRecord(journal, sequence) <= offset,
      )
      expect(await readAll(store.entries())).toEqual(expected)
      const isAtLine = cut.at(-1) === 0x0a
      if (!isAtLine && store.recovery.torn === undefined) expect(store.recovery.isActiveRestored).toBe(true)
      if (isAtLine) expect(store.recovery.torn).toBeUndefined()
      await store.close()
      tested += 1
    }
    expect(tested).toBeGreaterThan(20)
  }, 120_000)
})

function firstInActive(journal: Journal): number {
  return Number(/ seq=(\d+)/.exec(journal.files.get(active)?.toString() ?? '')?.[1])
}
