import { crc32 } from 'node:zlib'

import { afterAll, describe, expect, test } from 'vitest'

import { MiniStore } from '../../../src/index.ts'
import { SimulatedFileSystem } from '../../../src/testing/index.ts'
import { scaled } from '../../support/crash-scale.ts'
import { causes, failing, type FaultKind, needsRoom } from '../faults.ts'
import { CrashHarness, type Oracle } from '../harness.ts'
import { type ExpectedJournal, journalPath } from './model.ts'
import { type FoundJournal, JournalOracle } from './oracle.ts'

// Journals of format version 0.2.0 and 0.1, which opening gives an identity.

const nesting = scaled(1, 2)
const old = '// MINISTORE JOURNAL v0.2.0'
const known = 'id=5c1e9a70b2f4d833'

function hex(text: string): string {
  return crc32(Buffer.from(text)).toString(16).padStart(8, '0')
}

function sealOf(text: string): string {
  const facts = `bytes=${text.length} records=${text.split('\n').length - 2} crc32=${hex(text)}`
  return `${facts} check=${hex(facts)}\n`
}

const sealed = `${old} seq=1\n1\n2\n`
const identified = `// MINISTORE JOURNAL v0.3.0 seq=1 ${known}\n1\n2\n`
const rust = '// MINISTORE JOURNAL v0.1.4\n'

/** Files of journals without an identity in the active segment, by ending, and their records. */
const journals: ReadonlyArray<readonly [name: string, content: Record<string, string>, records: number]> = [
  ['with records', { '': `${old} seq=1\n1\n2\n3\n`, '.seal': sealOf(`${old} seq=1\n1\n2\n3\n`) }, 3],
  ['with records and no seal', { '': `${old} seq=1\n1\n2\n3\n` }, 3],
  ['with a torn tail', { '': `${old} seq=1\n1\n2\n3`, '.seal': sealOf(sealed) }, 2],
  ['that is empty', { '': `${old} seq=1\n`, '.seal': sealOf(`${old} seq=1\n`) }, 0],
  ['with an empty active segment', { '.001': sealed, '': `${old} seq=3 prev=${hex(sealed)}\n` }, 2],
  ['with sealed records and a leftover', { '.001': sealed, '': `${old} seq=3 prev=${hex(sealed)}\n3\n`, '.next': 'half' }, 3],
  ['that an older program has rotated', { '.001': identified, '': `${old} seq=3 prev=${hex(identified)}\n3\n` }, 3],
  ['that an older program has just rotated', { '.001': identified, '': `${old} seq=3 prev=${hex(identified)}\n` }, 2],
  ['that the Rust crate has rotated', { '.000001': identified, '': `${rust}3\n` }, 3],
  ['that the Rust crate has just rotated', { '.000001': identified, '': rust }, 2],
  ['of the Rust crate', { '.000001': `${rust}1\n2\n`, '': `${rust}3\n` }, 3],
  ['of the Rust crate that is empty', { '': rust }, 0],
]

function diskWith(content: Record<string, string>): SimulatedFileSystem {
  const files = new SimulatedFileSystem()
  for (const [ending, text] of Object.entries(content)) files.writeFile(journalPath + ending, text)
  return files
}

function expectedOf(content: Record<string, string>, records: number): ExpectedJournal {
  return {
    issued: Array.from({ length: records }, (_, index) => String(index + 1)),
    acknowledged: records,
    floor: { lowest: 1, highest: 1 },
    isManyLines: false,
    exactly: records,
    id: JSON.stringify(content).includes(known) ? known.slice('id='.length) : undefined,
  }
}

const oracle = new JournalOracle()
const counts = { distinct: 0, faults: 0, unidentified: 0 }

afterAll(() => {
  console.log(`identity: ${counts.distinct} distinct states, ${counts.faults} failing calls, ${counts.unidentified} opened without`)
})

describe('an old journal gets an identity', () => {
  test.each(journals)(
    '%s: through every crash of opening it, and through a crash inside that recovery',
    { timeout: scaled(120_000, 600_000) },
    async (name, content, records) => {
      const own = new CrashHarness<ExpectedJournal, FoundJournal>(oracle)
      let expected = expectedOf(content, records)
      const run = async (files: SimulatedFileSystem): Promise<void> => {
        await oracle.recover(files)
        // Once open has told the identity, no crash may change it.
        const store = await MiniStore.open(journalPath, { fileSystem: files })
        expected = { ...expected, id: store.id }
        await store.append(records + 1).catch(() => {})
        await store.close()
      }
      const issued = (): ExpectedJournal => {
        const { id } = expected
        // The record of the run itself may be there.
        const more = [...expectedOf(content, records).issued, String(records + 1)]
        return { ...expectedOf(content, records), issued: more, exactly: undefined, id }
      }
      await own.run({ name, expected: issued, run }, { seed: 7, limit: 400, insideEvery: 1, nesting }, diskWith(content))
      expect(own.counts.recoveries[0]).toBeGreaterThan(0)
      counts.distinct += own.counts.distinct
    },
  )
})

const kinds: readonly FaultKind[] = [
  failing('one operation', 'EIO', false, () => true),
  failing('one operation', 'EIO', true, () => true),
  failing('one sync', 'EIO', false, ({ operation }) => /sync/i.test(operation)),
  failing('one growing call', 'ENOSPC', false, needsRoom),
  failing('one growing call', 'ENOSPC', true, needsRoom),
  failing('one growing call', 'EDQUOT', true, needsRoom),
]

describe.each(kinds)('$name while an old journal is opened', (kind) => {
  test.each(journals)('%s: nothing is lost, and a full disk only costs the identity', async (_name, content, records) => {
    for (let nth = 0; ; nth++) {
      const files = diskWith(content)
      const fault = kind.strike(files, nth)
      const where = `${kind.name}: ${nth}`
      const opened = await MiniStore.open(journalPath, { fileSystem: files }).catch((error: unknown) => error as Error)
      const { hits } = fault
      if (opened instanceof MiniStore) {
        expect(opened.lastSequence, where).toBe(records)
        if (opened.id === undefined) {
          expect(kind.code, where).not.toBe('EIO')
          counts.unidentified++
        }
        // The next rotation gives it the identity, once there is room.
        files.clearFaults()
        await opened.append(records + 1)
        await opened.rotate()
        expect(opened.id, where).toMatch(/^[0-9a-f]{16}$/)
        await opened.close()
      } else {
        // Everything that needs room is optional.
        if (kind.code !== 'EIO') throw opened
        expect(causes(opened), where).toContain(kind.code)
      }
      files.clearFaults()
      const last = opened instanceof MiniStore ? records + 1 : records
      const id = opened instanceof MiniStore ? opened.id : expectedOf(content, records).id
      const expected = { ...expectedOf(content, records), issued: [...expectedOf(content, records).issued, String(records + 1)] }
      for (const state of [files.afterKill(), ...files.crashStates({ seed: nth + 1, limit: 20, tornVariants: ['cut'] })]) {
        oracle.check(await oracle.find(state), { ...expected, acknowledged: last, exactly: last, id }, { isHarsh: false })
      }
      if (hits === 0) break
      counts.faults++
    }
  })
})

interface Adopting {
  /** The identity that the journal may have instead, and that it has at the end. */
  readonly isAdopted: boolean
  /** The identity that open told, once it did. */
  readonly id: string | undefined
  readonly isDone: boolean
}

interface FoundIdentity {
  readonly id: string | undefined
  readonly first: number
  readonly hasRecovered: boolean
}

const adopted = { id: '00000000deadbeef', firstSequence: 500 }

/** Opens what a crash in `adopt` has left, and appends. */
const adoptOracle: Oracle<Adopting, FoundIdentity> = {
  async find(state) {
    const store = await MiniStore.open(journalPath, { fileSystem: state })
    const { id, firstSequence: first, recovery } = store
    expect(store.lastSequence).toBe(first - 1)
    expect(await store.append('next')).toBe(first)
    await store.close()
    const again = await MiniStore.open(journalPath, { fileSystem: state.afterCrash({ keep: 'none' }) })
    expect([again.id, again.firstSequence, await again.replay()]).toEqual([id, first, ['next']])
    await again.close()
    const hasRecovered = recovery.isNew || recovery.removedFiles.length > 0
    return { id, first, hasRecovered }
  },
  check({ id, first }, { isAdopted, id: told, isDone }) {
    const isOther = id === adopted.id
    expect(first).toBe(isOther ? adopted.firstSequence : 1)
    if (isOther) expect(isAdopted).toBe(true)
    else expect([isDone, told === undefined || told === id]).toEqual([false, true])
  },
  hasRecovered: ({ hasRecovered }) => hasRecovered,
  async recover(state) {
    await (await MiniStore.open(journalPath, { fileSystem: state })).close()
  },
  expectedInside: (expected) => expected,
}

describe('adopt', () => {
  const openNew = async (files: SimulatedFileSystem): Promise<MiniStore> => MiniStore.open(journalPath, { fileSystem: files })

  test('leaves the old header or the new one at every crash, and the new one once it has resolved', { timeout: 120_000 }, async () => {
    const own = new CrashHarness<Adopting, FoundIdentity>(adoptOracle)
    let expected: Adopting = { isAdopted: false, id: undefined, isDone: false }
    const run = async (files: SimulatedFileSystem): Promise<void> => {
      const store = await openNew(files)
      expected = { ...expected, id: store.id, isAdopted: true }
      await store.adopt(adopted)
      expected = { ...expected, isDone: true }
      await store.close()
    }
    await own.run({ name: 'adopt', expected: () => expected, run }, { seed: 3, limit: 400, insideEvery: 1, nesting })
    expect(own.counts.recoveries[0]).toBeGreaterThan(3)
    counts.distinct += own.counts.distinct
  })

  test.each(kinds)('$name: it is done or not, and the store goes on or is opened again', async (kind) => {
    for (let nth = 0; ; nth++) {
      const files = new SimulatedFileSystem()
      const store = await openNew(files)
      const { id: own } = store
      const fault = kind.strike(files, nth)
      const error: unknown = await store.adopt(adopted).catch((thrown: unknown) => thrown)
      const where = `${kind.name}: ${nth}`
      if (error !== undefined) expect(causes(error as Error), where).toContain(kind.code)
      files.clearFaults()
      const { hits } = fault
      const isUsable = await store.append('next').then(() => true, () => false)
      if (kind.code !== 'EIO') expect(isUsable, where).toBe(true)
      const { id, firstSequence } = store
      await store.close()
      for (const state of [files.afterKill(), files.afterCrash({ keep: 'none' }), files.afterCrash({ keep: 'all' })]) {
        const again = await MiniStore.open(journalPath, { fileSystem: state })
        expect([own, adopted.id], where).toContain(again.id)
        if (isUsable) expect([again.id, again.firstSequence, await again.replay()], where).toEqual([id, firstSequence, ['next']])
        expect(again.firstSequence, where).toBe(again.id === own ? 1 : adopted.firstSequence)
        await again.close()
      }
      if (error === undefined) expect([id, firstSequence], where).toEqual([adopted.id, adopted.firstSequence])
      if (hits === 0) break
      counts.faults++
    }
  })
})

test('the suite has at least its expected size', () => {
  expect(counts.distinct).toBeGreaterThan(300)
  expect(counts.faults).toBeGreaterThan(500)
  expect(counts.unidentified).toBeGreaterThan(10)
})
