import { execFileSync, fork } from 'node:child_process'
import { once } from 'node:events'
import { chmod, copyFile, mkdir, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

import { describe, expect, onTestFinished, test, type TestContext } from 'vitest'

import { MiniStore } from '../../src/index.ts'
import { collect, outcomeOf } from '../support/consume.ts'
import { numbers, writeJournal, writeSegment } from '../support/journals.ts'
import { ObservedFileSystem } from '../support/observed-file-system.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'

const header = '// MINISTORE JOURNAL v0.3.0 seq=1 id=5c1e9a70b2f4d833'
const journalPath = async (): Promise<string> => join(await temporaryDirectory(), 'journal.jsonl')

describe('every webhook payload that GitHub publishes', () => {
  const events = createRequire(import.meta.url)('@octokit/webhooks-examples') as ReadonlyArray<{
    readonly name: string
    readonly examples: readonly unknown[]
  }>
  const payloads = events.flatMap(({ name, examples }) => examples.map((payload) => ({ name, payload })))
  const lines = payloads.map((payload) => JSON.stringify(payload))

  test('is available for the tests: hundreds, some of them large', () => {
    expect(payloads.length).toBeGreaterThan(200)
    expect(Math.max(...lines.map((line) => line.length))).toBeGreaterThan(20_000)
    console.log(`${payloads.length} payloads, ${lines.join('').length} characters`)
  })

  test.each([
    { name: 'one by one in one segment', options: {}, isOneByOne: true },
    { name: 'one by one through many rotations', options: { maxBytesPerSegment: 100_000 }, isOneByOne: true },
    { name: 'all at once', options: {}, isOneByOne: false },
  ])(
    'reads back unchanged, and its line on disk is its JSON: $name',
    async ({ options, isOneByOne }) => {
      const path = await journalPath()
      const store = await MiniStore.open(path, options)
      if (isOneByOne) for (const payload of payloads) await store.append(payload)
      else await store.appendAll(payloads)
      const files = store.segments.map((segment) => segment.path)
      await store.close()
      if (options.maxBytesPerSegment !== undefined) expect(files.length).toBeGreaterThan(10)
      const onDisk = (await Promise.all(files.map((file) => readFile(file, 'utf8')))).flatMap((text) =>
        text.split('\n').slice(1, -1),
      )
      expect(onDisk).toEqual(lines)
      const read = await collect(MiniStore.stream(path))
      expect(read.map((record) => JSON.stringify(record))).toEqual(lines)
      await using again = await MiniStore.open(path)
      expect((await again.replay()).map((record) => JSON.stringify(record))).toEqual(lines)
    },
  )
})

describe('JSON at its edges', () => {
  const nested = (levels: number, innermost: unknown): unknown => {
    let value = innermost
    for (let level = 0; level < levels; level++) value = level % 2 === 0 ? [value] : { a: value }
    return value
  }

  test.each<{ name: string; record: unknown }>([
    { name: 'a thousand levels of nesting', record: nested(1000, 'deep') },
    { name: 'lone surrogates', record: { '\ud83d': '\ude00 \udbff', list: ['\ud800\ud800'] } },
    { name: 'line and paragraph separators', record: 'a\u2028b\u2029c\u0085d' },
    { name: 'every control character', record: String.fromCodePoint(...numbers(0, 0x1f), 0x7f, 0x80, 0x9f) },
    { name: 'characters of every length and plane', record: 'aé€😀\u{10ffff}\ufffe\uffff\ufffd' },
    { name: 'a byte order mark', record: '\uFEFFtext\uFEFF' },
    { name: 'text that looks like a header', record: '// MINISTORE JOURNAL v0.3.0 seq=1 id=5c1e9a70b2f4d833' },
    {
      name: 'the largest and the smallest numbers',
      record: [Number.MAX_VALUE, Number.MIN_VALUE, Number.MAX_SAFE_INTEGER, 5e-324],
    },
    {
      name: 'numbers that JSON cannot hold',
      record: [Number.NaN, Number.POSITIVE_INFINITY, undefined, () => 1],
    },
    {
      name: 'dates and objects with toJSON',
      record: { at: new Date(0), custom: { toJSON: () => 'custom' } },
    },
    { name: 'many keys', record: Object.fromEntries(numbers(1, 5000).map((n) => [`key ${n}`, n])) },
    { name: 'an empty key and empty values', record: { '': { '': [] } } },
  ])('round trips $name as JSON itself does', async ({ record }) => {
    const path = await journalPath()
    await writeJournal(path, [[record, 'next']])
    const line = JSON.stringify(record)
    expect((await readFile(path, 'utf8')).split('\n')[1]).toBe(line)
    const read = await MiniStore.replay(path)
    expect(JSON.stringify(read[0])).toBe(line)
    expect(read).toEqual([JSON.parse(line), 'next'])
  })

  test('-0 becomes 0, as in JSON.stringify; -0 in a file stays -0', async () => {
    const path = await journalPath()
    await writeJournal(path, [[-0]])
    expect(Object.is((await MiniStore.replay(path))[0], 0)).toBe(true)
    await writeSegment(path, header, ['-0'])
    await rm(`${path}.seal`)
    expect(Object.is((await MiniStore.replay(path))[0], -0)).toBe(true)
  })

  test('a key __proto__ is a key, not a prototype', async () => {
    const path = await journalPath()
    const record: unknown = JSON.parse(
      '{"__proto__":{"isAdmin":true},"constructor":{"prototype":{"isAdmin":true}}}',
    )
    await writeJournal(path, [[record]])
    const [read] = (await MiniStore.replay<Record<string, unknown>>(path)) as [Record<string, unknown>]
    expect(Object.keys(read)).toEqual(['__proto__', 'constructor'])
    expect(Object.getPrototypeOf(read)).toBe(Object.prototype)
    expect(read['isAdmin']).toBeUndefined()
    expect(({} as Record<string, unknown>)['isAdmin']).toBeUndefined()
    expect(JSON.stringify(read)).toBe(JSON.stringify(record))
  })

  test.each<{ line: string; record: unknown }>([
    { line: '1e400', record: Number.POSITIVE_INFINITY },
    { line: '{"a":1,"b":2,"a":3}', record: { a: 3, b: 2 } },
    { line: '18446744073709551615', record: 18446744073709552000 },
    { line: '  {"a" :\t1 }  ', record: { a: 1 } },
    { line: '"\\ud800"', record: '\ud800' },
    { line: '"\u2028"', record: '\u2028' },
    { line: '{"a":1}\r', record: { a: 1 } },
    { line: '1.0', record: 1 },
  ])('a line written by other programs, $line, is read like JSON.parse', async ({ line, record }) => {
    const path = await journalPath()
    await writeSegment(path, header, ['"before"', line, '"after"'])
    expect(await MiniStore.replay(path)).toEqual(['before', record, 'after'])
    await using store = await MiniStore.open(path)
    expect(await store.replay()).toEqual(['before', record, 'after'])
    expect(await store.append('more')).toBe(4)
  })

  test.each([
    '{"a":1}{"b":2}',
    "{'a':1}",
    '{"a":1,}',
    'undefined',
    'NaN',
    '"tab\there"',
    '\uFEFF1',
    '// comment',
    '[1',
  ])('a line that is not JSON, %s, is an error and yields no record', async (line) => {
    const path = await journalPath()
    await writeSegment(path, header, ['"before"', line, '"after"'])
    expect(await outcomeOf(MiniStore.stream(path))).toMatchObject({
      items: ['before'],
      error: { code: 'ERR_MINISTORE_CORRUPT', line: 3, sequence: 2 },
    })
  })

  test('names of journals may hold spaces, dots, percent signs, brackets and other alphabets', async () => {
    const directory = await temporaryDirectory()
    for (const name of [
      'a b',
      'no-extension',
      '.hidden',
      'x.001',
      '100% [a-z]*?',
      'журнал.jsonl',
      'it\'s "quoted"',
      '$(id)',
      'j.jsonl.seal',
    ]) {
      const path = join(directory, name, name)
      await writeJournal(path, [[1], [2]])
      expect(await MiniStore.replay(path), name).toEqual([1, 2])
      expect((await readdir(dirname(path))).toSorted()).toEqual(
        [name, `${name}.001`, `${name}.lock`, `${name}.seal`].toSorted(),
      )
    }
  })
})

describe('something other than a file in its place', () => {
  test.each(['journal.jsonl', 'journal.jsonl.001'])(
    'a directory called %s is an error that says so, and stays',
    async (name) => {
      const directory = await temporaryDirectory()
      const path = join(directory, 'journal.jsonl')
      if (name !== 'journal.jsonl') await writeJournal(path, [[1]])
      await mkdir(join(directory, name))
      await writeFile(join(directory, name, 'inside'), '')
      const failure = { name: 'MiniStoreError', code: 'ERR_MINISTORE_IO' }
      await expect(MiniStore.open(path)).rejects.toMatchObject(failure)
      await expect(MiniStore.open(path)).rejects.toThrow(/directory/)
      await expect(MiniStore.replay(path)).rejects.toMatchObject(failure)
      await expect(MiniStore.replay(path)).rejects.toThrow(/directory/)
      expect(await readdir(join(directory, name))).toEqual(['inside'])
    },
  )

  test('a directory where the lock should be is an error', async () => {
    const path = await journalPath()
    await mkdir(`${path}.lock`)
    await expect(MiniStore.open(path)).rejects.toMatchObject({
      code: 'ERR_MINISTORE_IO',
      message: `${path}.lock is a directory, expected a regular file`,
    })
  })

  test('a file where a directory of the path should be is an error', async () => {
    const directory = await temporaryDirectory()
    await writeFile(join(directory, 'file'), '')
    const path = join(directory, 'file/journal.jsonl')
    await expect(MiniStore.open(path)).rejects.toMatchObject({
      code: 'ERR_MINISTORE_IO',
      cause: { code: 'ENOTDIR' },
    })
    await expect(MiniStore.replay(path)).rejects.toMatchObject({ code: 'ERR_MINISTORE_IO' })
  })

  test('a file that is not a journal is refused and not changed', async () => {
    const path = await journalPath()
    for (const content of ['hello\n', '{"a":1}\n', '\n', 'no line feed', '// MINISTORE JOURNALS\n']) {
      await writeFile(path, content)
      await expect(MiniStore.open(path), content).rejects.toMatchObject({
        code: 'ERR_MINISTORE_CORRUPT',
        line: 1,
        offset: 0,
      })
      await expect(MiniStore.replay(path), content).rejects.toMatchObject({ code: 'ERR_MINISTORE_CORRUPT' })
      expect(await readFile(path, 'utf8')).toBe(content)
    }
  })

  test('a dangling link is an error for readers and writers, and stays', async () => {
    const directory = await temporaryDirectory()
    const path = join(directory, 'dangling.jsonl')
    await symlink(join(directory, 'nowhere'), path)
    const failure = { name: 'MiniStoreError', code: 'ERR_MINISTORE_IO' }
    await expect(MiniStore.replay(path)).rejects.toMatchObject(failure)
    await expect(MiniStore.open(path)).rejects.toMatchObject(failure)
    expect(await readdir(directory)).toEqual(['dangling.jsonl'])
  })

})

describe('symbolic links', () => {
  test('in the directories of the path lead to the same journal', async () => {
    const directory = await temporaryDirectory()
    await mkdir(join(directory, 'real/deep'), { recursive: true })
    await symlink('real', join(directory, 'link'))
    const [real, linked] = ['real', 'link'].map((name) => join(directory, name, 'deep/journal.jsonl')) as [
      string,
      string,
    ]
    await writeJournal(linked, [[1], [2]])
    await writeJournal(real, [[3]])
    expect(await MiniStore.replay(linked)).toEqual([1, 2, 3])
    expect(await MiniStore.replay(real)).toEqual([1, 2, 3])
    expect(await readdir(join(directory, 'real/deep'))).toContain('journal.jsonl.001')
  })

  test('to the file itself stay links across rotations: segments are beside the real file', async () => {
    const directory = await temporaryDirectory()
    await mkdir(join(directory, 'real'))
    const real = join(directory, 'real/events.jsonl')
    const linked = join(directory, 'journal.jsonl')
    await writeJournal(real, [[1]])
    await symlink('real/events.jsonl', linked)
    const store = await MiniStore.open<number>(linked)
    const live = store.stream({ follow: true, to: 3 })
    await store.append(2)
    await store.rotate()
    await store.append(3)
    expect(await collect(live)).toEqual([1, 2, 3])
    expect(store.path).toMatch(/real\/events\.jsonl$/)
    await store.close()
    expect((await readdir(directory)).toSorted()).toEqual(['journal.jsonl', 'real'])
    expect(await MiniStore.replay(linked)).toEqual([1, 2, 3])
    expect(await MiniStore.replay(real)).toEqual([1, 2, 3])
  })
})

describe('no permission', () => {
  test('to read or to write is ERR_MINISTORE_IO with EACCES as its cause', async (context) => {
    if (process.getuid?.() !== 0) {
      await expectRefusals(process.getuid?.() ?? 0, context)
      return
    }
    await expectRefusals(65_534, context)
  })

  async function expectRefusals(user: number, context: TestContext): Promise<void> {
    if (process.platform === 'win32') return skip(context, 'Windows has no file modes')
    const directory = await temporaryDirectory()
    // Another user must be able to reach the files that it is refused.
    await chmod(directory, 0o755)
    const [unreadable, readable, unlistable] = ['unreadable', 'readable', 'unlistable'].map((name) =>
      join(directory, name, 'journal.jsonl'),
    ) as [string, string, string]
    for (const path of [unreadable, readable, unlistable]) await writeJournal(path, [[1], [2]])
    await chmod(unreadable, 0o000)
    // Locking needs only an open file, so the lock file must be inaccessible too.
    await chmod(`${readable}.lock`, 0o444)
    await chmod(readable, 0o444)
    await chmod(dirname(readable), 0o555)
    await chmod(dirname(unlistable), 0o000)
    onTestFinished(async () => {
      await chmod(dirname(unlistable), 0o755)
      await chmod(dirname(readable), 0o755)
    })
    const script = fileURLToPath(new URL('../support/unprivileged.js', import.meta.url))
    const child = fork(script, [String(user), unreadable, readable, unlistable], {
      execArgv: [],
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    })
    const messages: unknown[] = []
    child.on('message', (message) => messages.push(message))
    const [code] = (await once(child, 'exit')) as [number | null]
    if (code !== 0 || messages.length === 0)
      return skip(context, `a process of user ${user} could not be run (exit code ${code})`)
    const refused = { code: 'ERR_MINISTORE_IO', cause: 'EACCES', isKnown: true }
    expect(messages).toMatchObject([
      [
        { replay: refused, open: refused },
        { replay: { result: [1, 2] }, open: refused },
        { replay: refused, open: refused },
      ],
    ])
  }
})

describe('a separate file system', () => {
  /** Mounts a small in-memory file system. Resolves with undefined and prints why if it cannot. */
  async function mountTmpfs(
    context: TestContext,
    size: string,
  ): Promise<{ directory: string; remount: (options: string) => void } | undefined> {
    if (process.platform !== 'linux' || process.getuid?.() !== 0) {
      skip(context, 'only root on Linux may mount a tmpfs')
      return undefined
    }
    const directory = await temporaryDirectory()
    const mount = (options: string): void => {
      execFileSync('mount', ['-t', 'tmpfs', '-o', options, 'tmpfs', directory], { stdio: 'pipe' })
    }
    try {
      mount(`size=${size}`)
    } catch (error) {
      skip(context, `mount failed: ${(error as Error).message}`)
      return undefined
    }
    onTestFinished(() => {
      execFileSync('umount', ['-l', directory])
    })
    return { directory, remount: (options) => mount(`remount,${options}`) }
  }

  test('that is read-only: readers read, writers are refused with EROFS', async (context) => {
    const tmpfs = await mountTmpfs(context, '1m')
    if (tmpfs === undefined) return
    const path = join(tmpfs.directory, 'journal.jsonl')
    await writeJournal(path, [[1], [2]])
    tmpfs.remount('ro')
    expect(await MiniStore.replay(path)).toEqual([1, 2])
    expect(await collect(MiniStore.stream(path))).toEqual([1, 2])
    await expect(MiniStore.open(path)).rejects.toMatchObject({
      code: 'ERR_MINISTORE_IO',
      cause: { code: 'EROFS' },
    })
    await expect(MiniStore.open(join(tmpfs.directory, 'new/journal.jsonl'))).rejects.toMatchObject({
      code: 'ERR_MINISTORE_IO',
      cause: { code: 'EROFS' },
    })
    tmpfs.remount('rw')
    await using store = await MiniStore.open(path)
    expect(store.lastSequence).toBe(2)
  })

  test('that is full: appends and rotations are refused, and work again when there is room', async (context) => {
    const tmpfs = await mountTmpfs(context, '256k')
    if (tmpfs === undefined) return
    const path = join(tmpfs.directory, 'journal.jsonl')
    const store = await MiniStore.open<string>(path)
    // From here on there is no seal. Its removal would make room for one more header.
    await store.append('in the first segment')
    await store.rotate()
    const ballast = join(tmpfs.directory, 'ballast')
    await writeFile(ballast, Buffer.alloc(100_000))
    const record = 'x'.repeat(30_000)
    let appended = 1
    const fill = async (): Promise<unknown> => {
      for (;;) {
        try {
          await store.append(record)
        } catch (error) {
          return error
        }
        expect(store.lastSequence).toBe(++appended)
      }
    }
    const full = { code: 'ERR_MINISTORE_IO', cause: { code: 'ENOSPC' } }
    expect(await fill()).toMatchObject(full)
    expect(appended).toBeGreaterThan(2)
    await expect(store.appendAll(['a', record])).rejects.toMatchObject(full)
    expect(await store.replay()).toHaveLength(appended)
    expect(
      (await outcomeOf(MiniStore.stream(path, { fileSystem: new ObservedFileSystem() }))).error,
    ).toBeUndefined()
    // Fills the remaining space to the last page, so that no new file gets any.
    await writeFile(join(tmpfs.directory, 'filler'), Buffer.alloc(200_000)).catch(() => {})
    await expect(store.rotate()).rejects.toMatchObject(full)
    expect(store.lastSequence).toBe(appended)
    await rm(join(tmpfs.directory, 'filler'))
    await rm(ballast)
    expect(await store.append('room again')).toBe(appended + 1)
    await store.rotate()
    await store.append('and on')
    await store.close()
    await using again = await MiniStore.open<string>(path)
    expect(again.recovery.torn).toBeUndefined()
    expect((await again.replay()).map((text) => text.length)).toEqual([
      20,
      ...numbers(2, appended).map(() => 30_000),
      10,
      6,
    ])
  })

  test('that is full when the store is closed: it opens again with every record', async (context) => {
    const tmpfs = await mountTmpfs(context, '64k')
    if (tmpfs === undefined) return
    const path = join(tmpfs.directory, 'journal.jsonl')
    const store = await MiniStore.open<string>(path)
    await store.append('one')
    await writeFile(join(tmpfs.directory, 'filler'), Buffer.alloc(100_000)).catch(() => {})
    await store.close()
    expect(await MiniStore.replay(path)).toEqual(['one'])
    await using again = await MiniStore.open<string>(path)
    expect(await again.replay()).toEqual(['one'])
  })

  test('that is full when a rotation begins: the failed rotation keeps the seal', async () => {
    const path = await journalPath()
    await writeJournal(path, [['one']])
    const fs = new ObservedFileSystem()
    const store = await MiniStore.open<string>(path, { fileSystem: fs })
    fs.hook = ({ operation, path: file }) => {
      if (operation !== 'open' || !file.endsWith('.next')) return
      throw Object.assign(new Error('ENOSPC: no space left on device, open'), { code: 'ENOSPC' })
    }
    await expect(store.rotate()).rejects.toMatchObject({
      code: 'ERR_MINISTORE_IO',
      cause: { code: 'ENOSPC' },
    })
    await store.close()
    expect(await readdir(dirname(path))).toContain('journal.jsonl.seal')
  })

  test('copied file by file opens elsewhere: nothing depends on inodes or on the lock file', async () => {
    const [from, to] = [await journalPath(), await journalPath()]
    await writeJournal(from, [[1, 2], [3], [4]])
    for (const name of await readdir(dirname(from))) {
      if (!name.endsWith('.lock')) await copyFile(join(dirname(from), name), join(dirname(to), name))
    }
    await using store = await MiniStore.open(to)
    expect(await store.replay()).toEqual([1, 2, 3, 4])
    expect(await store.append(5)).toBe(5)
  })
})

function skip(context: TestContext, reason: string): void {
  console.log(`skipped: ${reason}`)
  context.skip(reason)
}
