import { describe, expect, test } from 'vitest'

import { MiniStore } from '../../src/index.ts'
import { JournalFiles } from '../../src/ministore/format.ts'
import { repairJournal, type RepairResult } from '../../src/maintenance/repair.ts'
import type { RepairChoice } from '../../src/maintenance/repair-plan.ts'
import { planRepair } from '../../src/maintenance/repair-planner.ts'
import { verifyJournal } from '../../src/maintenance/verify.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'
import { writeJournal } from '../support/journals.ts'

const path = '/data/journal.jsonl'
const drop: RepairChoice = { kind: 'drop-damaged' }
const cutAt = (sequence: number): RepairChoice => ({ kind: 'truncate-at', sequence })

/** Three segments with records 1 to 3, 4 to 6, and 7 and 8; the last is active and has a seal. */
async function journal(): Promise<SimulatedFileSystem> {
  const files = new SimulatedFileSystem()
  await writeJournal(
    path,
    [
      ['a', 'b', 'c'],
      ['d', 'e', 'f'],
      ['g', 'h'],
    ],
    { fileSystem: files },
  )
  return files
}

function edit(files: SimulatedFileSystem, name: string, change: (text: string) => string): void {
  const text = change(files.readFile(`/data/${name}`).toString('latin1'))
  files.writeFile(`/data/${name}`, Buffer.from(text, 'latin1'))
}

async function repair(files: SimulatedFileSystem, choice: RepairChoice): Promise<RepairResult> {
  const result = await repairJournal(files, path, { choice })
  if (result === undefined) throw new Error('there was no journal')
  return result
}

/** Opens, reads and verifies the journal as a user would. */
async function contentOf(files: SimulatedFileSystem): Promise<Array<[number, unknown]>> {
  const damages: string[] = []
  await verifyJournal(files, path, { onDamage: ({ message }) => damages.push(message) })
  expect(damages).toEqual([])
  await using store = await MiniStore.open(path, { fileSystem: files })
  const found: Array<[number, unknown]> = []
  for await (const { sequence, record } of store.entries()) found.push([sequence, record])
  return found
}

const numbered = (text: string, first = 1): Array<[number, string]> =>
  Array.from(text, (letter, index) => [first + index, letter])

describe('repair', () => {
  test('changes nothing in a sound journal, not even with a torn end', async () => {
    const files = await journal()
    edit(files, 'journal.jsonl', (text) => `${text}"half`)
    const before = files.snapshot()
    const { plan, copies } = await repair(files, drop)
    expect(plan).toMatchObject({
      findingCount: 0,
      records: 8,
      firstSequence: 1,
      lastSequenceNow: 8,
      recordsGone: 0,
      removesSeal: false,
    })
    expect(copies).toEqual([])
    expect(files.snapshot()).toEqual(before)
  })

  test('makes a plan without changing anything', async () => {
    const files = await journal()
    edit(files, 'journal.jsonl.001', (text) => text.replace('"b"', '"b'))
    const before = files.snapshot()
    const plan = await planRepair(files, new JournalFiles(path), drop)
    expect(plan).toMatchObject({
      findingCount: 1,
      findings: [
        { segment: 'journal.jsonl.001', line: 3, offset: 38, bytes: 3, sequence: 2, action: 'remove' },
      ],
      dropped: { lines: 1, bytes: 3 },
      renumbered: { records: 6, first: 3, becomes: 2 },
      firstDamaged: 2,
      records: 7,
    })
    expect(files.snapshot()).toEqual(before)
  })

  test('drops a damaged line, renumbers later records and rebuilds the chain and the seal', async () => {
    const files = await journal()
    edit(files, 'journal.jsonl.001', (text) => text.replace('"b"', '"b'))
    const before = files.snapshot()
    const { copies } = await repair(files, drop)
    expect(copies).toEqual(
      ['journal.jsonl.001', 'journal.jsonl.002', 'journal.jsonl', 'journal.jsonl.seal'].map(
        (name) => `${name}.broken`,
      ),
    )
    for (const name of copies)
      expect(files.readFile(`/data/${name}`)).toEqual(before.get(`/data/${name.replace('.broken', '')}`))
    expect(await contentOf(files)).toEqual(numbered('acdefgh'))
  })

  test('also drops unclean lines: blank, NUL, not UTF-8, without a line feed', async () => {
    const files = await journal()
    edit(files, 'journal.jsonl.001', (text) => text.replace('"a"\n', '"a"\n\n"\0"\n"\xff"\n'))
    edit(files, 'journal.jsonl.002', (text) => text.slice(0, -1))
    const { plan } = await repair(files, drop)
    expect(plan.findings.map(({ reason }) => reason)).toEqual([
      'the line is blank',
      'the line holds a NUL byte',
      'the line is not UTF-8',
      'the line has no line feed',
    ])
    expect(await contentOf(files)).toEqual(numbered('abcdegh'))
  })

  test('cuts in a sealed segment, keeps every number and creates an active segment', async () => {
    const files = await journal()
    edit(files, 'journal.jsonl.002', (text) => text.replace('"e"', '"e'))
    const { plan } = await repair(files, cutAt(5))
    expect(plan.cut).toEqual({ records: 3, bytes: 15, first: 5, last: 8 })
    expect(plan.findings, 'the bad line explains the checksum, and goes').toEqual([])
    expect(await contentOf(files)).toEqual(numbered('abcd'))
    expect(files.names('/data')).toEqual([
      'journal.jsonl',
      'journal.jsonl.001',
      'journal.jsonl.002',
      'journal.jsonl.002.broken',
      'journal.jsonl.broken',
      'journal.jsonl.lock',
      'journal.jsonl.seal',
      'journal.jsonl.seal.broken',
    ])
  })

  test('cuts between segments and in the active one', async () => {
    const between = await journal()
    await repair(between, cutAt(4))
    expect(await contentOf(between)).toEqual(numbered('abc'))
    const inActive = await journal()
    await repair(inActive, cutAt(8))
    expect(await contentOf(inActive)).toEqual(numbered('abcdefg'))
  })

  test.each([
    ['that would leave nothing', 1, 'from 2 to 9, got 1: it would leave no record'],
    ['that cuts nothing', 10, 'from 2 to 9, got 10: it would cut nothing'],
    [
      'that leaves damage before it',
      6,
      'Cutting at 6 would keep damage before it: the first is at sequence 5',
    ],
  ])('refuses a cut %s', async (_name, sequence, message) => {
    const files = await journal()
    edit(files, 'journal.jsonl.002', (text) => text.replace('"e"', '"e'))
    const before = files.snapshot()
    await expect(repair(files, cutAt(sequence))).rejects.toThrow(message)
    expect(files.snapshot()).toEqual(before)
  })

  test('refuses to drop every line: it would be a journal of another codec', async () => {
    const files = new SimulatedFileSystem()
    const codec = { encode: (text: string) => text, decode: (text: string) => text }
    await writeJournal(path, [['no', 'json']], { fileSystem: files, codec })
    await expect(repair(files, drop)).rejects.toThrow(/nothing would be left. Is it of another codec/)
    expect(await repairJournal(files, path, { choice: drop, check: () => {} })).toMatchObject({ copies: [] })
  })

  test('closes the gap of a lost segment in numbers and names', async () => {
    const files = await journal()
    await files.unlink('/data/journal.jsonl.001')
    await files.rename('/data/journal.jsonl.002', '/data/journal.jsonl.001')
    await expect(contentOf(files), 'the oldest may go').resolves.toEqual(numbered('defgh', 4))
    const other = new SimulatedFileSystem()
    await writeJournal(path, [['a', 'b'], ['c', 'd'], ['e', 'f'], ['g']], { fileSystem: other })
    await other.unlink('/data/journal.jsonl.002')
    const { plan } = await repair(other, drop)
    expect(plan.findings.map(({ reason }) => reason)).toEqual([
      'records 3 to 4 are missing before it',
      'no segment has number 2',
    ])
    expect(plan).toMatchObject({ firstDamaged: 3, recordsGone: 2 })
    expect(await contentOf(other)).toEqual(numbered('abefg'))
    expect(other.names('/data')).toContain('journal.jsonl.002')
    expect(other.names('/data')).not.toContain('journal.jsonl.003')
  })

  test('rebuilds headers and loses no record', async () => {
    const files = await journal()
    edit(files, 'journal.jsonl.001', (text) => text.replace('MINISTORE', 'MINESTORE'))
    edit(files, 'journal.jsonl', (text) => text.replace('prev=', 'perv='))
    const { plan } = await repair(files, drop)
    expect(plan).toMatchObject({ dropped: { lines: 0 }, renumbered: undefined, firstDamaged: undefined })
    expect(await contentOf(files)).toEqual(numbered('abcdefgh'))
  })

  test('accepts a changed byte in a valid line, and names its segment', async () => {
    const files = await journal()
    edit(files, 'journal.jsonl.002', (text) => text.replace('"e"', '"x"'))
    edit(files, 'journal.jsonl', (text) => text.replace('"g"', '"y"'))
    const { plan } = await repair(files, drop)
    expect(plan.findings.map(({ segment, action }) => [segment, action])).toEqual([
      ['journal.jsonl.002', 'accept'],
      ['journal.jsonl', 'accept'],
    ])
    expect(await contentOf(files)).toEqual(numbered('abcdxfyh'))
  })

  test('continues without a missing active segment, and reports what its seal says', async () => {
    const files = await journal()
    await files.unlink(path)
    const { plan } = await repair(files, drop)
    expect(plan.findings.map(({ reason }) => reason)).toEqual([
      'the active segment is gone; its seal says that it held 2 record(s)',
    ])
    expect(plan.recordsGone).toBe(2)
    expect(await contentOf(files)).toEqual(numbered('abcdef'))
  })

  test('reports that sealed records of the active segment are gone', async () => {
    const files = await journal()
    edit(files, 'journal.jsonl', (text) => text.replace('"h"\n', ''))
    const { plan } = await repair(files, drop)
    expect(plan.findings[0]?.reason).toMatch(
      /its seal says that it held 2 record\(s\) in \d+ bytes; the last ones are gone/,
    )
    expect(plan.recordsGone).toBe(1)
    expect(await contentOf(files)).toEqual(numbered('abcdefg'))
  })

  test('counts missing records besides a damaged line, but not lines that only became shorter', async () => {
    const files = new SimulatedFileSystem()
    await writeJournal(path, [['a', 'b', 'c']], { fileSystem: files })
    const cutShort = files.afterCrash({ keep: 'all' })
    edit(cutShort, 'journal.jsonl', (text) => text.replace('"b"\n"c"\n', '"b'))
    const { plan } = await repair(cutShort, drop)
    expect(plan).toMatchObject({ dropped: { lines: 1 }, recordsGone: 1, findingCount: 2 })
    edit(files, 'journal.jsonl', (text) => text.replace('"b"', '""'))
    const { plan: shorter } = await repair(files, drop)
    expect(shorter.recordsGone).toBe(0)
    expect(shorter.findings[0]?.reason).toBe(
      'it is shorter than when its seal was written, and no line of it shows where',
    )
  })

  test('moves away a segment with no lines left', async () => {
    const files = await journal()
    edit(files, 'journal.jsonl.002', (text) => `${text.split('\n')[0]}\nx\ny\nz\n`)
    await repair(files, drop)
    expect(await contentOf(files)).toEqual(numbered('abcgh'))
    const garbage = await journal()
    garbage.writeFile('/data/journal.jsonl.002', 'x'.repeat(1000))
    const { plan } = await repair(garbage, drop)
    expect(plan.firstDamaged).toBe(4)
    expect(await contentOf(garbage)).toEqual(numbered('abcgh'))
  })

  test('leaves two segments with one number to a person', async () => {
    const files = await journal()
    files.writeFile('/data/journal.jsonl.000001', files.readFile('/data/journal.jsonl.001'))
    await expect(repair(files, drop)).rejects.toThrow(
      /Two segments have number 1: .* move the other one away/,
    )
  })

  test('keeps the numbers of a version 0.1 journal that only a later header states', async () => {
    const files = new SimulatedFileSystem()
    files.writeFile('/data/journal.jsonl.004', '// MINISTORE JOURNAL v0.1.4\n1\nx\n3\n')
    files.writeFile('/data/journal.jsonl', '// MINISTORE JOURNAL v0.2.0 seq=14 prev=00000000\n4\n')
    const { plan } = await repair(files, cutAt(12))
    expect(plan.cut).toMatchObject({ first: 12, last: 14 })
    expect(await contentOf(files)).toEqual([[11, 1]])
  })

  test('numbers the copies when a name is taken, and reuses an identical copy', async () => {
    const files = await journal()
    edit(files, 'journal.jsonl', (text) => text.replace('"h"', '"h'))
    files.writeFile(`${path}.broken`, 'of another day')
    files.writeFile(`${path}.seal.broken`, files.readFile(`${path}.seal`))
    const { copies } = await repair(files, drop)
    expect(copies).toEqual(['journal.jsonl.broken-2', 'journal.jsonl.seal.broken'])
    expect(files.readFile(`${path}.broken`).toString()).toBe('of another day')
  })

  test('compares a copy longer than the compare buffer to its last byte', async () => {
    for (const [change, copy] of [
      [(bytes: Buffer) => bytes, 'journal.jsonl.broken'],
      [(bytes: Buffer) => Buffer.concat([bytes.subarray(0, -1), Buffer.from('x')]), 'journal.jsonl.broken-2'],
    ] as const) {
      const files = await journal()
      // All pieces differ.
      const long = Array.from({ length: 80_000 }, (_, n) => n).join(' ')
      edit(files, 'journal.jsonl', (text) => `${text.replace('"h"', '"h')}${JSON.stringify(long)}\n`)
      const before = files.readFile(path)
      files.writeFile(`${path}.broken`, change(before))
      const { copies } = await repair(files, drop)
      expect(copies[0]).toBe(copy)
      expect(files.readFile(`/data/${copy}`).equals(before)).toBe(true)
      expect(await contentOf(files)).toEqual([...numbered('abcdefg'), [8, long]])
    }
  })

  test('is refused while a writer has the journal open', async () => {
    const files = await journal()
    await using store = await MiniStore.open(path, { fileSystem: files })
    await expect(repair(files, drop)).rejects.toMatchObject({ code: 'ERR_MINISTORE_LOCKED' })
    await store.append('i')
  })

  test('on a full disk says so and changes nothing', async () => {
    const files = await journal()
    edit(files, 'journal.jsonl.001', (text) => text.replace('"b"', '"b'))
    const before = files.snapshot()
    files.capacityBytes = [...before.values()].reduce((sum, { length }) => sum + length, 0) + 100
    await expect(repair(files, drop)).rejects.toMatchObject({ code: 'ERR_MINISTORE_IO' })
    for (const [name, bytes] of before) expect(files.readFile(name)).toEqual(bytes)
    files.capacityBytes = Number.POSITIVE_INFINITY
    await repair(files, drop)
    expect(await contentOf(files)).toEqual(numbered('acdefgh'))
  })
})

const withoutLine1 = (text: string): string => text.slice(text.indexOf('\n') + 1)

describe('a missing header', () => {
  test.each([
    ['of the first segment', 'journal.jsonl.001', 1],
    ['of one between others', 'journal.jsonl.002', 4],
    ['of the active segment', 'journal.jsonl', 7],
  ])('%s is rebuilt before line 1, which stays a record', async (_name, segment, sequence) => {
    const files = await journal()
    edit(files, segment, withoutLine1)
    const { plan } = await repair(files, drop)
    expect(plan).toMatchObject({ dropped: { lines: 0 }, renumbered: undefined, firstDamaged: undefined })
    const reason = 'its header is missing: line 1 is a record'
    expect(plan.findings).toEqual([{ segment, line: 1, offset: 0, sequence, reason, action: 'rebuild' }])
    expect(await contentOf(files)).toEqual(numbered('abcdefgh'))
  })

  test('of all segments: the numbers are counted from 1', async () => {
    const files = await journal()
    for (const name of ['journal.jsonl.001', 'journal.jsonl.002', 'journal.jsonl'])
      edit(files, name, withoutLine1)
    const { plan } = await repair(files, drop)
    expect(plan.findings.map(({ segment, reason }) => [segment, reason])).toContainEqual([
      'journal.jsonl.001',
      'nothing tells the number of its first record: it becomes 1',
    ])
    expect(await contentOf(files)).toEqual(numbered('abcdefgh'))
  })

  test('of the only segment: the seal says that nothing else is missing, and that its number is 1', async () => {
    const files = new SimulatedFileSystem()
    await writeJournal(path, [['a', 'b']], { fileSystem: files })
    edit(files, 'journal.jsonl', withoutLine1)
    const { plan } = await repair(files, drop)
    expect(plan.findings.map(({ reason }) => reason)).toEqual(['its header is missing: line 1 is a record'])
    expect(await contentOf(files)).toEqual(numbered('ab'))
  })

  test('of the only segment without a seal: says that its number is unknown', async () => {
    const files = new SimulatedFileSystem()
    files.writeFile(path, '"a"\n"b"\n')
    const { plan } = await repair(files, drop)
    expect(plan.findings.map(({ reason }) => reason)).toEqual([
      'its header is missing: line 1 is a record',
      'nothing tells the number of its first record: it becomes 1',
    ])
    expect(await contentOf(files)).toEqual(numbered('ab'))
  })

  test('of the only segment left by retention: says that neither number nor seal can be checked', async () => {
    const files = await journal()
    for (const name of ['001', '002']) await files.unlink(`${path}.${name}`)
    edit(files, 'journal.jsonl', withoutLine1)
    const { plan } = await repair(files, drop)
    expect(plan.findings.map(({ reason, action }) => [reason, action])).toEqual([
      ['its header is missing: line 1 is a record', 'rebuild'],
      ['its seal covers the header that was there: it cannot tell whether a record has changed', 'accept'],
      ['nothing tells the number of its first record: it becomes 1', 'accept'],
    ])
    expect(await contentOf(files)).toEqual(numbered('gh'))
  })

  test.each([
    ['short', 'd'],
    ['longer than a header can be', 'd'.repeat(1000)],
  ])('of the oldest segment left by retention: a first record that is %s is counted back', async (_name, letter) => {
    const files = new SimulatedFileSystem()
    await writeJournal(path, [['a', 'b', 'c'], [letter, 'e'], ['g', 'h']], { fileSystem: files })
    await files.unlink(`${path}.001`)
    edit(files, 'journal.jsonl.002', withoutLine1)
    const { plan } = await repair(files, drop)
    expect(plan).toMatchObject({ findingCount: 1, firstDamaged: undefined, firstSequence: 4 })
    expect((await contentOf(files)).map(([sequence]) => sequence)).toEqual([4, 5, 6, 7])
  })

  test('and bad lines after it: each by its position in the file', async () => {
    const files = await journal()
    edit(files, 'journal.jsonl.002', (text) => withoutLine1(text).replace('"e"', '"e'))
    const { plan } = await repair(files, drop)
    expect(plan.findings[1]).toMatchObject({ segment: 'journal.jsonl.002', line: 2, offset: 4, sequence: 5 })
    expect(await contentOf(files)).toEqual(numbered('abcdfgh'))
  })

  test('and a torn end: the torn end is still not damage', async () => {
    const files = await journal()
    edit(files, 'journal.jsonl', (text) => `${withoutLine1(text)}"i`)
    const { plan } = await repair(files, drop)
    expect(plan).toMatchObject({ findingCount: 1, dropped: { lines: 0 }, firstDamaged: undefined })
    expect(await contentOf(files)).toEqual(numbered('abcdefgh'))
  })

  test('and missing records: the findings from numbers and seal are still reported', async () => {
    const files = await journal()
    edit(files, 'journal.jsonl.002', (text) => withoutLine1(withoutLine1(text)))
    const { plan } = await repair(files, drop)
    expect(plan.findings.map(({ reason }) => reason)).toContain('record 6 is missing before it')
    expect(plan.firstDamaged).toBe(6)
    const inActive = await journal()
    edit(inActive, 'journal.jsonl', (text) => withoutLine1(withoutLine1(text)))
    const { plan: other } = await repair(inActive, drop)
    expect(other.findings[1]?.reason).toContain('its seal says that it held 2 record(s)')
  })

  test.each([
    ['with a flipped bit', (header: string) => header.replace('MINISTORE', 'MINESTORE')],
    ['with a byte order mark', (header: string) => `\xef\xbb\xbf${header}`],
    ['that lost a letter', (header: string) => header.replace('STORE', 'STOE')],
    ['that lost its beginning', (header: string) => header.slice(5)],
    ['with a damaged field', (header: string) => header.replace('seq=', 'seq=x')],
  ])('is not assumed for a header %s: even with a codec that accepts any line, it is not a record', async (_name, damage) => {
    const files = await journal()
    edit(files, 'journal.jsonl.002', damage)
    const result = await repairJournal(files, path, { choice: drop, check: () => {} })
    expect(result?.plan).toMatchObject({ findings: [{ reason: 'line 1 is no header' }], firstDamaged: undefined })
    expect(await contentOf(files)).toEqual(numbered('abcdefgh'))
  })

  test('of lines of another codec: line 1 stays if the check accepts it', async () => {
    const files = new SimulatedFileSystem()
    files.writeFile(path, '// a comment\nno json\n')
    const result = await repairJournal(files, path, { choice: drop, check: () => {} })
    expect(result?.plan).toMatchObject({ records: 2, dropped: { lines: 0 } })
    expect(files.readFile(path).toString()).toContain('seq=1\n// a comment\nno json\n')
  })
})

test('a damaged header of the active segment does not mean that its records have changed', async () => {
  const files = await journal()
  edit(files, 'journal.jsonl', (text) => text.replace('MINISTORE', 'MINESTORE'))
  const { plan } = await repair(files, drop)
  expect(plan.findings.map(({ reason }) => reason)).toEqual(['line 1 is no header'])
  const changed = await journal()
  edit(changed, 'journal.jsonl', (text) => text.replace('MINISTORE', 'MINESTORE').replace('"h"', '"i"'))
  expect((await repair(changed, drop)).plan.findings).toHaveLength(2)
})

describe('a crash at any point of a repair', () => {
  const cases: ReadonlyArray<
    readonly [string, RepairChoice, (files: SimulatedFileSystem) => void | Promise<void>, string, number]
  > = [
    [
      'dropping a line',
      drop,
      (files) => edit(files, 'journal.jsonl.001', (text) => text.replace('"b"', '"b')),
      'acdefgh',
      1,
    ],
    [
      'cutting in a sealed segment',
      cutAt(5),
      (files) => edit(files, 'journal.jsonl.002', (text) => text.replace('"e"', '"e')),
      'abcd',
      1,
    ],
    [
      'cutting in the active segment',
      cutAt(8),
      (files) => edit(files, 'journal.jsonl', (text) => text.replace('"h"', '"h')),
      'abcdefg',
      1,
    ],
    [
      'putting headers where they are missing',
      drop,
      (files) => {
        edit(files, 'journal.jsonl.001', withoutLine1)
        edit(files, 'journal.jsonl.002', (text) => withoutLine1(text).replace('"e"', '"e'))
      },
      'abcdfgh',
      1,
    ],
    ['closing a gap', drop, (files) => files.unlink('/data/journal.jsonl.002'), 'abcgh', 1],
    [
      'dropping a segment',
      drop,
      (files) => edit(files, 'journal.jsonl.001', (text) => `${text.split('\n')[0]}\nx\ny\nz\n`),
      'defgh',
      4,
    ],
  ]

  test.each(cases)(
    '%s: every original byte is still there, and the repair can be run again',
    async (_name, choice, damage, records, first) => {
      const damaged = await journal()
      await damage(damaged)
      const files = damaged.afterCrash({ keep: 'all' })
      const before = [...files.snapshot()]
        .filter(([name]) => !name.endsWith('.lock'))
        .map(([, bytes]) => bytes.toString('latin1'))
      const states: SimulatedFileSystem[] = []
      const stop = files.onOperation((operation) => {
        if (operation.changesDisk)
          states.push(...files.crashStates({ seed: 1, limit: 40 }), files.afterKill())
      })
      await repair(files, choice)
      stop()
      states.push(...files.crashStates({ seed: 1, limit: 40 }))
      expect(states.length).toBeGreaterThan(50)
      for (const state of states) {
        const there = new Set([...state.snapshot().values()].map((bytes) => bytes.toString('latin1')))
        expect(before.filter((bytes) => !there.has(bytes))).toEqual([])
        const { plan } = await repair(state, choice.kind === 'truncate-at' ? choice : drop)
        expect(plan.records).toBe(records.length)
        expect(await contentOf(state)).toEqual(numbered(records, first))
      }
    },
  )

  test('leaves no gap in a journal that is being cut: the newest segment is removed first', async () => {
    const files = (await journal()).afterCrash({ keep: 'all' })
    const newest = files.readFile(path)
    let withNewest = 0
    files.onOperation(() => {
      for (const state of files.crashStates({ seed: 1, limit: 20 })) {
        if (!state.exists(path) || !state.readFile(path).equals(newest)) continue
        withNewest++
        expect(state.names('/data')).toContain('journal.jsonl.002')
      }
    })
    await repair(files, cutAt(2))
    expect(withNewest).toBeGreaterThan(0)
    expect(await contentOf(files)).toEqual(numbered('a'))
  })
})
