import { describe, expect, test } from 'vitest'

import { MiniStore } from '../../src/index.ts'
import { planRepair, type RepairOptions } from '../../src/maintenance/repair-plan.ts'
import { repairJournal, type RepairResult } from '../../src/maintenance/repair.ts'
import { verifyJournal } from '../../src/maintenance/verify.ts'
import { JournalFiles } from '../../src/ministore/format.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'
import { writeJournal } from '../support/journals.ts'

const path = '/data/journal.jsonl'

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

async function repair(files: SimulatedFileSystem, options: RepairOptions = {}): Promise<RepairResult> {
  const result = await repairJournal(files, path, options)
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

/** Expects that a repair is refused because of this damage, and that it changes nothing. */
async function expectRefused(files: SimulatedFileSystem, damage: object): Promise<void> {
  const before = files.snapshot()
  await expect(repair(files)).rejects.toMatchObject({ code: 'ERR_MINISTORE_CORRUPT', ...damage })
  expect(files.snapshot()).toEqual(before)
}

const numbered = (text: string, first = 1): Array<[number, string]> =>
  Array.from(text, (letter, index) => [first + index, letter])

const spoil = (files: SimulatedFileSystem, name: string, letter: string): void =>
  edit(files, name, (text) => text.replace(`"${letter}"`, `"${letter}`))

const withoutLine1 = (text: string): string => text.slice(text.indexOf('\n') + 1)

describe('repair', () => {
  test('changes nothing in a sound journal, not even with a torn end', async () => {
    const files = await journal()
    edit(files, 'journal.jsonl', (text) => `${text}"half`)
    const before = files.snapshot()
    const { plan, copies } = await repair(files)
    expect(plan).toMatchObject({ findings: [], obstacle: undefined, cut: undefined, records: 8, firstSequence: 1, removesSeal: false })
    expect(copies).toEqual([])
    expect(files.snapshot()).toEqual(before)
  })

  test('changes nothing in a sound journal of version 0.1, not even one whose number a later header states', async () => {
    const files = new SimulatedFileSystem()
    files.writeFile('/data/journal.jsonl.000001', '// MINISTORE JOURNAL v0.1.4\n1\n2\n')
    files.writeFile(path, '// MINISTORE JOURNAL v0.1.4\n3\n')
    expect(await repair(files)).toMatchObject({ plan: { findings: [], records: 3 }, copies: [] })
    files.writeFile(path, '// MINISTORE JOURNAL v0.1.4\n3\n4')
    files.writeFile(`${path}.seal`, 'of the segment that the Rust crate has sealed')
    expect(await repair(files)).toMatchObject({ plan: { findings: [], records: 3 }, copies: [] })
    await files.unlink(`${path}.seal`)
    files.writeFile(path, '// MINISTORE JOURNAL v0.3.0 seq=14 id=5c1e9a70b2f4d833 prev=f4a4a364\n3\n')
    await expect(repair(files)).resolves.toMatchObject({ plan: { firstSequence: 12, records: 3 } })
  })

  test('makes a plan without changing anything', async () => {
    const files = await journal()
    spoil(files, 'journal.jsonl.001', 'b')
    const before = files.snapshot()
    const plan = await planRepair(files, new JournalFiles(path))
    expect(plan).toMatchObject({
      findings: [],
      obstacle: { segment: 'journal.jsonl.001', line: 3, offset: 58, sequence: 2 },
      cut: { first: 2, last: 8 },
      records: 1,
      removals: ['journal.jsonl.002', 'journal.jsonl'],
    })
    expect(files.snapshot()).toEqual(before)
  })

  test.each([
    ['that is not JSON', 'journal.jsonl.002', '"e', 'the line is not JSON: '],
    ['that is blank', 'journal.jsonl.002', '', 'the line is blank'],
    ['with a NUL', 'journal.jsonl', '"\0"', 'the line holds a NUL byte'],
    ['that is not UTF-8', 'journal.jsonl', '"\xff"', 'the line is not UTF-8'],
  ])('drops no line %s', async (_name, segment, line, reason) => {
    const files = await journal()
    const [letter, sequence] = segment === 'journal.jsonl' ? (['g', 7] as const) : (['e', 5] as const)
    edit(files, segment, (text) => text.replace(`"${letter}"`, line))
    await expectRefused(files, { segment, sequence, message: expect.stringContaining(reason) as string })
  })

  test('drops no last line of a sealed segment, and none that the seal covers, because they lack a line feed', async () => {
    const sealed = await journal()
    edit(sealed, 'journal.jsonl.002', (text) => text.slice(0, -1))
    await expectRefused(sealed, { segment: 'journal.jsonl.002', sequence: 6, line: 4 })
    const active = await journal()
    edit(active, 'journal.jsonl', (text) => text.slice(0, -1))
    await expectRefused(active, { segment: 'journal.jsonl', sequence: 8, line: 3 })
    await repair(active, { truncateAt: 8 })
    expect(await contentOf(active)).toEqual(numbered('abcdefg'))
  })

  test('cuts in a sealed segment, keeps every number and creates an active segment', async () => {
    const files = await journal()
    spoil(files, 'journal.jsonl.002', 'e')
    const { plan } = await repair(files, { truncateAt: 5 })
    expect(plan).toMatchObject({ cut: { first: 5, last: 8 }, findings: [], obstacle: undefined })
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

  test.each([
    ['between segments', 4],
    ['in the active segment', 8],
    ['in the first segment', 2],
  ])('cuts a sound journal %s', async (_name, truncateAt) => {
    const files = await journal()
    await repair(files, { truncateAt })
    expect(await contentOf(files)).toEqual(numbered('abcdefgh'.slice(0, truncateAt - 1)))
  })

  test('cuts nothing after the last record, and leaves an empty active segment alone', async () => {
    const files = await journal()
    expect(await repair(files, { truncateAt: 9 })).toMatchObject({ copies: [] })
    await using store = await MiniStore.open(path, { fileSystem: files })
    await store.rotate()
    await store.close()
    expect(await repair(files, { truncateAt: 9 })).toMatchObject({ copies: [] })
  })

  test.each([
    ['that would leave nothing', 1, 'from 2 to 9, got 1: it would leave no record'],
    ['that cuts nothing', 10, 'from 2 to 9, got 10: it would cut nothing'],
    ['that leaves damage before it', 6, 'Cutting at 6 would keep damage before it, at sequence 5'],
  ])('refuses a cut %s', async (_name, truncateAt, message) => {
    const files = await journal()
    spoil(files, 'journal.jsonl.002', 'e')
    const before = files.snapshot()
    await expect(repair(files, { truncateAt })).rejects.toThrow(new RegExp(message))
    await expect(repair(files, { truncateAt })).rejects.toBeInstanceOf(RangeError)
    expect(files.snapshot()).toEqual(before)
  })

  test('reads lines of another codec with another check', async () => {
    const files = new SimulatedFileSystem()
    const codec = { encode: (text: string) => text, decode: (text: string) => text }
    await writeJournal(path, [['no', 'json']], { fileSystem: files, codec })
    await expectRefused(files, { sequence: 1 })
    expect(await repair(files, { check: () => {} })).toMatchObject({ copies: [] })
  })

  test.each([
    ['a lost segment', ['002'], 'it begins with sequence 5, expected 3', 3],
    ['two lost segments', ['002', '003'], 'it begins with sequence 7, expected 3', 3],
  ])('closes no gap of %s; the records before it can be kept', async (_name, lost, reason, sequence) => {
    const files = new SimulatedFileSystem()
    await writeJournal(path, [['a', 'b'], ['c', 'd'], ['e', 'f'], ['g']], { fileSystem: files })
    for (const number of lost) await files.unlink(`${path}.${number}`)
    await expectRefused(files, { sequence, message: expect.stringContaining(reason) as string })
    await repair(files, { truncateAt: sequence })
    expect(await contentOf(files)).toEqual(numbered('ab'))
  })

  test('takes the oldest segments for deleted by retention if they are gone', async () => {
    const files = await journal()
    await files.unlink(`${path}.001`)
    expect(await repair(files)).toMatchObject({ plan: { firstSequence: 4, records: 5 }, copies: [] })
  })

  test.each([
    ['a number twice', '000001', 'the number in its name is 1, expected 2'],
    ['a gap in the numbers', '005', 'the number in its name is 5, expected 3'],
  ])('renames no segment for %s in the names', async (_name, number, reason) => {
    const files = await journal()
    const sealed = files.readFile(`${path}.002`)
    await files.unlink(path)
    await files.unlink(`${path}.seal`)
    if (number === '005') files.writeFile(`${path}.005`, `// MINISTORE JOURNAL v0.3.0 seq=7 id=5c1e9a70b2f4d833\n"g"\n`)
    else {
      await files.unlink(`${path}.002`)
      files.writeFile(`${path}.${number}`, sealed)
    }
    await expectRefused(files, { segment: `journal.jsonl.${number}`, message: expect.stringContaining(reason) as string })
  })

  test('rebuilds headers and loses no record', async () => {
    const files = await journal()
    edit(files, 'journal.jsonl.001', (text) => text.replace('MINISTORE', 'MINESTORE'))
    edit(files, 'journal.jsonl', (text) => text.replace('prev=', 'perv='))
    const { plan } = await repair(files)
    expect(plan.findings.map(({ segment, line }) => [segment, line])).toEqual([
      ['journal.jsonl.001', 1],
      ['journal.jsonl', 1],
    ])
    expect(await contentOf(files)).toEqual(numbered('abcdefgh'))
  })

  test('rebuilds a wrong sequence number if the checksum shows that nothing is missing before it', async () => {
    const files = await journal()
    edit(files, 'journal.jsonl.002', (text) => text.replace('seq=4', 'seq=5'))
    const { plan } = await repair(files)
    expect(plan.findings.map(({ reason }) => reason)).toEqual(['its header says sequence 5, expected 4'])
    expect(await contentOf(files)).toEqual(numbered('abcdefgh'))
  })

  test.each(['.001', '.002', ''])('rebuilds the identity that the header of %j does not share with the others', async (ending) => {
    const files = await journal()
    const before = files.snapshot()
    edit(files, `journal.jsonl${ending}`, (text) => text.replace(/ id=[0-9a-f]/, (found) => found.slice(0, -1) + (found.endsWith('f') ? '0' : 'f')))
    await expect(MiniStore.open(path, { fileSystem: files })).rejects.toThrow(/its header has the id \w{16}, but that of journal\.jsonl\.00\d has \w{16}/)
    const damages: string[] = []
    await verifyJournal(files, path, { onDamage: ({ message }) => damages.push(message) })
    expect(damages.join()).toMatch(/its header has the id/)
    const { plan } = await repair(files)
    expect(plan.findings[0]?.reason).toMatch(/^its header has the id \w{16}, expected \w{16}$/)
    for (const [name, bytes] of before) if (!name.endsWith('.seal')) expect(files.readFile(name), name).toEqual(bytes)
    expect(await contentOf(files)).toEqual(numbered('abcdefgh'))
  })

  test('gives rebuilt headers of a journal without an identity one, the same for all', async () => {
    const files = new SimulatedFileSystem()
    files.writeFile(`${path}.001`, '// MINESTORE JOURNAL v0.2.0 seq=1\n"a"\n')
    files.writeFile(path, '// MINISTORE JOURNAL v0.2.0 seq=2 prev=00000000\n"b"\n')
    await repair(files)
    const ids = [`${path}.001`, path].map((name) => / id=([0-9a-f]{16})\b/.exec(files.readFile(name).toString())?.[1])
    expect(ids[0]).toMatch(/^[0-9a-f]{16}$/)
    expect(ids[1]).toBe(ids[0])
    expect(await contentOf(files)).toEqual(numbered('ab'))
  })

  test('accepts a changed byte in a valid line, and names its segment', async () => {
    const files = await journal()
    edit(files, 'journal.jsonl.002', (text) => text.replace('"e"', '"x"'))
    edit(files, 'journal.jsonl', (text) => text.replace('"g"', '"y"'))
    const { plan } = await repair(files)
    expect(plan.findings.map(({ reason }) => reason)).toEqual([
      'the checksum in its header is not that of journal.jsonl.002, and no line shows what has changed',
      expect.stringContaining('a byte among the first 76 has changed') as string,
    ])
    expect(await contentOf(files)).toEqual(numbered('abcdxfyh'))
  })

  test('continues without a missing active segment, and reports what its seal says', async () => {
    const files = await journal()
    await files.unlink(path)
    const { plan } = await repair(files)
    expect(plan.findings).toHaveLength(1)
    expect(plan.findings[0]?.reason).toContain('says that it held 2 record(s)')
    expect(await contentOf(files)).toEqual(numbered('abcdef'))
  })

  test('reports that sealed records of the active segment are gone', async () => {
    const files = await journal()
    edit(files, 'journal.jsonl', (text) => text.replace('"h"\n', ''))
    const { plan } = await repair(files)
    expect(plan.findings[0]?.reason).toBe('the seal covers 76 bytes, but only the first 72 are there in whole lines')
    expect(await contentOf(files)).toEqual(numbered('abcdefg'))
  })

  test('refuses a segment without a line; a cut removes it', async () => {
    for (const content of ['x'.repeat(1000), '', '// MINISTORE JOURNAL v0.3.0 seq=4 id=5c1e9a70b2f4d833 prev=00000000\n']) {
      const files = await journal()
      files.writeFile(`${path}.002`, content)
      await expectRefused(files, { segment: 'journal.jsonl.002', sequence: 4, message: /it has no record/ })
      await repair(files, { truncateAt: 4 })
      expect(await contentOf(files)).toEqual(numbered('abc'))
    }
  })

  test('keeps the numbers of a version 0.1 journal that only a later header states', async () => {
    const files = new SimulatedFileSystem()
    files.writeFile(`${path}.004`, '// MINISTORE JOURNAL v0.1.4\n1\nx\n3\n')
    files.writeFile(path, '// MINISTORE JOURNAL v0.3.0 seq=14 id=5c1e9a70b2f4d833 prev=00000000\n4\n')
    const { plan } = await repair(files, { truncateAt: 12 })
    expect(plan.cut).toEqual({ first: 12, last: 14 })
    expect(await contentOf(files)).toEqual([[11, 1]])
  })

  test('numbers the copies when a name is taken, and reuses an identical copy', async () => {
    const files = await journal()
    files.writeFile(`${path}.broken`, 'of another day')
    files.writeFile(`${path}.seal.broken`, files.readFile(`${path}.seal`))
    const { copies } = await repair(files, { truncateAt: 8 })
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
      edit(files, 'journal.jsonl', (text) => `${text.replace('prev=', 'perv=')}${JSON.stringify(long)}\n`)
      const before = files.readFile(path)
      files.writeFile(`${path}.broken`, change(before))
      const { copies } = await repair(files)
      expect(copies[0]).toBe(copy)
      expect(files.readFile(`/data/${copy}`).equals(before)).toBe(true)
      expect(await contentOf(files)).toEqual([...numbered('abcdefgh'), [9, long]])
    }
  })

  test('is refused while a writer has the journal open', async () => {
    const files = await journal()
    await using store = await MiniStore.open(path, { fileSystem: files })
    await expect(repair(files)).rejects.toMatchObject({ code: 'ERR_MINISTORE_LOCKED' })
    await store.append('i')
  })

  test('on a full disk says so and changes nothing', async () => {
    const files = await journal()
    spoil(files, 'journal.jsonl.001', 'b')
    const before = files.snapshot()
    files.capacityBytes = [...before.values()].reduce((sum, { length }) => sum + length, 0) + 50
    await expect(repair(files, { truncateAt: 2 })).rejects.toMatchObject({ code: 'ERR_MINISTORE_IO' })
    for (const [name, bytes] of before) expect(files.readFile(name)).toEqual(bytes)
    files.capacityBytes = Number.POSITIVE_INFINITY
    await repair(files, { truncateAt: 2 })
    expect(await contentOf(files)).toEqual(numbered('a'))
  })
})

describe('a missing header', () => {
  test.each([
    ['of the first segment', 'journal.jsonl.001', 1],
    ['of one between others', 'journal.jsonl.002', 4],
    ['of the active segment', 'journal.jsonl', 7],
  ])('%s is rebuilt before line 1, which stays a record', async (_name, segment, sequence) => {
    const files = await journal()
    edit(files, segment, withoutLine1)
    const { plan } = await repair(files)
    const reason = 'its header is missing: line 1 is a record'
    expect(plan.findings).toEqual([{ segment, line: 1, offset: 0, sequence, reason }])
    expect(await contentOf(files)).toEqual(numbered('abcdefgh'))
  })

  test('of all segments: the numbers are counted from 1', async () => {
    const files = await journal()
    for (const name of ['journal.jsonl.001', 'journal.jsonl.002', 'journal.jsonl'])
      edit(files, name, withoutLine1)
    const { plan } = await repair(files)
    expect(plan.findings[0]?.reason).toContain('no header tells the number of the first record: it becomes 1')
    expect(await contentOf(files)).toEqual(numbered('abcdefgh'))
  })

  test('of the only segment left by retention: says that its number is unknown, and that its seal does not match', async () => {
    const files = await journal()
    for (const name of ['001', '002']) await files.unlink(`${path}.${name}`)
    edit(files, 'journal.jsonl', withoutLine1)
    const { plan } = await repair(files)
    expect(plan.findings.map(({ reason }) => reason)).toEqual([
      'its header is missing: line 1 is a record, and no header tells the number of the first record: it becomes 1',
      expect.stringContaining('the seal covers 76 bytes') as string,
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
    const { plan } = await repair(files)
    expect(plan).toMatchObject({ firstSequence: 4, records: 4 })
    expect((await contentOf(files)).map(([sequence]) => sequence)).toEqual([4, 5, 6, 7])
  })

  test('and a damaged line after it: the place of that line is its place in the file', async () => {
    const files = await journal()
    edit(files, 'journal.jsonl.002', (text) => withoutLine1(text).replace('"e"', '"e'))
    await expectRefused(files, { segment: 'journal.jsonl.002', line: 2, offset: 4, sequence: 5 })
    await repair(files, { truncateAt: 5 })
    expect(await contentOf(files)).toEqual(numbered('abcd'))
  })

  test('and a torn end: the torn end is still not damage', async () => {
    const files = await journal()
    edit(files, 'journal.jsonl', (text) => `${withoutLine1(text)}"i`)
    const { plan } = await repair(files)
    expect(plan.findings).toHaveLength(1)
    expect(await contentOf(files)).toEqual(numbered('abcdefgh'))
  })

  test('and missing records: the next header and the seal still report them', async () => {
    const files = await journal()
    edit(files, 'journal.jsonl.002', (text) => withoutLine1(withoutLine1(text)))
    await expectRefused(files, { segment: 'journal.jsonl', sequence: 6 })
    const inActive = await journal()
    edit(inActive, 'journal.jsonl', (text) => withoutLine1(withoutLine1(text)))
    const { plan } = await repair(inActive)
    expect(plan.findings[1]?.reason).toContain('the seal covers 76 bytes')
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
    const { plan } = await repair(files, { check: () => {} })
    expect(plan.findings).toMatchObject([{ reason: 'line 1 is not a header' }])
    expect(await contentOf(files)).toEqual(numbered('abcdefgh'))
  })

  test('of lines of another codec: line 1 stays if the check accepts it', async () => {
    const files = new SimulatedFileSystem()
    files.writeFile(path, '// a comment\nno json\n')
    expect((await repair(files, { check: () => {} })).plan.records).toBe(2)
    expect(files.readFile(path).toString()).toMatch(/ seq=1 id=[0-9a-f]{16}\n\/\/ a comment\nno json\n$/)
  })
})

test('a damaged header of the active segment does not mean that its records have changed', async () => {
  const files = await journal()
  edit(files, 'journal.jsonl', (text) => text.replace('MINISTORE', 'MINESTORE'))
  expect((await repair(files)).plan.findings).toHaveLength(1)
  const changed = await journal()
  edit(changed, 'journal.jsonl', (text) => text.replace('MINISTORE', 'MINESTORE').replace('"h"', '"i"'))
  expect((await repair(changed)).plan.findings).toHaveLength(2)
})

describe('a crash at any point of a repair', () => {
  const cases: ReadonlyArray<
    readonly [string, RepairOptions, (files: SimulatedFileSystem) => void | Promise<void>, Array<[number, unknown]>]
  > = [
    ['cutting in a sealed segment', { truncateAt: 5 }, (files) => spoil(files, 'journal.jsonl.002', 'e'), numbered('abcd')],
    ['cutting in the active segment', { truncateAt: 8 }, (files) => spoil(files, 'journal.jsonl', 'h'), numbered('abcdefg')],
    ['cutting in the first segment', { truncateAt: 2 }, (files) => spoil(files, 'journal.jsonl.001', 'b'), numbered('a')],
    [
      'putting headers where they are missing',
      {},
      (files) => {
        edit(files, 'journal.jsonl.001', withoutLine1)
        edit(files, 'journal.jsonl.002', (text) => withoutLine1(text).replace('"e"', '"x"'))
      },
      numbered('abcdxfgh'),
    ],
    [
      'rebuilding sequence numbers and the chain after a changed byte',
      {},
      (files) => {
        edit(files, 'journal.jsonl.001', (text) => text.replace('"a"', '"x"'))
        edit(files, 'journal.jsonl', (text) => text.replace('seq=7', 'seq=9'))
      },
      numbered('xbcdefgh'),
    ],
    [
      'rebuilding headers and cutting after them',
      { truncateAt: 6 },
      (files) => {
        edit(files, 'journal.jsonl.001', (text) => text.replace('JOURNAL v0.3.0', 'JOURNEY v0.3.0').replace('"a"', '"x"'))
        edit(files, 'journal.jsonl.002', (text) => text.replace('prev=', 'perv=').replace('"f"', '"f'))
      },
      numbered('xbcde'),
    ],
    [
      'cutting away the only header that has a number',
      { truncateAt: 12 },
      async (files) => {
        for (const name of ['.001', '.002', '.seal']) await files.unlink(path + name)
        files.writeFile(`${path}.004`, '// MINISTORE JOURNAL v0.1.4\n"k"\nx\n"m"\n')
        files.writeFile(path, '// MINISTORE JOURNAL v0.3.0 seq=14 id=5c1e9a70b2f4d833 prev=00000000\n"n"\n')
      },
      numbered('k', 11),
    ],
    ['removing the seal of a missing segment', {}, (files) => files.unlink(path), numbered('abcdef')],
  ]

  test.each(cases)(
    '%s: every original byte is still there, and the repair can be run again',
    async (_name, options, damage, records) => {
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
      await repair(files, options)
      stop()
      states.push(...files.crashStates({ seed: 1, limit: 40 }))
      expect(states.length).toBeGreaterThan(20)
      for (const state of states) {
        const there = new Set([...state.snapshot().values()].map((bytes) => bytes.toString('latin1')))
        expect(before.filter((bytes) => !there.has(bytes))).toEqual([])
        await expectOrderly(state.afterCrash({ keep: 'all' }))
        await repair(state, options)
        expect(await contentOf(state)).toEqual(records)
      }
    },
  )

  /** Expects that a journal is read without a wrong number or a gap, or is refused as damaged. */
  async function expectOrderly(files: SimulatedFileSystem): Promise<void> {
    const letters = new Map<number, unknown>()
    try {
      for await (const { sequence, record } of MiniStore.entries(path, { fileSystem: files })) {
        letters.set(sequence, record)
      }
    } catch (error) {
      expect(error).toMatchObject({ code: 'ERR_MINISTORE_CORRUPT' })
    }
    const sequences = [...letters.keys()]
    expect(sequences).toEqual(sequences.map((_, index) => (sequences[0] ?? 0) + index))
    for (const [sequence, record] of letters) {
      // The only record `x` is a changed byte that the repair accepts.
      expect([String.fromCodePoint(96 + sequence), 'x']).toContain(record)
    }
  }

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
    await repair(files, { truncateAt: 2 })
    expect(withNewest).toBeGreaterThan(0)
    expect(await contentOf(files)).toEqual(numbered('a'))
  })
})
