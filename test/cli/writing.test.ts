import { spawn } from 'node:child_process'
import { open, readFile, readdir, unlink } from 'node:fs/promises'
import { once } from 'node:events'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { text as textOf } from 'node:stream/consumers'

import { describe, expect, onTestFinished, test, vi } from 'vitest'

import { Interrupted } from '../../src/cli/errors.ts'
import { nodeFileSystem } from '../../src/fs/node.ts'
import { MiniStore } from '../../src/index.ts'
import { whyNoVolume, Volume } from '../crash/journal/real-disk-volumes.ts'
import { addBytes, numbers, writeJournal, writeSegment } from '../support/journals.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'
import {
  journal, main, ministore, ministoreProcess, type Outcome, outcomeOf, replaceIn, start, textUntil,
} from './run-command.ts'

const noTmpfs = await whyNoVolume('tmpfs')

async function emptyPath(): Promise<string> {
  return join(await temporaryDirectory(), 'journal.jsonl')
}

/** The journal with record 5 damaged. */
async function damagedJournal(): Promise<string> {
  const path = await journal()
  await replaceIn(`${path}.002`, '\n5\n', '\nx\n')
  return path
}

// The matcher that vitest returns here has type `any`.
const containing = (part: string): unknown => expect.stringContaining(part) as unknown

async function contents(path: string): Promise<Map<string, string>> {
  const directory = join(path, '..')
  const names = await readdir(directory)
  return new Map(
    await Promise.all(
      names.map(async (name) => [name, await readFile(join(directory, name), 'latin1')] as const),
    ),
  )
}

describe('append', () => {
  test('stores lines as they arrive and prints the last sequence number', async () => {
    const path = await emptyPath()
    const lines = '{"a": 1,  "b":1e400}\n\n"é"\r\n   \n\t\r\nnull'
    expect(await ministore(['append', path], lines)).toEqual({ code: 0, stdout: '3\n', stderr: '' })
    expect((await readFile(path, 'utf8')).split('\n').slice(1)).toEqual([
      '{"a": 1,  "b":1e400}',
      '"é"',
      'null',
      '',
    ])
    const more = await ministore(['append', path, '--json', '--batch', '2'], '4\n5\n6\n')
    expect(JSON.parse(more.stdout)).toEqual({ firstSequence: 4, lastSequence: 6, records: 3 })
    expect((await ministore(['append', path], '')).stdout).toBe('6\n')
  })

  test.each([
    ['that is not JSON', '{"half":\n', 'is not JSON'],
    ['that is not UTF-8', Buffer.from([0x22, 0xff, 0x22, 0x0a]), 'is not UTF-8'],
    ['that is too long', `"${'x'.repeat(16 * 1024 * 1024)}"\n`, 'is longer than 16.0 MiB'],
    ['that is too long by a byte', `"${'x'.repeat(16 * 1024 * 1024 - 1)}"\n`, 'is longer than 16.0 MiB'],
  ])(
    'refuses a line %s by its number, keeps the lines before it and writes nothing of it',
    async (_name, bad, problem) => {
      for (const batch of ['1', '10']) {
        const path = await emptyPath()
        const input = Buffer.concat([Buffer.from('1\n\n2\n'), Buffer.from(bad as string), Buffer.from('3\n')])
        const outcome = await ministore(['append', path, '--batch', batch], input)
        expect(outcome).toMatchObject({ code: 1, stdout: '' })
        expect(outcome.stderr).toContain(`Line 4 of the input ${problem}`)
        expect(outcome.stderr).toContain('Appended before it: 2 records; the last has sequence 2')
        expect((await readFile(path, 'utf8')).split('\n').slice(1)).toEqual(['1', '2', ''])
      }
    },
  )

  test('accepts a line of the maximum length, with either line ending', async () => {
    const path = await emptyPath()
    const longest = `"${'x'.repeat(16 * 1024 * 1024 - 2)}"`
    const spy = vi.spyOn(MiniStore.prototype, 'appendAll')
    onTestFinished(() => spy.mockRestore())
    expect(await ministore(['append', path, '--batch', '10'], `${longest}\n${longest}\r\n`)).toMatchObject({ code: 0, stdout: '2\n' })
    expect(spy, 'each is a batch: it has 16 MiB').toHaveBeenCalledTimes(2)
  })

  test('ends a batch at 16 MiB, counted in bytes', async () => {
    const spy = vi.spyOn(MiniStore.prototype, 'appendAll')
    onTestFinished(() => spy.mockRestore())
    // Each of these lines has 5.5 million characters and 11 million bytes.
    const input = `"${'é'.repeat(5_500_000)}"\n`.repeat(3)
    expect(await ministore(['append', await emptyPath(), '--batch', '10'], input)).toMatchObject({ code: 0, stdout: '3\n' })
    expect(spy.mock.calls.map(([records]) => [...records].length)).toEqual([2, 1])
  })

  test('reports to programs the refused line and the durable records', async () => {
    const path = await emptyPath()
    const { stderr } = await ministore(['append', path, '--json'], '1\nx\n')
    expect(JSON.parse(stderr)).toMatchObject({
      error: { code: 'ERR_BAD_INPUT', line: 2, records: 1, lastSequence: 1 },
    })
  })

  test('makes each line durable before it reads the next', async () => {
    const path = await emptyPath()
    await writeJournal(path, [[0]])
    const child = start(['append', path])
    const follower = start(['tail', '-f', path])
    await textUntil(follower.stdout, '0\n')
    for (const record of numbers(1, 3)) {
      child.stdin.write(`${record}\n`)
      expect(await textUntil(follower.stdout, `${record}\n`)).toBe(`${record}\n`)
    }
    child.stdin.end()
    expect(await outcomeOf(child)).toEqual({ code: 0, stdout: '4\n', stderr: '' })
  })

  test('ends with 130 on Ctrl-C and frees the journal', async () => {
    const path = await emptyPath()
    await writeJournal(path, [[0]])
    const child = start(['append', path])
    const follower = start(['tail', '-f', path])
    await textUntil(follower.stdout, '0\n')
    child.stdin.write('1\n')
    await textUntil(follower.stdout, '1\n')
    child.kill('SIGINT')
    expect(await outcomeOf(child)).toEqual({
      code: 130,
      stdout: '',
      stderr: 'Interrupted after 1 record; the last has sequence 2.\n',
    })
    expect((await readdir(join(path, '..'))).toSorted(), 'closed: its seal is there').toContain(
      'journal.jsonl.seal',
    )
  })

  test('when interrupted reports to programs the durable records', async () => {
    const path = await emptyPath()
    await writeJournal(path, [[0]])
    const child = start(['append', path, '--json'])
    const follower = start(['tail', '-f', path])
    child.stdin.write('1\n')
    await textUntil(follower.stdout, '1\n')
    child.kill('SIGTERM')
    const { code, stdout, stderr } = await outcomeOf(child)
    expect([code, stdout]).toEqual([143, ''])
    expect(JSON.parse(stderr)).toEqual({
      error: {
        code: 'ERR_INTERRUPTED',
        message: 'Interrupted after 1 record; the last has sequence 2',
        records: 1,
        lastSequence: 2,
      },
    })
  })

  test.skipIf(process.platform === 'win32')('refuses a directory as its input and creates nothing', async () => {
    const directory = await temporaryDirectory()
    const handle = await open(directory)
    onTestFinished(() => handle.close())
    const args = [main, 'append', join(directory, 'journal.jsonl')]
    const child = spawn(process.execPath, args, { stdio: [handle.fd, 'pipe', 'pipe'] })
    const [stdout, stderr, [code]] = await Promise.all([
      textOf(child.stdout as Readable),
      textOf(child.stderr as Readable),
      once(child, 'close') as Promise<[number | null]>,
    ])
    expect([code, stdout]).toEqual([2, ''])
    expect(stderr).toContain('Expected standard input to be lines of text, got a directory')
    expect(await readdir(directory)).toEqual([])
  })

  test.runIf(process.platform === 'linux')(
    'says which process to stop when the journal is locked',
    async () => {
      const path = await emptyPath()
      const store = await MiniStore.open(path)
      for (const outcome of [await ministoreProcess(['append', path], '1\n'), await ministore(['repair', path, '--write'])]) {
        expect(outcome).toMatchObject({ code: 1, stdout: '' })
        expect(outcome.stderr).toContain(`Process ${process.pid} (`)
        expect(outcome.stderr, 'its words are separated, and nothing follows them').toMatch(/ \([^\\]*[^ \\]\) holds the lock\. Stop it first\.\n$/)
      }
      const inspected = JSON.parse((await ministore(['inspect', path, '--json'])).stdout) as { lock: unknown }
      expect(inspected.lock).toMatchObject({ state: 'held', holder: { pid: process.pid } })
      await store.close()
      expect(JSON.parse((await ministore(['inspect', path, '--json'])).stdout)).toMatchObject({
        lock: { state: 'free' },
      })
    },
  )

  test.runIf(process.platform === 'linux')('says so too when the lock file was removed: the segment is locked', async () => {
    const path = await emptyPath()
    const store = await MiniStore.open(path)
    await unlink(`${path}.lock`)
    expect(JSON.parse((await ministore(['inspect', path, '--json'])).stdout)).toMatchObject({
      lock: { state: 'held', holder: { pid: process.pid } },
    })
    const outcome = await ministore(['append', path], '1\n')
    expect(outcome).toMatchObject({ code: 1, stdout: '' })
    expect(outcome.stderr).toContain(`Process ${process.pid} (`)
    await store.close()
  })

  test('on a full disk says so, and every record it counts is there', async (context) => {
    if (noTmpfs !== undefined) context.skip(noTmpfs)
    const volume = await Volume.inMemory(1)
    const path = join(volume.directory, 'journal.jsonl')
    const input = Array.from({ length: 300 }, () => `"${'x'.repeat(10_000)}"\n`).join('')
    const outcome = await ministore(['append', path], input)
    expect(outcome.code).toBe(1)
    expect(outcome.stderr).toContain('ENOSPC')
    const last = Number(/the last has sequence (\d+)/.exec(outcome.stderr)?.[1])
    expect(last).toBeGreaterThan(50)
    const verified = JSON.parse((await ministore(['verify', path, '--json'])).stdout) as {
      lastSequence: number
    }
    expect(verified).toMatchObject({ isSound: true, lastSequence: last, torn: null })
  })
})

describe('compact', () => {
  test('shows what would be deleted, and deletes it with --write', async () => {
    const path = await journal()
    const before = await contents(path)
    const plan = await ministore(['compact', path, '--before', '6'])
    expect(plan.code).toBe(0)
    expect(plan.stdout).toContain('Would delete 3 records in 1 segment, 60 B.')
    expect(await contents(path)).toEqual(before)
    const done = await ministore(['compact', path, '--before', '7', '--write', '--json'])
    expect(JSON.parse(done.stdout)).toMatchObject({
      isWritten: true,
      firstSequence: 7,
      removed: [{ file: 'journal.jsonl.001' }, {}],
    })
    expect((await ministore(['cat', path])).stdout).toBe('7\n8\n')
    expect((await ministore(['compact', path, '--before', '9', '--write'])).stdout).toContain(
      'Nothing to delete',
    )
  })

  test('refuses a missing sequence number and one beyond the next', async () => {
    const path = await journal()
    expect(await ministore(['compact', path])).toMatchObject({ code: 2 })
    expect((await ministore(['compact', path, '--before', '10'])).stderr).toContain('at most 9')
  })
})

describe('repair', () => {
  test('without --write only says what stops it and which ways stay', async () => {
    const path = await damagedJournal()
    const before = await contents(path)
    const { code, stdout } = await ministore(['repair', path])
    expect(code).toBe(1)
    expect(stdout.split('\n').slice(1)).toEqual([
      expect.stringMatching(/^journal\.jsonl\.002 +3 +70 +5 +no +the line is not JSON: /),
      '',
      'Nothing was changed.',
      'Repair drops no line.',
      '',
      `ministore cat --salvage ${path} | ministore append NEW`,
      '  copies every good record into a new journal, with new sequence numbers',
      '',
      `ministore repair ${path} --truncate-at 5 --write`,
      '  lost   records 5 to 8',
      '  stay   4 records (1 to 4)',
      '  files  changed: journal.jsonl.002',
      '  files  removed: journal.jsonl',
      '',
    ])
    expect(JSON.parse((await ministore(['repair', path, '--json'])).stdout)).toMatchObject({
      isSound: false,
      findings: [],
      obstacle: { segment: 'journal.jsonl.002', sequence: 5 },
      cut: { first: 5, last: 8 },
    })
    expect(await contents(path)).toEqual(before)
  })

  test('never drops a line: its errors name the ways that stay', async () => {
    const path = await damagedJournal()
    const before = await contents(path)
    for (const [args, code] of [
      [['--write'], 1],
      [['--write', '--json'], 1],
      [['--drop-damaged'], 2],
      [['--drop-damaged', '--write'], 2],
    ] as const) {
      const refused = await ministore(['repair', path, ...args])
      expect(refused, args.join(' ')).toMatchObject({ code, stdout: '' })
      expect(refused.stderr).toContain(`ministore cat --salvage ${path} | ministore append NEW`)
      expect(refused.stderr).toMatch(/--truncate-at SEQ|a cut would remove: ministore repair /)
    }
    expect(await contents(path)).toEqual(before)
  })

  test('with a sequence number that is no cut is misuse, and changes nothing', async () => {
    const path = await damagedJournal()
    const before = await contents(path)
    for (const sequence of ['1', '7', '10', 'x']) {
      for (const more of [[], ['--write']]) {
        const args = ['repair', path, '--truncate-at', sequence, ...more]
        expect(await ministore(args), args.join(' ')).toMatchObject({ code: 2, stdout: '' })
      }
    }
    expect(await contents(path)).toEqual(before)
  })

  test('cuts, keeps copies, reports the loss to programs, and leaves a sound journal', async () => {
    const path = await damagedJournal()
    const before = await contents(path)
    const { code, stdout } = await ministore(['repair', path, '--truncate-at', '5', '--write', '--json'])
    expect(code).toBe(0)
    expect(JSON.parse(stdout)).toEqual({
      isSound: true,
      isWritten: true,
      isVerified: true,
      damageCount: 0,
      journal: path,
      truncateAt: 5,
      findings: [],
      obstacle: null,
      cut: { first: 5, last: 8 },
      changedFiles: ['journal.jsonl.002'],
      removedFiles: ['journal.jsonl'],
      firstSequence: 1,
      lastSequence: 4,
      recordsLeft: 4,
      snapshotsAhead: [],
      copies: ['journal.jsonl.broken', 'journal.jsonl.002.broken', 'journal.jsonl.seal.broken'],
    })
    expect((await contents(path)).get('journal.jsonl.002.broken')).toBe(before.get('journal.jsonl.002'))
    expect((await ministore(['cat', path])).stdout).toBe('1\n2\n3\n4\n')
    expect((await ministore(['append', path], '9\n')).stdout).toBe('5\n')
    expect(await ministore(['repair', path])).toEqual({ code: 0, stdout: 'There is nothing to repair.\n', stderr: '' })
    expect(await ministore(['repair', path, '--write'])).toEqual({
      code: 0,
      stdout: 'There is nothing to repair; nothing was changed.\n',
      stderr: '',
    })
  })

  test('the way that copies the good records into a new journal works', async () => {
    const path = await damagedJournal()
    const copy = await emptyPath()
    const { stdout } = await ministore(['cat', '--salvage', path])
    await ministore(['append', copy], stdout)
    expect((await ministore(['cat', copy])).stdout).toBe('1\n2\n3\n4\n6\n7\n8\n')
  })

  test('rebuilds headers without losing anything', async () => {
    const path = await journal()
    await replaceIn(path, 'prev', 'perv')
    const { stdout } = await ministore(['repair', path])
    expect(stdout).toMatch(/^journal\.jsonl +1 +0 +7 +yes +the checksum in its header is not that of journal\.jsonl\.002/m)
    expect(stdout).toContain(`\n\nministore repair ${path} --write\n  lost   nothing that is there\n  stay   8 records (1 to 8)\n`)
    expect(await ministore(['repair', path, '--write'])).toMatchObject({ code: 0 })
    expect((await ministore(['cat', path])).stdout).toBe('1\n2\n3\n4\n5\n6\n7\n8\n')
  })

  test('puts a missing header before the first record, which keeps its number', async () => {
    const path = await emptyPath()
    const lines = '{"id":1}\n{"id":2}\n{"id":3}\n'
    await addBytes(path, lines)
    const { code, stdout } = await ministore(['repair', path, '--write', '--json'])
    expect(code).toBe(0)
    expect(JSON.parse(stdout)).toMatchObject({
      findings: [{ line: 1, reason: containing('its header is missing: line 1 is a record') }],
      cut: null,
      recordsLeft: 3,
    })
    expect((await ministore(['cat', path])).stdout).toBe(lines)
  })

  test('reports records that were already missing', async () => {
    const path = await journal()
    await replaceIn(path, '\n8\n', '\n')
    expect((await ministore(['repair', path])).stdout).toContain('the seal covers 72 bytes, but only the first 70 are there')
    const { code, stdout } = await ministore(['repair', path, '--write'])
    expect(code).toBe(0)
    expect(stdout).toMatch(/\n\nDone:\n {2}lost {3}nothing that is there\n {2}stay {3}7 records .*\n {2}kept .*\n\nok: verified, the journal is sound\n$/)
  })

  test('does not treat a journal of another codec as damaged throughout', async () => {
    const path = await emptyPath()
    await writeSegment(path, '// MINISTORE JOURNAL v0.3.0 seq=1 id=5c1e9a70b2f4d833', ['no', 'json', 'here'])
    const { code, stdout } = await ministore(['repair', path])
    expect(code).toBe(1)
    expect(stdout).toContain('If the records are not JSON, add --no-json.')
    expect(stdout, 'a cut would leave nothing').not.toContain('--truncate-at')
    await addBytes(path, '\0\n"more"\n')
    expect((await ministore(['repair', path, '--no-json'])).stdout, 'append takes JSON').not.toContain('append')
    expect(await ministore(['repair', path, '--truncate-at', '4', '--no-json', '--write'])).toMatchObject({ code: 0 })
    expect((await ministore(['cat', path, '--no-json'])).stdout).toBe('no\njson\nhere\n')
  })

  test('prints commands that can be pasted into a shell, whatever the path', async () => {
    const directory = await temporaryDirectory()
    for (const [name, word] of [
      ['a b.jsonl', `'${directory}/a b.jsonl'`],
      ["q'uote.jsonl", `'${directory}/q'\\''uote.jsonl'`],
    ] as const) {
      const path = join(directory, name)
      await writeSegment(path, '// MINISTORE JOURNAL v0.3.0 seq=1 id=5c1e9a70b2f4d833', ['1', 'x', '3'])
      expect((await ministore(['repair', path])).stdout).toContain(`ministore repair ${word} --truncate-at 2 --write\n`)
      expect((await ministore(['repair', path, '--write'])).stderr).toContain(`: ministore repair ${word}\n`)
      expect((await ministore(['verify', path])).stdout).toContain(`: ministore repair ${word}\n`)
      expect((await ministore(['cat', path])).stderr).toContain(
        `ministore verify ${word}. To repair it: ministore repair ${word}\n`,
      )
    }
  })

  test('that leaves damage behind says so, with exit code 1', async () => {
    const path = await damagedJournal()
    const renameAsEver = nodeFileSystem.rename.bind(nodeFileSystem)
    const spy = vi.spyOn(nodeFileSystem, 'rename').mockImplementation(async (from, to) => {
      await renameAsEver(from, to)
      if (to === path) await addBytes(path, 'bad\n8\n')
    })
    onTestFinished(() => spy.mockRestore())
    const { code, stdout } = await ministore(['repair', path, '--truncate-at', '5', '--write'])
    expect(code).toBe(1)
    expect(stdout).toMatch(new RegExp(`\n\ndamage left in \\d+ places?: ministore verify ${path}\n$`))
  })

  test('interrupted after changing the journal reports its changes, and that they are not verified', async () => {
    const text = await damagedJournal()
    const told = await interruptedRepair([text, '--truncate-at', '5', '--write'], text)
    expect(told).toMatchObject({ code: 130, stderr: '' })
    expect(told.stdout).toMatch(/Done:\n {2}lost {3}records 5 to 8\n(.*\n)* {2}kept /)
    expect(told.stdout).toContain(`\nNot verified: ministore verify ${text}\n`)
    expect((await ministore(['cat', text])).stdout).toBe('1\n2\n3\n4\n')

    const json = await damagedJournal()
    const { code, stdout, stderr } = await interruptedRepair([json, '--truncate-at', '5', '--write', '--json'], json)
    expect({ code, stderr }).toEqual({ code: 130, stderr: '' })
    expect(JSON.parse(stdout)).toMatchObject({
      isWritten: true,
      isVerified: false,
      isSound: null,
      damageCount: null,
      cut: { first: 5, last: 8 },
    })
  })

  test('says what a cut of a sound journal will do', async () => {
    const path = await journal()
    const plan = await ministore(['repair', path, '--truncate-at', '8'])
    expect(plan).toEqual({
      code: 1,
      stdout: [
        'There is no damage before the cut.',
        '',
        'Nothing was changed.',
        '',
        `ministore repair ${path} --truncate-at 8 --write`,
        '  lost   record 8',
        '  stay   7 records (1 to 7)',
        '  files  changed: journal.jsonl',
        '',
      ].join('\n'),
      stderr: '',
    })
    const nothingLeft = await ministore(['repair', path, '--truncate-at', '1'])
    expect([nothingLeft.code, nothingLeft.stderr]).toEqual([2, containing('got 1: it would leave no record\nTry: ')])
  })

  test('that cannot begin does not advise the same command again, and creates nothing', async () => {
    const directory = await temporaryDirectory()
    const { code, stderr } = await ministore(['repair', join(directory, 'no', 'journal.jsonl'), '--write'])
    expect([code, stderr]).toEqual([1, expect.stringMatching(/^ministore: There is no journal at .*\n$/)])
    expect(await readdir(directory)).toEqual([])
  })

  test('on a full disk changes nothing', async (context) => {
    if (noTmpfs !== undefined) context.skip(noTmpfs)
    const volume = await Volume.inMemory(1)
    const path = join(volume.directory, 'journal.jsonl')
    await writeJournal(path, [['x'.repeat(700_000), 1]])
    await addBytes(path, 'bad\n2\n')
    const before = await contents(path)
    const outcome = await ministore(['repair', path, '--truncate-at', '3', '--write'])
    expect(outcome.code).toBe(1)
    expect(outcome.stderr).toContain('ENOSPC')
    expect(await contents(path)).toEqual(before)
  })
})

/** Runs the command in this process and interrupts it once the active segment has been replaced. */
async function interruptedRepair(args: readonly string[], active: string): Promise<Outcome> {
  const stop = new AbortController()
  const renameAsEver = nodeFileSystem.rename.bind(nodeFileSystem)
  const spy = vi.spyOn(nodeFileSystem, 'rename').mockImplementation(async (from, to) => {
    await renameAsEver(from, to)
    if (to === active) stop.abort(new Interrupted('SIGINT'))
  })
  onTestFinished(() => spy.mockRestore())
  const outcome = await ministore(['repair', ...args], { signal: stop.signal })
  spy.mockRestore()
  return outcome
}

test('the demo is one of the commands', async () => {
  expect((await ministore(['--help'])).stdout).toMatch(/^ {2}demo {2,}shows/m)
})
