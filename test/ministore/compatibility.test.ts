import { cp, readdir, readFile, rename, writeFile } from 'node:fs/promises'
import { basename, dirname, extname, join } from 'node:path'

import { describe, expect, test } from 'vitest'

import { MiniStore } from '../../src/index.ts'
import { collect, outcomeOf } from '../support/consume.ts'
import { addBytes, crc32Of, editFile, numbers } from '../support/journals.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'

/**
 * Journals of earlier releases and of the Rust crate. The Rust journals follow the crate's sources
 * (mini-rs/ministore 0.1.0 and 0.1.4) but were not written by it. The rotated one was limited to
 * three files, so its first sealed segment has number 4. The journal of version 0.2.0 was written
 * once by this library, its first segment was truncated, and it must never be rewritten.
 */
interface Fixture {
  readonly name: string
  readonly records: readonly unknown[]
  /** Sequence number of the first record. */
  readonly first: number
  /** Number of records in each file, oldest first. */
  readonly sizes: readonly number[]
  readonly sealedNames: readonly string[]
  /** The name of the next segment to be sealed. */
  readonly nextSealedName: string
}

const mix = (rate: number): object => ({ Mix: { rate, list: [1, null, true], at: null } })

const fixtures: readonly Fixture[] = [
  {
    name: 'rust-v0.1.0',
    records: [
      { Set: { value: 10 } },
      { Inc: { by: 5 } },
      'Reset',
      { Note: 'text' },
      { Note: 'Grüße, 世界 🚀 "quoted" \\ \n \u001f /' },
      { Inc: { by: -1 } },
    ],
    first: 1,
    sizes: [6],
    sealedNames: [],
    nextSealedName: 'journal.jsonl.001',
  },
  {
    name: 'rust-v0.1.4',
    records: [
      { Inc: { by: 11 } },
      'Reset',
      { Note: '13: Grüße, 世界 🚀' },
      mix(14),
      { Set: { value: 15 } },
      { Inc: { by: 16 } },
      'Reset',
      { Note: '18: Grüße, 世界 🚀' },
      mix(19),
    ],
    first: 1,
    sizes: [4, 4, 1],
    sealedNames: ['journal.jsonl.000004', 'journal.jsonl.000005'],
    nextSealedName: 'journal.jsonl.006',
  },
  {
    name: 'v0.2.0',
    records: [
      { EventType: 'UserCreated', user_id: 123 },
      { EventType: 'OrderPlaced', order_id: 456, note: 'Grüße, 世界 🚀 \u2028 "q" \\ \n' },
      'plain text',
      null,
      [1, [2, {}]],
      -0.5e-7,
      { nested: { deep: [true, false, null] } },
      { last: 'record' },
    ],
    first: 4,
    sizes: [2, 4, 2],
    sealedNames: ['journal.jsonl.002', 'journal.jsonl.003'],
    nextSealedName: 'journal.jsonl.004',
  },
]

const rustFixtures = fixtures.filter(({ name }) => name.startsWith('rust'))
const ownFixtures = fixtures.filter(({ name }) => !name.startsWith('rust'))

/** A copy of a fixture that a test may change. */
async function copyOf({ name }: Fixture): Promise<string> {
  const directory = await temporaryDirectory()
  await cp(join(import.meta.dirname, '../fixtures', name), directory, { recursive: true })
  return join(directory, 'journal.jsonl')
}

async function contentsOf(path: string): Promise<Record<string, string>> {
  const directory = dirname(path)
  const names = (await readdir(directory)).toSorted()
  return Object.fromEntries(
    await Promise.all(
      names.map(async (name) => [name, await readFile(join(directory, name), 'latin1')] as const),
    ),
  )
}

const entriesOf = (records: readonly unknown[], first: number): unknown[] =>
  records.map((record, index) => ({ sequence: first + index, record }))

/** The header that opening the journal gives to its new active segment. */
async function headerAfter(path: string, fixture: Fixture, store: MiniStore): Promise<string> {
  expect(store.id).toMatch(/^[0-9a-f]{16}$/)
  const previous = await crc32Of(join(dirname(path), fixture.nextSealedName))
  return `// MINISTORE JOURNAL v0.3.0 seq=${lastOf(fixture) + 1} id=${store.id} prev=${previous}\n`
}

const lastOf = ({ first, records }: Fixture): number => first + records.length - 1

/** The names of the journal's segments, in the order of the store. */
const segmentNames = (store: MiniStore): string[] => store.segments.map(({ path }) => basename(path))

describe.each(fixtures)('the journal $name', (fixture) => {
  const { records, first, sizes, sealedNames, nextSealedName } = fixture
  const last = lastOf(fixture)

  test('can be replayed by path without a change to its files', async () => {
    const path = await copyOf(fixture)
    const before = await contentsOf(path)
    expect(await MiniStore.replay(path)).toEqual(records)
    expect(await collect(MiniStore.entries(path))).toEqual(entriesOf(records, first))
    expect(await MiniStore.replay(path, { from: last - 1, to: last })).toEqual(records.slice(-2))
    expect(await contentsOf(path)).toEqual(before)
  })

  test('opens without recovery, and gets an identity by a rotation that changes no byte', async () => {
    const path = await copyOf(fixture)
    const before = await contentsOf(path)
    await using store = await MiniStore.open(path)
    expect(store.recovery).toMatchObject({
      isNew: false,
      isActiveRestored: false,
      torn: undefined,
      removedFiles: [],
    })
    expect([store.firstSequence, store.lastSequence]).toEqual([first, last])
    expect(segmentNames(store)).toEqual([...sealedNames, nextSealedName, 'journal.jsonl'])
    expect(store.segments.map((segment) => segment.lastSequence - segment.firstSequence + 1)).toEqual([...sizes, 0])
    expect(await store.replay()).toEqual(records)
    const { 'journal.jsonl': active, 'journal.jsonl.seal': _seal, ...sealed } = before
    expect(await contentsOf(path)).toMatchObject({ ...sealed, [nextSealedName]: active, 'journal.jsonl': await headerAfter(path, fixture, store) })
  })

  test('accepts appends: existing bytes stay unchanged, and the numbers continue', async () => {
    const path = await copyOf(fixture)
    const before = await contentsOf(path)
    const store = await MiniStore.open(path)
    const header = await headerAfter(path, fixture, store)
    expect(await store.append({ Set: { value: 20 } })).toBe(last + 1)
    expect(await store.append('Reset')).toBe(last + 2)
    await store.close()
    const after = await contentsOf(path)
    expect(sealedNames.map((name) => after[name])).toEqual(sealedNames.map((name) => before[name]))
    expect(after[nextSealedName]).toBe(before['journal.jsonl'])
    expect(await readFile(path, 'utf8')).toBe(`${header}{"Set":{"value":20}}\n"Reset"\n`)
    expect(await MiniStore.replay(path)).toEqual([...records, { Set: { value: 20 } }, 'Reset'])
    expect(await rustReplay(path)).toEqual([...records, { Set: { value: 20 } }, 'Reset'])
  })

  test('can be rotated: segment numbers continue and the order stays correct', async () => {
    const path = await copyOf(fixture)
    const store = await MiniStore.open(path)
    const added: number[] = []
    for (const n of numbers(1, 12)) {
      await store.rotate()
      await store.append(n)
      added.push(n)
    }
    const names = segmentNames(store)
    expect(names[sealedNames.length]).toBe(nextSealedName)
    expect(names).toHaveLength(sizes.length + 12)
    await store.close()
    const all = [...records, ...added]
    expect(await collect(MiniStore.entries(path))).toEqual(entriesOf(all, first))
    expect(await rustReplay(path)).toEqual(all)
    await using again = await MiniStore.open(path)
    expect(segmentNames(again)).toEqual(names)
    expect(await again.replay()).toEqual(all)
  })

  test('rotates by size with its old segments in place', async () => {
    const path = await copyOf(fixture)
    const store = await MiniStore.open(path, { maxBytesPerSegment: 140 })
    for (const n of numbers(1, 40)) await store.append({ Inc: { by: n } })
    const count = store.segments.length
    expect(count).toBeGreaterThan(8)
    await store.close()
    const all = [...records, ...numbers(1, 40).map((by) => ({ Inc: { by } }))]
    expect(await MiniStore.replay(path)).toEqual(all)
    expect(await rustReplay(path)).toEqual(all)
  })

  test('keeps its sequence numbers when it is truncated, across every reopening', async () => {
    const path = await copyOf(fixture)
    // Truncated to the end of each file in turn; one more record and one more rotation each time.
    let expected = entriesOf(records, first)
    for (const index of sizes.keys()) {
      const before = first + sizes.slice(0, index + 1).reduce((sum, size) => sum + size, 0)
      const store = await MiniStore.open(path)
      const sequence = store.lastSequence + 1
      await store.rotate()
      expect(await store.append({ at: sequence })).toBe(sequence)
      expected = [...expected, { sequence, record: { at: sequence } }].slice(before - store.firstSequence)
      await store.truncateBefore(before)
      expect(store.firstSequence).toBe(before)
      expect(await collect(store.entries())).toEqual(expected)
      await store.close()
      await using again = await MiniStore.open(path)
      expect([again.firstSequence, again.lastSequence]).toEqual([before, sequence])
      expect(await collect(again.entries())).toEqual(expected)
      expect(await collect(MiniStore.entries(path))).toEqual(expected)
    }
  })

  test('keeps its sequence numbers when a truncation is the first operation', async () => {
    const path = await copyOf(fixture)
    const deleted = sizes.length === 1 ? 0 : (sizes[0] as number)
    const store = await MiniStore.open(path)
    await store.truncateBefore(first + deleted)
    const expected = entriesOf(records.slice(deleted), first + deleted)
    expect(await collect(store.entries())).toEqual(expected)
    await store.close()
    expect(await collect(MiniStore.entries(path))).toEqual(expected)
    await using again = await MiniStore.open(path)
    expect([again.firstSequence, again.lastSequence]).toEqual([first + deleted, last])
    expect(await collect(again.entries())).toEqual(expected)
    expect(await again.append('next')).toBe(last + 1)
  })

  test('keeps its next sequence number when it is emptied', async () => {
    const path = await copyOf(fixture)
    const store = await MiniStore.open(path)
    await store.rotate()
    await store.truncateBefore(last + 1)
    await store.close()
    await using again = await MiniStore.open(path)
    expect([again.firstSequence, again.lastSequence]).toEqual([last + 1, last])
    expect(await again.append('next')).toBe(last + 1)
    expect(await rustReplay(path)).toEqual(['next'])
  })

  test('is limited to maxSegments by the next rotation, not by opening, and keeps its numbers', async () => {
    const path = await copyOf(fixture)
    const store = await MiniStore.open(path, { maxSegments: 2 })
    // The rotation that gives the identity deletes nothing.
    expect(segmentNames(store)).toHaveLength(sizes.length + 1)
    expect(await store.append('last')).toBe(last + 1)
    await store.rotate()
    expect(await store.append('after')).toBe(last + 2)
    expect(store.segments).toHaveLength(2)
    const expected = entriesOf(['last', 'after'], last + 1)
    expect(await collect(store.entries())).toEqual(expected)
    await store.close()
    expect(await collect(MiniStore.entries(path))).toEqual(expected)
    await using again = await MiniStore.open(path, { maxSegments: 2 })
    expect(again.firstSequence).toBe(last + 1)
    expect(await rustReplay(path)).toEqual(['last', 'after'])
  })

  test('accepts appends by the Rust crate and by this library in turns', async () => {
    const path = await copyOf(fixture)
    const expected = [...records]
    for (const turn of numbers(1, 4)) {
      const store = await MiniStore.open(path)
      expect(await store.append({ Ours: turn })).toBe(first + expected.length)
      expected.push({ Ours: turn })
      if (turn % 2 === 0) await store.rotate()
      await store.close()
      await rustAppend(path, [{ Theirs: turn }, 'Reset'], { rotate: turn !== 2 })
      expected.push({ Theirs: turn }, 'Reset')
      expect(await rustReplay(path), `turn ${turn}`).toEqual(expected)
      expect(await collect(MiniStore.entries(path)), `turn ${turn}`).toEqual(entriesOf(expected, first))
    }
    await using store = await MiniStore.open(path)
    expect(await collect(store.entries())).toEqual(entriesOf(expected, first))
  })

  test('with a byte order mark at the start of a file is ERR_MINISTORE_CORRUPT and says so', async () => {
    for (const name of [...sealedNames, 'journal.jsonl']) {
      const path = await copyOf(fixture)
      await editFile(join(dirname(path), name), (content) => Buffer.concat([Buffer.from('\uFEFF'), content]))
      const corrupt = { code: 'ERR_MINISTORE_CORRUPT', segment: name, line: 1, offset: 0 }
      await expect(MiniStore.open(path)).rejects.toMatchObject(corrupt)
      await expect(MiniStore.open(path)).rejects.toThrow(/byte order mark/)
      const { error } = await outcomeOf(MiniStore.stream(path))
      expect(error).toMatchObject(corrupt)
      expect((error as Error).message).toMatch(/byte order mark/)
    }
  })
})

describe('line endings of an editor', () => {
  const toCrlf = (content: Buffer): Buffer =>
    Buffer.from(content.toString('latin1').replaceAll('\n', '\r\n'), 'latin1')

  test.each(rustFixtures)('CRLF in $name is read, opened and appended to', async (fixture) => {
    const path = await copyOf(fixture)
    for (const name of [...fixture.sealedNames, 'journal.jsonl'])
      await editFile(join(dirname(path), name), toCrlf)
    expect(await collect(MiniStore.entries(path))).toEqual(entriesOf(fixture.records, fixture.first))
    const store = await MiniStore.open(path)
    expect(await store.append('Reset')).toBe(lastOf(fixture) + 1)
    await store.rotate()
    await store.append('Reset')
    await store.close()
    const all = [...fixture.records, 'Reset', 'Reset']
    expect(await MiniStore.replay(path)).toEqual(all)
    expect(await rustReplay(path)).toEqual(all)
    await using again = await MiniStore.open(path)
    expect(await again.replay()).toEqual(all)
  })

  test.each(
    ownFixtures.flatMap((fixture) => [...fixture.sealedNames, 'journal.jsonl'].map((name) => ({ fixture, name }))),
  )('CRLF in $name of version 0.2.0 is told by its checksum', async ({ fixture, name }) => {
    const path = await copyOf(fixture)
    await editFile(join(dirname(path), name), toCrlf)
    const { error } = await outcomeOf(MiniStore.stream(path))
    expect(error).toMatchObject({ code: 'ERR_MINISTORE_CORRUPT', segment: name })
    const told: unknown[] = []
    const salvaged = await collect(
      MiniStore.stream(path, { salvage: ({ segment }) => void told.push(segment) }),
    )
    expect(salvaged).toEqual(fixture.records)
    expect(told).toContain(name)
    // Opening reads no sealed segment, so it can only report damage in the active one.
    if (name === 'journal.jsonl')
      await expect(MiniStore.open(path)).rejects.toMatchObject({ code: 'ERR_MINISTORE_CORRUPT' })
  })
})

describe('the format v0.3.0', () => {
  /** A copy of a journal with this name in the fixture. */
  async function journalOf(name: string): Promise<string> {
    const directory = await temporaryDirectory()
    await cp(join(import.meta.dirname, '../fixtures/v0.3.0'), directory, { recursive: true })
    return join(directory, name)
  }

  test('of a journal that was closed is read and continued as it is', async () => {
    const path = await journalOf('journal.jsonl')
    const records = [
      { EventType: 'UserCreated', user_id: 123 },
      { EventType: 'OrderPlaced', order_id: 456, note: 'Grüße, 世界 🚀 \u2028 "q" \\ \n' },
      null,
      [1, [2, {}]],
    ]
    expect(await rustReplay(path)).toEqual(records)
    await using store = await MiniStore.open(path)
    expect(store.recovery).toMatchObject({ torn: undefined, removedFiles: [] })
    expect(store.segments.map(({ version }) => version)).toEqual(['0.3.0', '0.3.0'])
    expect(await store.append('next')).toBe(5)
    expect(await rustReplay(path)).toEqual([...records, 'next'])
  })

  test.each([undefined, true])('of a journal whose writer crashed with padding opens with preallocate: %s', async (preallocate) => {
    const path = await journalOf('crashed.jsonl')
    const records = ['first', { n: 2 }, { n: 3 }]
    expect((await readFile(path)).at(-1)).toBe(0)
    // The crate takes the padding for a record: a clear error, and nothing misread.
    await expect(rustReplay(path)).rejects.toThrow(SyntaxError)
    expect(await MiniStore.replay(path)).toEqual(records)
    const store = await MiniStore.open(path, { preallocate })
    expect(store.recovery).toMatchObject({ torn: undefined, removedFiles: [] })
    expect(await store.append('next')).toBe(4)
    await store.close()
    expect(await rustReplay(path)).toEqual([...records, 'next'])
  })
})

describe('the reading rules of the Rust crate', () => {
  test('accept what a store with preallocate has closed', async () => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    const store = await MiniStore.open(path, { preallocate: 100, maxBytesPerSegment: 150 })
    for (const n of numbers(1, 100)) await store.append(n)
    await store.close()
    expect(store.segments.length).toBeGreaterThan(1)
    expect(await rustReplay(path)).toEqual(numbers(1, 100))
  })

  test('accept everything this library writes: every file, header and line', async () => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    const store = await MiniStore.open(path, { maxBytesPerSegment: 100 })
    const records = [
      0,
      -1.5,
      'text',
      '',
      null,
      true,
      [],
      {},
      { Set: { value: 10 } },
      'Reset',
      'a\nb\r\n\u2028',
      '🚀',
      { '': '' },
      ...numbers(1, 100),
    ]
    await store.appendAll(records.slice(0, 3))
    for (const record of records.slice(3)) await store.append(record)
    expect(store.segments.length).toBeGreaterThan(5)
    await store.close()
    expect(await rustReplay(path)).toEqual(records)
  })

  test('order segment 1000 after segment 999', async () => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    const store = await MiniStore.open(path)
    await store.append(1)
    await store.rotate()
    await store.append(2)
    await store.close()
    await rename(`${path}.001`, `${path}.998`)
    await using again = await MiniStore.open(path)
    for (const n of [3, 4, 5]) {
      await again.rotate()
      await again.append(n)
    }
    expect(segmentNames(again)).toEqual(
      ['998', '999', '1000', '1001', ''].map((ending) => `journal.jsonl.${ending}`.replace(/\.$/, '')),
    )
    expect(await rustReplay(path)).toEqual([1, 2, 3, 4, 5])
    expect(await MiniStore.replay(path)).toEqual([1, 2, 3, 4, 5])
  })

  test('ignore the same foreign files as this library', async () => {
    const fixture = fixtures[1] as Fixture
    const path = await copyOf(fixture)
    for (const name of [
      'journal.jsonl.bak',
      'journal.jsonl.4x',
      'journal.jsonl.old.003',
      'other.jsonl.006',
      'journal.006',
    ]) {
      await writeFile(join(dirname(path), name), 'not a journal\n')
    }
    expect(await rustReplay(path)).toEqual(fixture.records)
    expect(await MiniStore.replay(path)).toEqual(fixture.records)
    await using store = await MiniStore.open(path)
    expect(await store.replay()).toEqual(fixture.records)
  })
})

/**
 * Reads like `MiniStore::replay` of the Rust crate 0.1.4. Segments are the files whose extension
 * is all digits and parses as a u32, and whose stem is the journal's name, in order of that number.
 * Then comes the active file if it is not empty. Line 1 must begin with the magic prefix; every
 * other line must be UTF-8 and JSON.
 */
async function rustReplay(path: string): Promise<unknown[]> {
  const directory = dirname(path)
  const segments = (await readdir(directory))
    .flatMap((name) => {
      const extension = extname(name).slice(1)
      const isSegment = /^\d+$/.test(extension) && basename(name, `.${extension}`) === basename(path)
      return isSegment && Number(extension) < 2 ** 32 ? [{ number: Number(extension), name }] : []
    })
    .toSorted((left, right) => left.number - right.number)
  const records: unknown[] = []
  for (const name of [...segments.map((segment) => segment.name), basename(path)]) {
    const bytes = await readFile(join(directory, name))
    if (bytes.length === 0) continue
    const lines = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes).split('\n')
    if (lines.at(-1) === '') lines.pop()
    const [magic, ...rest] = lines.map((line) => line.replace(/\r$/, ''))
    if (magic?.startsWith('// MINISTORE JOURNAL v') !== true) throw new Error(`${name}: MissingInitialState`)
    for (const line of rest) records.push(JSON.parse(line))
  }
  return records
}

/** Appends like the Rust crate, and rotates on request: six digits, one above the highest. */
async function rustAppend(
  path: string,
  records: readonly unknown[],
  options: { readonly rotate: boolean },
): Promise<void> {
  await addBytes(path, records.map((record) => `${JSON.stringify(record)}\n`).join(''))
  if (!options.rotate) return
  const taken = (await readdir(dirname(path))).map((name) => (/\.(\d+)$/.exec(name) ?? [])[1]).map(Number)
  const next = Math.max(0, ...taken.filter((number) => Number.isInteger(number))) + 1
  await rename(path, `${path}.${String(next).padStart(6, '0')}`)
  await writeFile(path, '// MINISTORE JOURNAL v0.1.4\n', { flag: 'wx' })
}

test('a journal that another program rotated last knows its sequence numbers after it was truncated', async () => {
  const path = join(await temporaryDirectory(), 'journal.jsonl')
  await writeFile(`${path}.001`, '// MINISTORE JOURNAL v0.1.4\n"a"\n"b"\n')
  const own = await MiniStore.open<string>(path)
  await own.append('c')
  await own.close()
  // The Rust crate knows of no sequence numbers, and writes none into the header of the next segment.
  await rename(path, `${path}.002`)
  await writeFile(path, '// MINISTORE JOURNAL v0.1.4\n"d"\n')
  const store = await MiniStore.open<string>(path)
  expect([store.firstSequence, store.lastSequence]).toEqual([1, 4])
  await store.truncateBefore(5)
  expect([store.firstSequence, store.lastSequence]).toEqual([5, 4])
  await store.close()
  await using again = await MiniStore.open<string>(path)
  expect([again.firstSequence, again.lastSequence]).toEqual([5, 4])
  expect(await again.append('e')).toBe(5)
})
