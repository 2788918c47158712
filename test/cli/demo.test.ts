import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { cp, mkdir, mkdtemp, readdir, readFile, rm, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { text } from 'node:stream/consumers'

import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'

import {
  checksOf, type Facts, followLive, isBundle, linesOf, loadExamples, type Part, planRecords, replayAll, replayToReport,
  show, type WebhookRecord,
} from '../../src/cli/commands/demo.ts'
import { Interrupted } from '../../src/cli/errors.ts'
import { Output } from '../../src/cli/output.ts'
import { MiniStore } from '../../src/index.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'
import { main, type Outcome, textUntil } from './run-command.ts'

const ROOT = join(import.meta.dirname, '../..')

/** Several times what it takes when two other test files run beside it. */
const TIMEOUT_MS = 120_000

const signal = new AbortController().signal

describe('the demo', () => {
  let directory: string
  let outcome: Outcome

  beforeAll(async () => {
    expect(existsSync(main), `${main} is missing: run \`npm run build\` first`).toBe(true)
    directory = await mkdtemp(join(tmpdir(), 'ministore-demo-test-'))
    await mkdir(join(directory, 'kept'))
    outcome = await outcomeOf(startDemo(join(directory, 'kept'), await wordsOfScript()))
  }, TIMEOUT_MS)

  afterAll(async () => {
    await rm(directory, { recursive: true, force: true })
  })

  test('ends with exit code 0 and says nothing on standard error', () => {
    expect(outcome.stderr).toBe('')
    expect(outcome.code, outcome.stdout).toBe(0)
  })

  test('has a check for each claim, one more for each torn tail that was kept, and none fails', () => {
    const lines = outcome.stdout.split('\n')
    expect(lines.filter((line) => line.includes('FAILED'))).toEqual([])
    const ok = lines.filter((line) => line.startsWith('   ok  '))
    expect(ok).toHaveLength(13 + evidenceTold().length)
    expect(outcome.stdout).toMatch(new RegExp(`All ${ok.length} checks are ok, after [\\d.]+ s\\.\\n$`))
  })

  test('kills at least three writers', () => {
    const kills = [...outcome.stdout.matchAll(/^ +(\d+) {2}.* {2}1 to \d+ /gm)].map(([, number]) => Number(number))
    expect(kills.length).toBeGreaterThanOrEqual(3)
    expect(kills).toEqual(kills.map((_, index) => index + 1))
  })

  test('is numbered steps of short lines, without colors where there is no terminal', () => {
    expect(outcome.stdout).not.toContain('\u001B')
    const steps = [...outcome.stdout.matchAll(/^(\d+)\. /gm)].map(([, number]) => number)
    expect(steps).toEqual(['1', '2', '3', '4', '5'])
    // How long a temporary directory's path is, is not the demo's affair.
    const long = outcome.stdout.replaceAll(directory, '').split('\n').filter((line) => line.length > 100)
    expect(long).toEqual([])
  })

  test('leaves a journal of several segments whose lines, but for the first, are JSON', async () => {
    const path = journalPath()
    const names = await readdir(dirname(path))
    const segments = names.filter((name) => /^journal\.jsonl(?:\.\d+)?$/.test(name))
    expect(segments).toContain(basename(path))
    expect(segments.length).toBeGreaterThan(4)
    let records = 0
    for (const segment of segments) {
      const [header, ...lines] = (await readFile(join(dirname(path), segment), 'utf8')).split('\n')
      expect(header, segment).toMatch(/^\/\/ MINISTORE JOURNAL v\d+\.\d+\.\d+ seq=\d+/)
      expect(lines.pop(), `${segment} ends with a line feed`).toBe('')
      for (const line of lines) expect(JSON.parse(line)).toHaveProperty('event')
      records += lines.length
    }
    const counted = [...outcome.stdout.matchAll(/record (\d+), \w+, seen /g)].at(-1)?.[1]
    expect(String(records), 'the last record that was seen live is the last one there is').toBe(counted)
  })

  test('keeps a file of evidence for each torn tail that it tells of, and no other', async () => {
    const names = await readdir(dirname(journalPath()))
    const evidence = names.filter((name) => name.includes('.torn-'))
    expect(new Set(evidenceTold())).toEqual(new Set(evidence))
    expect(evidenceTold()).toHaveLength(evidence.length)
  })

  test('prints commands that name files which exist', () => {
    const commands = [...outcome.stdout.matchAll(/^ {3}(?:head|tail) -[nc] \d+ (\S+)/gm)].map(([, name]) => name as string)
    expect(commands.length).toBeGreaterThanOrEqual(2)
    expect(commands.filter((name) => !existsSync(join(dirname(journalPath()), name)))).toEqual([])
  })

  test('ends with exit code 1 and the message of the system when something unexpected happens', async () => {
    const failed = await outcomeOf(startDemo(join(directory, 'missing')))
    expect(failed.code).toBe(1)
    expect(failed.stderr).toMatch(/^ministore: ENOENT: no such file or directory, .*\n$/)
  }, TIMEOUT_MS)

  test('says which package to install where the records are not there', async () => {
    const root = await temporaryDirectory()
    await cp(join(ROOT, 'dist'), join(root, 'dist'), { recursive: true })
    await cp(join(ROOT, 'package.json'), join(root, 'package.json'))
    const { dependencies } = await manifest()
    for (const name of Object.keys(dependencies)) {
      await mkdir(dirname(join(root, 'node_modules', name)), { recursive: true })
      await symlink(join(ROOT, 'node_modules', name), join(root, 'node_modules', name), 'junction')
    }
    const words = [join(root, 'dist/cli/main.js'), 'demo']
    const stderr =
      'ministore: The demo needs @octokit/webhooks-examples, which is not there: npm install @octokit/webhooks-examples\n'
    expect(await outcomeOf(startDemo(root, words))).toEqual({ code: 1, stdout: '', stderr })
  })

  test.skipIf(process.platform === 'win32')('ends quietly on Ctrl-C, which goes to its writers too', async () => {
    await mkdir(join(directory, 'interrupted'))
    const child = startDemo(join(directory, 'interrupted'), [main, 'demo'], { detached: true })
    onTestFinished(() => void child.kill('SIGKILL'))
    const stderr = text(child.stderr as NodeJS.ReadableStream)
    const closed = once(child, 'close') as Promise<[number | null]>
    // Here the second writer has begun, or is about to.
    await textUntil(child.stdout as Parameters<typeof textUntil>[0], '\n      1  ')
    child.stdout?.resume()
    process.kill(-(child.pid as number), 'SIGINT')
    expect({ code: (await closed)[0], stderr: await stderr }).toEqual({ code: 130, stderr: '' })
  }, TIMEOUT_MS)

  function journalPath(): string {
    const path = /^ {3}Journal: (.*)$/m.exec(outcome.stdout)?.[1] ?? ''
    expect(existsSync(path), `the printed path ${path} exists`).toBe(true)
    return path
  }

  function evidenceTold(): string[] {
    return [...outcome.stdout.matchAll(/kept in (\S+)/g)].map(([, name]) => String(name))
  }
})

describe('a check of the demo fails, and no other,', () => {
  /** Records 1 to 5 were sent; 3 was torn at a kill and sent again, 4 in flight and whole. */
  const facts: Facts = {
    sent: ['one', 'two', 'three', 'four', 'five'],
    found: ['one', 'two', 'three', 'four', 'five'],
    acknowledged: [1, 2, 3, 5],
    kills: [
      { lastAcknowledged: 2, inFlight: 3, lastSequence: 2 },
      { lastAcknowledged: 3, inFlight: 4, lastSequence: 4 },
      { lastAcknowledged: 4, inFlight: undefined, lastSequence: 4 },
    ],
    evidence: [{ sequence: 3, bytes: 'thr' }],
    lastSequence: 5,
    segments: 4,
    tornAtEnd: 0,
  }
  const kill = { lastAcknowledged: 4, inFlight: 5, lastSequence: 4 }

  test('when nothing is wrong: none', () => {
    const checks = checksOf(facts)
    expect(checks.filter(([, problem]) => problem !== false)).toEqual([])
    expect(checks.map(([claim]) => claim)).toEqual([
      'the torn bytes are kept, and are a true beginning of record 3',
      'after a proper close there is nothing to repair',
      'after each of 3 kills it ended with the last acknowledged record or the one in flight',
      '4 appends were acknowledged, their sequence numbers only ever rising',
      'every acknowledged record is there (4 of 4)',
      'each of them once',
      'in order, byte for byte what was sent',
      'besides them only what was in flight at a kill (1 of 2 such records)',
      'the store counts as many',
      'it was rotated several times (4 segments)',
    ])
  })

  test.each<readonly [name: string, change: Partial<Facts>, problems: readonly string[]]>([
    ['evidence of something else', { evidence: [{ sequence: 3, bytes: 'two' }] }, ['its 3 bytes are not what record 3 began with']],
    ['evidence without bytes', { evidence: [{ sequence: 3, bytes: '' }] }, ['its 0 bytes are not what record 3 began with']],
    [
      'evidence that goes on behind the record',
      { evidence: [{ sequence: 3, bytes: 'three\n4' }] },
      ['its 7 bytes are not what record 3 began with'],
    ],
    [
      'evidence of a record that was never sent',
      { evidence: [{ sequence: 6, bytes: 's' }] },
      ['its 1 bytes are not what record 6 began with'],
    ],
    ['bytes to repair after a proper close', { tornAtEnd: 7 }, ['expected 0, got 7']],
    [
      'a journal reopened without an acknowledged record',
      { kills: [...facts.kills, kill, { lastAcknowledged: 8, inFlight: 9, lastSequence: 7 }] },
      ['after kill 5 it ended with record 7, expected 8 or 9'],
    ],
    [
      'a journal reopened with a record that nothing was in flight for',
      { kills: [...facts.kills, { lastAcknowledged: 4, inFlight: undefined, lastSequence: 5 }] },
      ['after kill 4 it ended with record 5, expected 4'],
    ],
    ['an acknowledgement twice', { acknowledged: [1, 2, 2, 3, 5] }, ['2 came after 2']],
    ['an acknowledgement that goes back', { acknowledged: [1, 3, 2, 5] }, ['2 came after 3']],
    ['an acknowledged record that is lost', { acknowledged: [1, 2, 3, 5, 6] }, ['record 6 is gone']],
    [
      'a record that is there twice',
      { found: ['one', 'two', 'one', 'four', 'five'], sent: ['one', 'two', 'one', 'four', 'five'], evidence: [] },
      ['record 3 is record 1 again'],
    ],
    ['a byte changed', { found: ['one', 'twO', 'three', 'four', 'five'] }, ['record 2 is not what was sent']],
    ['another order', { found: ['two', 'one', 'three', 'four', 'five'] }, ['record 1 is not what was sent']],
    [
      'a record that was never sent',
      { found: [...facts.found, '?'], acknowledged: [1, 2, 3, 5, 6], lastSequence: 6 },
      ['record 6 is not what was sent'],
    ],
    [
      'a record that was neither acknowledged nor in flight',
      { acknowledged: [1, 3, 5] },
      ['record 2 was neither acknowledged nor in flight'],
    ],
    ['a store that counts otherwise', { lastSequence: 4 }, ['expected 5, got 4']],
    ['too few segments', { segments: 3 }, ['expected at least 4, got 3']],
  ])('on %s', (_name, change, problems) => {
    expect(checksOf({ ...facts, ...change }).flatMap(([, problem]) => problem || [])).toEqual(problems)
  })

  test('on a segment whose last line has no line feed, or has bytes behind it', () => {
    expect(linesOf('header\na\n\nb c\n')).toEqual(['a', '', 'b c'])
    expect(linesOf('header\n')).toEqual([])
    for (const torn of ['one\ntwo\nthree\nfour\nfive', 'one\ntwo\nthree\nfour\nfive\nx']) {
      const found = linesOf(`header\n${torn}`)
      const problems = checksOf({ ...facts, found, lastSequence: found.length, acknowledged: found.map((_, at) => at + 1) })
      expect(problems.flatMap(([, problem]) => problem || [])).toEqual([`record ${found.length} is not what was sent`])
    }
  })
})

describe('a replay of the demo', () => {
  const records: WebhookRecord[] = ['ping', 'push', 'push', 'star'].map((event, index) => ({
    event, delivery: index + 1, payload: 'ä',
  }))

  test('passes its checks on what was sent', async () => {
    const store = await storeOf(records)
    expect(problemsIn(await partsOf(replayAll(store, records, signal)))).toEqual([false, false])
    expect(problemsIn(await partsOf(replayToReport(store, signal)))).toEqual([false])
    expect(problemsIn(await partsOf(followLive(store, records, signal)))).toEqual([false])
    expect(store.lastSequence).toBe(7)
  })

  test('fails its check on a record too few, and on one that is not what was sent', async () => {
    const short = await partsOf(replayAll(await storeOf(records.slice(0, 3)), records, signal))
    expect(problemsIn(short)).toEqual(['expected 4, got 3', 'expected 4, got 3'])
    const changed = records.map((record) => ({ ...record, payload: record.delivery === 2 ? 'a' : 'ä' }))
    const parts = await partsOf(replayAll(await storeOf(changed), records, signal))
    expect(problemsIn(parts)).toEqual([false, 'expected 4, got 3'])
  })

  test('fails its check on a table that counts otherwise than the store', async () => {
    const store = await storeOf(records)
    const wrong = asStore({ lastSequence: 5, stream: () => store.stream() })
    expect(problemsIn(await partsOf(replayToReport(wrong, signal)))).toEqual(['expected 5, got 4'])
  })

  test('fails its check on a record that is seen live twice, and on one that is not seen', async () => {
    const store = await storeOf(records)
    const seen = async (numbers: readonly number[]): Promise<Array<string | false>> => {
      const entries = numbers.map((number) => ({ sequence: number, record: records[number - 4] as WebhookRecord }))
      const { lastSequence } = store
      const wrong = asStore({
        lastSequence,
        append: () => Promise.resolve(0),
        entries: () => ReadableStream.from(entries) as ReturnType<typeof store.entries>,
      })
      return problemsIn(await partsOf(followLive(wrong, records, signal)))
    }
    expect(await seen([5, 6, 7])).toEqual([false])
    expect(await seen([5, 5, 6])).toEqual(['expected 5, push; 6, push; 7, star, got 5, push; 5, push; 6, push'])
    expect(await seen([5, 6])).toEqual(['expected 5, push; 6, push; 7, star, got 5, push; 6, push'])
  })

  test('ends with the reason of its signal', async () => {
    const store = await storeOf(records)
    const reason = new Interrupted('SIGINT')
    const aborted = AbortSignal.abort(reason)
    await expect(partsOf(replayAll(store, records, aborted))).rejects.toBe(reason)
    await expect(partsOf(replayToReport(store, aborted))).rejects.toBe(reason)
    await expect(partsOf(followLive(store, records, aborted))).rejects.toBe(reason)
  })

  test('is a table of records and bytes by type of event: most records first, of as many the larger', async () => {
    const large = { event: 'large', delivery: 5, payload: 'x'.repeat(2048) }
    const table = await tableOf([large, ...records])
    expect(table).toEqual([
      'event  records    bytes    share',
      'push         2     88 B   40.0 %  ████████████████████',
      'large        1  2.0 KiB   20.0 %  ██████████',
      'ping         1     44 B   20.0 %  ██████████',
      'star         1     44 B   20.0 %  ██████████',
      'all          5  2.2 KiB  100.0 %',
    ])
  })

  test('sums the types of event that are not among the twelve most frequent', async () => {
    const many = Array.from({ length: 14 }, (_, index) => ({ event: `event${index}`, delivery: index + 1, payload: '' }))
    const table = await tableOf([...many, ...many.slice(0, 12)])
    expect(table.slice(1, -2).map((line) => line.split(/ +/, 2).join(' '))).toEqual(
      expect.arrayContaining(many.slice(0, 12).map(({ event }) => `${event} 2`)),
    )
    expect(table.slice(1, -2)).toHaveLength(12)
    expect(table.slice(-2).map((line) => line.replaceAll(/ +/g, ' '))).toEqual([
      expect.stringMatching(/^2 other types 2 \d+ B 7.7 %$/), expect.stringMatching(/^all 26 1\.\d KiB 100.0 %$/),
    ])
  })

  async function tableOf(given: readonly WebhookRecord[]): Promise<string[]> {
    const store = asStore({
      lastSequence: given.length,
      stream: () => ReadableStream.from(given) as ReturnType<MiniStore<WebhookRecord>['stream']>,
    })
    const lines = (await partsOf(replayToReport(store, signal))).filter((part) => typeof part === 'string')
    return lines.slice(lines.indexOf('') + 1, lines.lastIndexOf(''))
  }

  async function storeOf(given: readonly WebhookRecord[]): Promise<MiniStore<WebhookRecord>> {
    const store = await MiniStore.open<WebhookRecord>(join(await temporaryDirectory(), 'journal.jsonl'))
    onTestFinished(() => store.close())
    await store.appendAll(given)
    return store
  }

  function asStore(parts: Partial<MiniStore<WebhookRecord>>): MiniStore<WebhookRecord> {
    return parts as MiniStore<WebhookRecord>
  }

  async function partsOf(parts: AsyncIterable<Part>): Promise<Part[]> {
    const list: Part[] = []
    for await (const part of parts) list.push(part)
    return list
  }

  function problemsIn(parts: readonly Part[]): Array<string | false> {
    return parts.flatMap((part) => (typeof part === 'string' || 'step' in part ? [] : [part[1]]))
  }
})

describe('what the demo shows', () => {
  test('has a line for each check, and one that fails makes the exit code 1', async () => {
    const good = await shown([['water is wet', false]])
    expect(good.code).toBe(0)
    expect(good.printed).toMatch(/^ {3}ok {6}water is wet\n\n {3}All 1 checks are ok, after \d+\.\d s\.\n$/)
    const bad = await shown([['water is wet', false], ['fire is cold', 'it is hot'], ['air is there', false]])
    expect(bad.code).toBe(1)
    expect(bad.printed).toContain('   ok      water is wet\n   FAILED  fire is cold: it is hot\n   ok      air is there\n')
    expect(bad.printed).toMatch(/\n\n {3}1 of 3 checks FAILED, after \d+\.\d s\.\n$/)
  })

  test('without any check is a failure', async () => {
    const { code, printed } = await shown(['a line'])
    expect(code).toBe(1)
    expect(printed).toMatch(/Nothing was checked, after/)
  })

  test('has numbered steps', async () => {
    const { printed } = await shown([{ step: 'Begin' }, 'a', '', { step: 'End' }])
    expect(printed).toMatch(/^\n1\. Begin\n {3}a\n\n\n2\. End\n/)
  })

  test('is colored on a terminal, but not where NO_COLOR is set', async () => {
    const parts: Part[] = [{ step: 'Begin' }, ['water is wet', false], ['fire is cold', 'it is hot']]
    expect((await shown(parts, { isTTY: true })).printed).toContain(
      '\n\u001B[1m1. Begin\u001B[22m\n' +
        '   \u001B[32mok\u001B[39m      water is wet\n' +
        '   \u001B[31mFAILED\u001B[39m  fire is cold: it is hot\n',
    )
    expect((await shown(parts, { isTTY: true, env: { NO_COLOR: '1' } })).printed).not.toContain('\u001B')
  })

  test('ends with its output, and with its signal, and what is behind it is not begun', async () => {
    const failure = new Error('EPIPE')
    await expect(shown(['a', 'b'], { failure })).rejects.toMatchObject({ name: 'OutputError', cause: failure })
    const reason = new Interrupted('SIGTERM')
    let begun = 0
    async function* parts(): AsyncGenerator<Part> {
      for (;;) yield await Promise.resolve(`line ${++begun}`)
    }
    const end = { signal: AbortSignal.abort(reason) }
    await expect(shown(parts(), end)).rejects.toBe(reason)
    expect(begun).toBe(1)
  })

  async function shown(
    parts: AsyncIterable<Part> | readonly Part[],
    options: { isTTY?: boolean; env?: NodeJS.ProcessEnv; failure?: Error; signal?: AbortSignal } = {},
  ): Promise<{ code: number; printed: string }> {
    let printed = ''
    const write = (piece: string, done: (error?: Error) => void): boolean => {
      printed += piece
      done(options.failure)
      return true
    }
    const stdout = new Output({ write, on: () => {}, isTTY: options.isTTY ?? false })
    const iterable = Symbol.asyncIterator in parts ? parts : ReadableStream.from(parts)
    const code = await show(iterable, { stdout, env: options.env ?? {}, signal: options.signal ?? signal })
    return { code, printed }
  }
})

describe('the records of the demo', () => {
  const catalogue = [
    { name: 'push', examples: [1, 2, 3] },
    { name: 'ping', examples: [4, 5] },
  ]

  test('are each payload once, in order, numbered, with bundles of all of them in between', () => {
    const records = planRecords(catalogue, 2, 2)
    expect(records.map(({ event }) => event)).toEqual(['push', 'bundle', 'push', 'bundle', 'push', 'ping', 'ping'])
    expect(records.map(({ delivery }) => delivery)).toEqual([1, 2, 3, 4, 5, 6, 7])
    const payloads = records.filter((record) => !isBundle(record)).map(({ payload }) => payload)
    expect(payloads).toEqual([1, 2, 3, 4, 5])
    expect(records[1]?.payload).toHaveLength(10)
  })

  test('of the installed package are hundreds, and no two of them are the same line', () => {
    const records = planRecords(loadExamples(), 0, 1)
    expect(records.length).toBeGreaterThan(300)
    expect(new Set(records.map((record) => JSON.stringify(record))).size).toBe(records.length)
  })

  test('never begin or end with a bundle, nor have two side by side, whatever the numbers are', () => {
    for (let examples = 1; examples <= 12; examples++) {
      for (let bundles = 0; bundles < examples; bundles++) {
        const records = planRecords([{ name: 'push', examples: Array(examples).fill(0) }], bundles, 1)
        const kinds = records.map((record) => (isBundle(record) ? 'B' : '.')).join('')
        expect(kinds, `${examples} examples, ${bundles} bundles`).toMatch(/^\.+(?:B\.+)*$/)
        expect(kinds.match(/B/g) ?? []).toHaveLength(bundles)
      }
    }
  })

  test('are appended once more with numbers that go on', async () => {
    const records = planRecords(catalogue, 1, 1)
    const appended: WebhookRecord[] = []
    const store = {
      lastSequence: records.length,
      append: (record: WebhookRecord) => Promise.resolve(appended.push(record)),
      entries: () => ReadableStream.from([]),
    }
    const parts = followLive(store as unknown as MiniStore<WebhookRecord>, records, signal)
    while ((await parts.next()).done !== true);
    expect(appended.map(({ delivery }) => delivery)).toEqual([7, 8, 9])
    expect(appended.every((record) => !isBundle(record))).toBe(true)
  })
})

/** What `npm run demo` starts once the sources are built. */
async function wordsOfScript(): Promise<string[]> {
  const { scripts } = await manifest()
  const [node, ...words] = scripts['demo']?.split(' && ').at(-1)?.split(' ') ?? []
  expect(node).toBe('node')
  return words
}

async function manifest(): Promise<Record<'scripts' | 'dependencies', Record<string, string>>> {
  return JSON.parse(await readFile(join(ROOT, 'package.json'), 'utf8')) as Awaited<ReturnType<typeof manifest>>
}

/** Starts it with a temporary directory of our own, so that what it keeps is ours to remove. */
function startDemo(temporary: string, words = [main, 'demo'], options: { readonly detached?: boolean } = {}): ChildProcess {
  const env = { ...process.env, TMPDIR: temporary, TEMP: temporary, TMP: temporary }
  return spawn(process.execPath, words, { ...options, cwd: ROOT, env, stdio: ['ignore', 'pipe', 'pipe'] })
}

async function outcomeOf(child: ChildProcess): Promise<Outcome> {
  const [stdout, stderr, [code]] = (await Promise.all([
    text(child.stdout as NodeJS.ReadableStream),
    text(child.stderr as NodeJS.ReadableStream),
    once(child, 'close'),
  ])) as [string, string, [number | null]]
  return { code, stdout, stderr }
}
