import { execFile, fork, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, cp, mkdir, open, readdir, readFile, rm, stat, symlink, unlink, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { text as textOf } from 'node:stream/consumers'
import { promisify } from 'node:util'

import { describe, expect, onTestFinished, test } from 'vitest'

import { MiniStore } from '../../src/index.ts'
import { addBytes, numbers, writeJournal, writeSegment } from '../support/journals.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'
import { journal, main, ministore, type Outcome, outcomeOf, replaceIn, start, textUntil } from './run-command.ts'

const fixtures = join(import.meta.dirname, '../fixtures')

/** A copy of a fixture's journal: reading must not change it, and a repair would. */
async function fixture(name: string): Promise<string> {
  const directory = await temporaryDirectory()
  await cp(join(fixtures, name), directory, { recursive: true })
  return join(directory, 'journal.jsonl')
}

describe('cat', () => {
  test('prints the lines of every fixture as they are on the disk', async () => {
    for (const name of ['v0.2.0', 'rust-v0.1.0', 'rust-v0.1.4']) {
      const path = await fixture(name)
      const directory = join(path, '..')
      const names = (await readdir(directory)).filter((file) => /^journal\.jsonl(\.\d+)?$/.test(file))
      const order = names.toSorted(
        (left, right) => Number(left.slice(14) || 1e9) - Number(right.slice(14) || 1e9),
      )
      const texts = await Promise.all(order.map((file) => readFile(join(directory, file), 'utf8')))
      const lines = texts.map((text) => text.slice(text.indexOf('\n') + 1)).join('')
      expect(await ministore(['cat', path])).toEqual({ code: 0, stdout: lines, stderr: '' })
    }
  })

  test('preserves text that JSON.parse would change: large numbers, spaces, repeated keys', async () => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    const lines = ['1e400', '12345678901234567890', '{ "a" : 1, "a":2}', '"\u2028é🚀"', '-0']
    await writeSegment(path, '// MINISTORE JOURNAL v0.3.0 seq=1 id=5c1e9a70b2f4d833', lines)
    expect((await ministore(['cat', path])).stdout).toBe(`${lines.join('\n')}\n`)
    const numbered = await ministore(['cat', path, '--sequence', '--from', '1', '--to', '1'])
    expect(numbered.stdout).toBe('{"sequence":1,"record":1e400}\n')
  })

  test('accepts a range and a limit', async () => {
    const path = await journal()
    expect((await ministore(['cat', path, '--from', '3', '--to', '7'])).stdout).toBe('3\n4\n5\n6\n7\n')
    expect((await ministore(['cat', path, '--from', '3', '--limit', '2', '--sequence'])).stdout).toBe(
      '{"sequence":3,"record":3}\n{"sequence":4,"record":4}\n',
    )
    expect(await ministore(['cat', path, '--limit', '0'])).toEqual({ code: 0, stdout: '', stderr: '' })
    for (const [more, lines] of [[['--limit', '3'], '1\n2\n3\n'], [['--to', '2', '--limit', '3'], '1\n2\n'], [['--from', '7', '--to', '8', '--limit', '1'], '7\n'], [['--from', '8', '--limit', '9007199254740991'], '8\n']] as const) {
      expect(await ministore(['cat', path, ...more])).toEqual({ code: 0, stdout: lines, stderr: '' })
    }
    expect(await ministore(['cat', path, '--from', '5', '--to', '4'])).toMatchObject({ code: 2, stdout: '' })
  })

  test('ends at damage, or continues after it with --salvage; exit code 1 in both cases', async () => {
    const path = await journal()
    await replaceIn(`${path}.002`, '\n5\n', '\nx\u001B\n')
    // The file, whose lines a checksum covers, is printed up to the end of the segment with the damage.
    const covered = await ministore(['cat', path])
    expect(covered).toMatchObject({ code: 1, stdout: '1\n2\n3\n4\nx\u001B\n6\n' })
    expect(covered.stderr).toContain(' is damaged at journal.jsonl.002: it has changed since it was sealed (wrong checksum)')
    expect(covered.stderr).toContain('To see all damage: ministore verify')
    // A range that ends before the checksum is parsed, and so is each line with one of these options.
    for (const more of [['--to', '6'], ['--limit', '6'], ['--sequence'], ['--json']]) {
      const stopped = await ministore(['cat', path, ...more])
      const four = numbers(1, 4).map((n) => (more[0] === '--sequence' ? `{"sequence":${n},"record":${n}}\n` : `${n}\n`))
      expect(stopped, more.join(' ')).toMatchObject({ code: 1, stdout: four.join('') })
      expect(stopped.stderr).toMatch(more[0] === '--json' ? /"line":3,"offset":70/ : / is damaged at journal\.jsonl\.002, line 3, offset 70, sequence 5: the line is not JSON: /)
    }
    const salvaged = await ministore(['cat', path, '--salvage'])
    expect(salvaged).toMatchObject({ code: 1, stdout: '1\n2\n3\n4\n6\n7\n8\n' })
    expect(salvaged.stderr).toMatch(
      /^damage: journal\.jsonl\.002, line 3, offset 70, sequence 5: the line is not JSON: /,
    )
    expect(salvaged.stderr, 'text from a file cannot control a terminal').not.toContain('\u001B')
    const [first = ''] = (await ministore(['cat', path, '--salvage', '--json'])).stderr.split('\n')
    expect(JSON.parse(first)).toMatchObject({
      damage: { segment: 'journal.jsonl.002', line: 3, sequence: 5 },
    })
  })

  test('prints lines of another codec with --no-json', async () => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    await writeSegment(path, '// MINISTORE JOURNAL v0.3.0 seq=1 id=5c1e9a70b2f4d833', ['not json', 'neither'])
    expect(await ministore(['cat', path])).toMatchObject({ code: 1, stdout: '' })
    expect(await ministore(['cat', path, '--no-json'])).toMatchObject({
      code: 0,
      stdout: 'not json\nneither\n',
    })
    expect((await ministore(['cat', path, '--no-json', '--sequence', '--limit', '1'])).stdout).toBe(
      '{"sequence":1,"record":"not json"}\n',
    )
  })

  test('ends quietly with exit code 0 when its output is closed, and stops reading', async () => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    await writeJournal(path, [
      Array.from({ length: 2000 }, (_, index) => ({ index, text: 'x'.repeat(1000) })),
    ])
    // Reading past the first records would report an error.
    const handle = await open(path, 'r+')
    await handle.write('\0', 1_500_000)
    await handle.close()
    const child = start(['cat', path])
    await once(child.stdout, 'readable')
    child.stdout.destroy()
    const [code] = (await once(child, 'exit')) as [number]
    expect([code, child.stderr.read()]).toEqual([0, null])
  })

  test('fails when its output cannot be written', async (context) => {
    const full = await stat('/dev/full').catch(() => undefined)
    if (full === undefined) context.skip('there is no /dev/full here')
    const path = await journal()
    const { code, stderr } = await shell(`"$NODE" "$MAIN" cat "$JOURNAL" > /dev/full`, path)
    expect(code).toBe(1)
    expect(stderr).toContain('ENOSPC')
  })

  test.each(['cat', 'tail', 'inspect', 'verify', 'repair', 'compact'])(
    '%s of a missing journal says so and creates nothing',
    async (name) => {
      const directory = await temporaryDirectory()
      const more = name === 'compact' ? ['--before', '1'] : []
      const outcome = await ministore([name, join(directory, 'no.jsonl'), ...more])
      expect(outcome).toMatchObject({ code: 1, stdout: '' })
      expect(outcome.stderr).toContain('There is no journal at')
      expect(await readdir(directory)).toEqual([])
    },
  )

  test.skipIf(process.platform === 'win32').each(['cat', 'tail', 'inspect', 'verify', 'repair', 'append'])(
    '%s refuses at once a FIFO in place of the seal or of a sealed segment',
    async (name) => {
      for (const ending of ['.seal', '.001']) {
        const path = await journal()
        await unlink(path + ending)
        await promisify(execFile)('mkfifo', [path + ending])
        const outcome = await ministore([name, path])
        expect(outcome.code, ending).toBe(1)
        expect(outcome.stderr).toContain(`${path}${ending} is a FIFO, expected a regular file`)
      }
    },
  )

  test('and other commands treat an empty file as an empty journal, as a crash may leave it', async () => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    await writeFile(path, '')
    for (const name of ['cat', 'tail', 'inspect', 'verify', 'repair']) {
      expect(await ministore([name, path]), name).toMatchObject({ code: 0, stderr: '' })
    }
    expect(await readFile(path, 'utf8')).toBe('')
  })
})

describe('tail', () => {
  test('prints the last records, with their numbers on request', async () => {
    const path = await journal()
    expect((await ministore(['tail', path])).stdout).toBe('1\n2\n3\n4\n5\n6\n7\n8\n')
    expect((await ministore(['tail', '-n', '3', path, '--sequence'])).stdout).toBe(
      '{"sequence":6,"record":6}\n{"sequence":7,"record":7}\n{"sequence":8,"record":8}\n',
    )
    expect((await ministore(['tail', '-n', '0', path])).stdout).toBe('')
  })

  test('prints all records of a journal that has fewer than requested, wherever it begins', async () => {
    const path = await journal()
    await using store = await MiniStore.open(path)
    await store.truncateBefore(7)
    expect(await ministore(['tail', path, '-n', '5'])).toEqual({ code: 0, stdout: '7\n8\n', stderr: '' })
    expect(await ministore(['tail', path, '-n', '3', '--sequence'])).toMatchObject({
      code: 0,
      stdout: '{"sequence":7,"record":7}\n{"sequence":8,"record":8}\n',
    })
    await store.rotate()
    await store.truncateBefore(9)
    expect(await ministore(['tail', path]), 'emptied').toEqual({ code: 0, stdout: '', stderr: '' })
  })

  test('does not count a torn tail, with or without a line feed', async () => {
    for (const end of ['9', '\0\n', '\n']) {
      const path = await journal()
      await addBytes(path, end)
      expect(await ministore(['tail', '-n', '1', path]), JSON.stringify(end)).toEqual({
        code: 0,
        stdout: '8\n',
        stderr: '',
      })
    }
  })

  test('does not read earlier segments', async () => {
    const path = await journal()
    // A long hole after the header of a segment: reading the segment would report damage.
    const handle = await open(`${path}.002`, 'r+')
    await handle.truncate(2 ** 34)
    await handle.close()
    expect(await ministore(['tail', '-n', '2', path])).toEqual({ code: 0, stdout: '7\n8\n', stderr: '' })
  })

  test('follows a writer in another process across rotation; Ctrl-C ends it with 0', async () => {
    const path = await journal()
    const child = start(['tail', '-n', '1', '-f', path])
    expect(await textUntil(child.stdout, '8\n')).toBe('8\n')
    await using store = await MiniStore.open<number>(path)
    for (const record of numbers(9, 30)) {
      if (record % 5 === 0) await store.rotate()
      await store.append(record)
    }
    expect(await textUntil(child.stdout, '30\n')).toBe(`${numbers(9, 30).join('\n')}\n`)
    child.kill('SIGINT')
    expect(await outcomeOf(child)).toEqual({ code: 0, stdout: '', stderr: '' })
  })

  test('follows from the next record with -n 0', async () => {
    const path = await journal()
    const child = start(['tail', '-n', '0', '-f', path, '--sequence'])
    await using store = await MiniStore.open<string>(path)
    // The follower may not be watching yet: its first output shows where it started.
    const seen = textUntil(child.stdout, '\n')
    const state = { isSeen: false }
    const done = seen.finally(() => (state.isSeen = true))
    for (let record = 9; !state.isSeen; record++) {
      await store.append('new')
      await new Promise(setImmediate)
    }
    expect(await done).toMatch(/^\{"sequence":\d+,"record":"new"\}\n/)
  })
})

const isWindows = process.platform === 'win32'

/** Every command with its required words, grouped by argument: a journal path or a directory. */
const journalCommands = [
  'append', 'cat', 'cat --salvage', 'tail', 'tail -f', 'grep x', 'inspect', 'inspect --quick', 'verify', 'repair', 'repair --write',
  'repair --truncate-at 2 --write', 'repair --truncate-at 1', 'compact --before 1', 'compact --before 1 --write',
  'replicate /dev/null/copy.jsonl',
]
const directoryCommands = ['stats', 'queue', 'queue . peek', 'queue . dead', 'queue . redrive all', 'queue . discard 1']

/** What may be in place of a journal or a directory, and the message about it. */
const places: ReadonlyArray<readonly [kind: string, make: (path: string) => Promise<unknown>, said: RegExp]> = [
  ['a FIFO', (path) => promisify(execFile)('mkfifo', [path]), / is a FIFO, expected a regular file$|ENOTDIR/],
  ['a device', deviceAt, / is a character device, expected a regular file$|ENOTDIR/],
  ['a socket', socketAt, / is a socket, expected a regular file$|ENOTDIR/],
  ['a directory', (path) => mkdir(path), /directory|There is no (?:state|queue) in/],
  ['nothing', async () => {}, /There is no (?:journal at|state in|queue in)/],
  ['a link that leads nowhere', (path) => symlink('nowhere', path), /leads nowhere|There is no (?:state|queue) in/],
  ['a link to itself', (path) => symlink(path, path), /ELOOP/],
  ['a text', (path) => writeFile(path, 'hello\nworld\n'), /got "hello"|ENOTDIR/],
  ['bytes', (path) => writeFile(path, '\x89PNG\r\n\x1A\n\0\0\xFF\xFE'), /got ".*PNG\\?r?"|ENOTDIR/],
]

/** As root, makes a device node of its own, because an error here could replace the real one. */
async function deviceAt(path: string): Promise<void> {
  if (process.getuid?.() === 0) await promisify(execFile)('mknod', [path, 'c', '1', '5'])
  else await symlink('/dev/zero', path)
}

/** Listens at this path until the test has finished. */
async function socketAt(path: string): Promise<void> {
  const server = createServer().listen(path)
  await once(server, 'listening')
  onTestFinished(() => void server.close())
}

/** Expects one line that names the path, optionally a line of advice, and never a stack. */
function expectOneLine(
  { code, stdout, stderr }: Outcome,
  { place, said }: { readonly place: string; readonly said: RegExp },
): void {
  expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
  expect(stderr).toMatch(/^ministore: .*\n(?:To see all damage: .*\n)?$/)
  expect(stderr.split('\n')[0]).toMatch(said)
  // For a link to a device, the message names the target.
  if (!stderr.includes('/dev/zero')) expect(stderr).toContain(place)
}

async function kindsIn(directory: string): Promise<string[]> {
  const entries = await readdir(directory, { withFileTypes: true })
  return entries.map((entry) => `${entry.name}: ${[entry.isFIFO(), entry.isCharacterDevice(), entry.isSocket(), entry.isSymbolicLink(), entry.isFile()].join()}`)
}

describe.skipIf(isWindows)('an error reports something other than a journal in one line, and nothing is changed', () => {
  const cases = places.flatMap(([kind, make, said]) => [
    ...journalCommands.map((words) => ({ words, kind, make, said, isDirectory: false })),
    ...directoryCommands.map((words) => ({ words, kind, make, said, isDirectory: true })),
  ])

  test.each(cases)('$words of $kind', async ({ words, kind, make, said, isDirectory }) => {
    const directory = await temporaryDirectory()
    const [command = '', ...more] = words.split(' ')
    // A state's or queue's directory may be wrong itself, or hold something other than a journal.
    for (const name of isDirectory ? ['state', 'journal.jsonl'] : ['journal.jsonl']) {
      const place = join(directory, name)
      await make(place)
      const argument = name === 'state' || !isDirectory ? place : directory
      const rest = more.filter((word) => word !== '.')
      const args = command === 'grep' ? [command, ...rest, argument] : [command, argument, ...rest]
      const before = await kindsIn(directory)
      const tellsDamage = /^(?:inspect|verify|repair|cat --salvage)/.test(words) && (kind === 'a text' || kind === 'bytes')
      const makesOne = command === 'append' && kind === 'nothing'
      const outcome = await ministore(args)
      if (makesOne) expect(outcome).toEqual({ code: 0, stdout: '0\n', stderr: '' })
      else if (tellsDamage) expect(outcome.stdout + outcome.stderr).not.toMatch(/^ +at /m)
      else expectOneLine(outcome, { place: isDirectory ? directory : place, said })
      // Neither cut is possible here, because line 2 is damaged.
      const isMisuse = tellsDamage && words.includes('--truncate-at')
      expect(outcome.code).toBe(makesOne ? 0 : isMisuse ? 2 : 1)
      if (makesOne) return
      const json = await ministore([...args, '--json'])
      expect(json.code).toBe(outcome.code)
      for (const line of `${json.stdout}${json.stderr}`.split('\n').slice(0, -1)) expect(JSON.parse(line)).toBeTypeOf('object')
      // A writer takes the lock before it reads.
      const after = (await kindsIn(directory)).filter((entry) => !entry.startsWith('journal.jsonl.lock'))
      expect(after).toEqual(before)
      await rm(place, { recursive: true, force: true })
    }
  })

  test('as of an unreadable journal, or a journal in an unreadable directory', async (context) => {
    for (const [locked, mode] of [['journal.jsonl', 0o000], ['.', 0o000]] as const) {
      const directory = await temporaryDirectory()
      const path = join(directory, 'journal.jsonl')
      await writeJournal(path, [numbers(1, 3)])
      onTestFinished(() => chmod(directory, 0o700))
      await chmod(directory, 0o755)
      await chmod(join(directory, locked), mode)
      const calls = [
        // `replicate` takes the journal before its other argument.
        ...journalCommands.filter((words) => !words.startsWith('replicate')).map((words) => [...words.split(' '), path]),
        ...directoryCommands.map((words) => words.split(' ').map((word) => (word === '.' ? directory : word))),
      ].map((call) => (call.length === 1 ? [...call, directory] : call))
      const outcomes = (await withoutRights(calls)) ?? context.skip(`a process of user ${unprivilegedUser} could not be run`)
      for (const [at, outcome] of outcomes.entries()) {
        const call = calls[at]?.join(' ') ?? ''
        expect(outcome, call).toMatchObject({ code: 1, stdout: '' })
        expect(outcome.stderr, call).toMatch(/^ministore: .*EACCES: permission denied.*\n$/)
        expect(outcome.stderr, call).toContain(directory)
      }
      expect(outcomes).toHaveLength(calls.length)
    }
  })
})

/**
 * Runs commands without root's rights: in this process, or in a child process if this one runs as
 * root. Resolves with undefined if no such process can be started.
 */
async function withoutRights(calls: ReadonlyArray<readonly string[]>): Promise<Outcome[] | undefined> {
  if (process.getuid?.() !== 0) {
    const outcomes: Outcome[] = []
    for (const args of calls) outcomes.push(await ministore(args))
    return outcomes
  }
  const script = join(import.meta.dirname, '../support/unprivileged-command.js')
  const child = fork(script, [String(unprivilegedUser), JSON.stringify(calls)], { execArgv: [] })
  const messages: Outcome[][] = []
  child.on('message', (message) => messages.push(message as Outcome[]))
  await once(child, 'exit')
  return messages[0]
}

/** The id of a user without rights and without files. */
const unprivilegedUser = 65_534

async function shell(script: string, path: string): Promise<{ code: number | null; stderr: string }> {
  const child = spawn('sh', ['-c', script], {
    env: { ...process.env, NODE: process.execPath, MAIN: main, JOURNAL: path },
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  const [stderr, [code]] = await Promise.all([
    textOf(child.stderr),
    once(child, 'close') as Promise<[number | null]>,
  ])
  return { code, stderr }
}
