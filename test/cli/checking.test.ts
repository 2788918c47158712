import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { cp, mkdir, open, rename, unlink, writeFile } from 'node:fs/promises'
import { once } from 'node:events'
import { dirname, join } from 'node:path'
import { text } from 'node:stream/consumers'

import { describe, expect, onTestFinished, test } from 'vitest'

import { countingFileSystem } from '../../src/cli/journal.ts'
import { MiniStore } from '../../src/index.ts'
import { addBytes, idAt, numbers, writeJournal, writeSegment } from '../support/journals.ts'
import { RemoteStore } from '../support/remote-store.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'
import { journal, main, ministore, ministoreProcess, replaceIn } from './run-command.ts'

const fixtures = join(import.meta.dirname, '../fixtures')

// The matcher that vitest returns here has type `any`.
const containing = (part: string): unknown => expect.stringContaining(part) as unknown
const matching = (pattern: RegExp): unknown => expect.stringMatching(pattern) as unknown

interface Verified {
  readonly damages: ReadonlyArray<Record<string, unknown>>
  readonly [name: string]: unknown
}

async function verified(path: string): Promise<Verified> {
  const { stdout, code } = await ministore(['verify', '--json', path])
  const result = JSON.parse(stdout) as Verified
  expect(code).toBe(result.damages.length === 0 ? 0 : 1)
  expect(result['damageCount']).toBe(result.damages.length)
  return result
}

describe('verify', () => {
  test('passes a sound journal of any version', async () => {
    expect(await ministore(['verify', await journal()])).toEqual({
      code: 0,
      stdout: 'ok: 8 records (1 to 8) in 3 segments, 206 B\n',
      stderr: '',
    })
    for (const [name, records] of [
      ['v0.2.0', 8],
      ['rust-v0.1.0', 6],
      ['rust-v0.1.4', 9],
    ] as const) {
      const directory = await temporaryDirectory()
      await cp(join(fixtures, name), directory, { recursive: true })
      expect(await verified(join(directory, 'journal.jsonl')), name).toMatchObject({ isSound: true, records })
    }
  })

  test('reports every damage with its place, and exit code 1', async () => {
    const path = await journal()
    await replaceIn(`${path}.001`, '\n2\n', '\n\0\n')
    await replaceIn(`${path}.002`, '\n5\n6\n', '\nx\n\n')
    await replaceIn(path, '\n7\n', '\n9\n')
    const { damages, records } = await verified(path)
    expect(damages).toEqual([
      { segment: 'journal.jsonl.001', line: 3, offset: 56, sequence: 2, reason: 'the line holds a NUL byte' },
      { segment: 'journal.jsonl.001', reason: 'it has changed since it was sealed (wrong checksum)' },
      {
        segment: 'journal.jsonl.002',
        line: 3,
        offset: 70,
        sequence: 5,
        reason: containing('the line is not JSON: '),
      },
      { segment: 'journal.jsonl.002', line: 4, offset: 72, sequence: 6, reason: 'the line is blank' },
      { segment: 'journal.jsonl.002', reason: 'it has changed since it was sealed (wrong checksum)' },
      { segment: 'journal.jsonl', reason: containing('has changed (wrong checksum)') },
    ])
    expect(records).toBe(5)
    const { code, stdout } = await ministore(['verify', path])
    expect(code).toBe(1)
    expect(stdout).toMatch(/^journal\.jsonl\.002 +3 +70 +5 {2}the line is not JSON/m)
    expect(stdout.match(/^segment +line +offset +sequence {2}damage$/gm)).toHaveLength(1)
    expect(stdout).toContain('damage in 6 places; readable: 5 records')
  })

  test('reports a damaged header, a missing segment and a missing active segment', async () => {
    const header = await journal()
    await replaceIn(`${header}.002`, 'JOURNAL', 'JOURNEY')
    expect((await verified(header)).damages[0]).toMatchObject({
      segment: 'journal.jsonl.002',
      line: 1,
      offset: 0,
    })
    const gap = await journal()
    await rename(`${gap}.002`, `${gap}.other`)
    expect((await verified(gap)).damages).toContainEqual(
      expect.objectContaining({ segment: 'journal.jsonl', reason: 'it begins with sequence 7, expected 4' }),
    )
    const gone = await journal()
    await unlink(gone)
    expect((await verified(gone)).damages[0]?.['reason']).toContain('the active segment is gone')
    const garbage = await journal()
    await writeFile(garbage, 'x'.repeat(600))
    expect((await verified(garbage)).damages.length).toBeGreaterThan(0)
  })

  test.each([
    ['9', 'no line feed'],
    ['\0\n', 'NUL'],
    ['\n', 'blank'],
  ])('reports a torn tail (%j) as a note, not as damage: exit code 0', async (end, reason) => {
    const path = await journal()
    await addBytes(path, end)
    const { code, stdout } = await ministore(['verify', path])
    expect(code).toBe(0)
    expect(stdout).toMatch(
      /^ok: 8 records .*\nnote: the last \d B of journal\.jsonl, from offset \d+ on, are torn: /,
    )
    expect(await verified(path)).toMatchObject({
      torn: { sequence: 9, bytes: end.length, reason: containing(reason) },
    })
  })

  test('notes a missing active segment, as left by a crash during rotation', async () => {
    const path = await journal()
    await unlink(path)
    await unlink(`${path}.seal`)
    expect(await ministore(['verify', path])).toMatchObject({
      code: 0,
      stdout: containing('note: there is no active segment'),
    })
  })

  test('and cat, tail and inspect work while another process writes and rotates', async () => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    const writer = RemoteStore.inProcess()
    await writer.open(path, { maxBytesPerSegment: 220 })
    const state = { isDone: false }
    let appended = 0
    const writing = (async () => {
      for (; !state.isDone; appended++) await writer.append(appended + 1)
    })()
    await ministore(['tail', '-n', '1', path])
    for (const name of ['cat', 'tail', 'inspect', 'verify', 'cat', 'inspect']) {
      expect(await ministore([name, path]), name).toMatchObject({ code: 0, stderr: '' })
    }
    state.isDone = true
    await writing
    expect((await ministore(['cat', path])).stdout).toBe(`${numbers(1, appended).join('\n')}\n`)
  })
})

describe('inspect', () => {
  test('shows segments, totals and the seal', async () => {
    const path = await journal()
    const { stdout, code } = await ministore(['inspect', path])
    expect(code).toBe(0)
    const lines = stdout.split('\n').map((line) => line.replace(/ +\d{4}-.*/, ''))
    expect(lines).toEqual([
      path,
      '',
      'segment            first  last  records  size  format  chain  modified (UTC)',
      'journal.jsonl.001      1     3        3  60 B  v0.3.0  start',
      'journal.jsonl.002      4     6        3  74 B  v0.3.0  ok',
      'journal.jsonl          7     8        2  72 B  v0.3.0  ok',
      '',
      'total  8 records (1 to 8) in 3 segments, 206 B',
      'seal   ok, covers 2 records of the active segment',
      `id     ${await idAt(path)}`,
      ...(process.platform === 'linux' ? ['lock   free: no writer has the journal open'] : []),
      '',
    ])
  })

  test('prints the same facts as JSON with stable names', async () => {
    const path = await journal()
    await addBytes(path, 'half')
    expect(JSON.parse((await ministore(['inspect', path, '--json'])).stdout)).toMatchObject({
      journal: path,
      id: await idAt(path),
      firstSequence: 1,
      lastSequence: 8,
      records: 8,
      bytes: 210,
      segments: [
        {
          file: 'journal.jsonl.001',
          state: 'sealed',
          firstSequence: 1,
          lastSequence: 3,
          records: 3,
          bytes: 60,
          formatVersion: '0.3.0',
          chain: 'start',
        },
        { file: 'journal.jsonl.002', chain: 'ok' },
        {
          file: 'journal.jsonl',
          state: 'active',
          chain: 'ok',
          modifiedAt: matching(/^\d{4}-\d\d-\d\dT.*Z$/),
        },
      ],
      seal: { state: 'ok', records: 2 },
      torn: { bytes: 4 },
      evidence: [],
      damages: [],
    })
  })

  test('shows a broken chain and a broken seal, with exit code 1; --quick reads neither', async () => {
    const path = await journal()
    await replaceIn(`${path}.001`, '\n2\n', '\n9\n')
    await replaceIn(path, '\n7\n', '\n9\n')
    const outcome = await ministore(['inspect', path, '--json'])
    expect(outcome.code).toBe(1)
    const { segments, seal, damages } = JSON.parse(outcome.stdout) as {
      segments: Array<{ chain: string }>
      seal: object
      damages: object[]
    }
    expect(segments.map(({ chain }) => chain)).toEqual(['start', 'broken', 'ok'])
    expect(seal).toMatchObject({ state: 'broken' })
    expect(damages).toHaveLength(2)
    const quick = JSON.parse((await ministore(['inspect', path, '--json', '--quick'])).stdout) as {
      segments: Array<{ chain: string; records: number }>
    }
    expect(quick.segments.map(({ chain, records }) => [chain, records])).toEqual([
      ['start', 3],
      ['unknown', 3],
      ['unknown', 2],
    ])
  })

  test('shows the versions of a Rust crate journal, and that it has no chain', async () => {
    const directory = await temporaryDirectory()
    await cp(join(fixtures, 'rust-v0.1.4'), directory, { recursive: true })
    const { stdout } = await ministore(['inspect', join(directory, 'journal.jsonl'), '--json'])
    const { segments, records, seal } = JSON.parse(stdout) as {
      segments: Array<Record<string, unknown>>
      records: number
      seal: object
    }
    expect(segments.map(({ chain, formatVersion }) => [chain, formatVersion])).toEqual([
      ['start', '0.1.4'],
      ['unknown', '0.1.4'],
      ['unknown', '0.1.4'],
    ])
    expect([records, seal]).toMatchObject([9, { state: 'missing' }])
  })

  test('shows an empty segment, a torn tail and an unreadable seal', async () => {
    const path = await journal()
    await using store = await MiniStore.open(path)
    await store.rotate()
    const { stdout } = await ministore(['inspect', path])
    expect(stdout).toMatch(/^journal\.jsonl +9 +- +0 +\d+ B /m)
    await store.truncateBefore(9)
    expect((await ministore(['inspect', path])).stdout).toContain('total  0 records (the next is 9) in 1 segment')
    await store.close()
    await writeFile(`${path}.seal`, 'bytes=')
    await addBytes(path, 'half')
    const found = (await ministore(['inspect', path])).stdout
    expect(found).toMatch(/^seal +unreadable; /m)
    expect(found).toContain('unreadable; this is not damage: the next open writes a new one\n')
    expect(found).toMatch(/^torn +4 B at offset \d+: .* \(an append is under way, or the next open removes it\)$/m)
  })

  test('draws bars only when the terminal is wide enough', async () => {
    const path = await journal()
    const barsOf = async (columns: number): Promise<number[]> => {
      const { stdout } = await ministore(['inspect', path], { columns, env: { NO_COLOR: '1' } })
      expect(Math.max(...stdout.split('\n').slice(2, 6).map((line) => line.length))).toBeLessThan(columns)
      return stdout.split('\n').slice(3, 6).map((line) => /[█▏▎▍▌▋▊▉]*$/.exec(line)?.[0].length ?? 0)
    }
    // The table has 81 columns, and two columns separate it from the bars.
    expect(await barsOf(200)).toEqual([30, 30, 20])
    expect(await barsOf(95)).toEqual([11, 11, 8])
    expect(await barsOf(92)).toEqual([8, 8, 6])
    expect(await barsOf(91)).toEqual([0, 0, 0])
  })

  test.runIf(process.platform === 'linux')('names the process that holds the lock, not one that has only opened its file', async () => {
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    const writer = RemoteStore.inProcess()
    await writer.open(path, {})
    const handle = await open(`${path}.lock`)
    onTestFinished(() => handle.close())
    const { lock } = JSON.parse((await ministore(['inspect', path, '--json'])).stdout) as { lock: { holder: { pid: number; command: string } } }
    expect(lock).toMatchObject({ state: 'held', holder: { command: containing('remote-store') } })
    expect(lock.holder.pid).not.toBe(process.pid)
    expect(lock.holder.command).not.toContain('\0')
  })

  test('names the evidence beside the journal', async () => {
    const path = await journal()
    await replaceIn(`${path}.002`, '\n5\n', '\nx\n')
    await ministore(['repair', path, '--truncate-at', '5', '--write'])
    const { stdout } = await ministore(['inspect', path])
    expect(stdout).toContain(
      'evidence  journal.jsonl.002.broken, journal.jsonl.broken, journal.jsonl.seal.broken',
    )
  })
})

describe('the command line itself', () => {
  test('has help for all commands and for each, with an example', async () => {
    const { stdout } = await ministore(['--help'])
    const names = [...stdout.matchAll(/^ {2}([a-z]+)(?: [A-Z[][^ ]*)* {2,}/gm)].map(([, name]) => String(name))
    expect(names).toEqual(['append', 'cat', 'tail', 'grep', 'inspect', 'verify', 'repair', 'compact', 'replicate', 'serve', 'stats', 'queue', 'demo', 'completion'])
    for (const name of names) {
      const help = await ministore([name, '--help'])
      expect(help).toMatchObject({ code: 0, stderr: '' })
      expect(help.stdout).toMatch(new RegExp(`\nExamples?:\n(  .*\n)*.*ministore ${name}`))
      expect(help.stdout.split('\n').filter((line) => line.length > 120)).toEqual([])
      expect(help.stdout).toMatch(/^[A-Z].*\.\n\nUsage: ministore /)
      expect(await ministore(['help', name])).toEqual(help)
      expect(await ministore([name, '-h', '--nonsense'])).toEqual(help)
    }
    expect((await ministore(['-h'])).stdout).toBe(stdout)
    expect((await ministore(['help', 'nonsense'])).stdout).toBe(stdout)
    expect((await ministore(['queue', '--help'])).stdout).toContain('\nUsage: ministore queue DIR [ACTION] [ID] [options]\n')
    const tail = (await ministore(['tail', '--help'])).stdout
    expect(tail).toMatch(/^ {2}-n, --lines N {2,}the number/m)
    expect(tail).toMatch(/^ {2}-f, --follow {2,}print new/m)
    expect(tail).toMatch(/^ {2}--sequence {2,}print /m)
  })

  test('accepts the greatest number that an option allows', async () => {
    const path = await journal()
    expect(await ministore(['append', path, '--batch', '100000'], '9\n')).toMatchObject({ code: 0, stdout: '9\n' })
    expect(await ministore(['cat', path, '--to', '9007199254740991', '--from', '9'])).toMatchObject({ code: 0, stdout: '9\n' })
  })

  test('treats an argument after -- as a path', async () => {
    const directory = await temporaryDirectory()
    const { code, stderr } = await ministore(['cat', '--', `${directory}/--help`])
    expect([code, stderr]).toEqual([1, containing(`There is no journal at ${directory}/--help`)])
    expect((await ministore(['cat', '--', '--help'])).stderr).toContain('/--help. Give')
  })

  test('alone shows the help', async () => {
    expect(await ministore([])).toEqual(await ministore(['--help']))
  })

  test('reads -N of tail as the number of records', async () => {
    const path = await journal()
    expect((await ministore(['tail', '-2', path])).stdout).toBe('7\n8\n')
    expect((await ministore(['tail', path, '-1', '--sequence'])).stdout).toBe('{"sequence":8,"record":8}\n')
    expect((await ministore(['tail', '--', '-1'])).stderr).toContain('/-1. Give')
    expect(await ministore(['cat', '-2', path])).toMatchObject({ code: 2 })
  })

  test('names the journals in a directory that is given in place of one', async () => {
    const directory = await temporaryDirectory()
    for (const command of [['cat', directory], ['tail', '-f', directory], ['grep', 'x', directory], ['inspect', directory], ['verify', directory]]) {
      expect((await ministore(command)).stderr).toContain(`${directory} is a directory, expected the path of a journal. There is none in it`)
    }
    await writeJournal(join(directory, 'a journal.jsonl'), [numbers(1, 3), numbers(4, 5)])
    await writeJournal(join(directory, 'b.jsonl'), [])
    await writeFile(join(directory, 'notes.txt'), 'MINISTORE JOURNAL')
    await mkdir(join(directory, 'inner'))
    expect(await ministore(['cat', directory])).toEqual({
      code: 1,
      stdout: '',
      stderr: `ministore: ${directory} is a directory, expected the path of a journal. In it: '${directory}/a journal.jsonl' ${directory}/b.jsonl\n`,
    })
  })

  test('completes commands and options in bash', async () => {
    const { stdout } = await ministore(['completion', 'bash'])
    const complete = (...words: readonly string[]): string[] => {
      const line = `COMP_WORDS=(${words.map((word) => `'${word}'`).join(' ')}); COMP_CWORD=${words.length - 1}; _ministore; echo "\${COMPREPLY[@]}"`
      return execFileSync('bash', ['-c', `${stdout}\n${line}`], { encoding: 'utf8' }).trim().split(' ')
    }
    expect(complete('ministore', 're')).toEqual(['repair', 'replicate'])
    expect(complete('ministore', 'cat', '--s')).toEqual(['--sequence', '--salvage'])
    expect(complete('ministore', 'cat', 'x')).toEqual([''])
  })

  test.each(['zsh', 'fish'])('has completion for %s that names every command and option', async (shell) => {
    const { stdout } = await ministore(['completion', shell])
    const help = (await ministore(['--help'])).stdout
    for (const [, name = ''] of help.matchAll(/^ {2}([a-z]+) /gm)) expect(stdout).toContain(name)
    expect(stdout).toContain('ignore-case')
    const program = [{ zsh: ['-n'], fish: ['--no-execute'] }[shell as 'zsh' | 'fish'], '/dev/stdin'].flat()
    try {
      execFileSync(shell, program, { input: stdout })
    } catch (error) {
      // The shell may not be installed.
      expect(error).toMatchObject({ code: 'ENOENT' })
    }
  })

  test('has examples that run', { timeout: 60_000 }, async () => {
    for (const name of ['cat', 'tail', 'grep', 'inspect', 'verify', 'repair', 'compact', 'append']) {
      const { stdout } = await ministore([name, '--help'])
      const examples = (stdout.split(/\nExamples?:\n/)[1] ?? '').split('\n').map((line) => line.trim()).filter((line) => line !== '' && !line.includes(' -f '))
      expect(examples.length, name).toBeGreaterThan(0)
      for (const example of examples) {
        const directory = await temporaryDirectory()
        await writeJournal(join(directory, 'journal.jsonl'), [numbers(1, 5000).map((n) => ({ n, type: 'refund' }))])
        const script = `ministore() { '${process.execPath}' '${main}' "$@"; }; jq() { cat >/dev/null; }; ${example}`
        const { status, stderr } = spawnSync('bash', ['-c', script], { cwd: directory, encoding: 'utf8', input: '{"n":1}\n' })
        // Nothing may be found, and a file that an example reads may be missing; the command line must be valid.
        expect([status === 2, stderr.includes('ministore: Expected')], `${example}: ${stderr}`).toEqual([false, false])
      }
    }
  })

  test('prints its version', async () => {
    expect((await ministore(['--version'])).stdout).toMatch(/^\d+\.\d+\.\d+\n$/)
  })

  test.each([
    [['completion', 'tcsh'], 'Expected SHELL to be bash, zsh, fish, got "tcsh"'],
    [['vrify', 'x'], 'There is no command "vrify": did you mean verify?'],
    [['cat'], 'Expected JOURNAL, got nothing'],
    [['cat', 'a', 'b'], 'Expected no argument after JOURNAL, got "b"'],
    [['cat', 'a', '--form', '1'], 'cat has no option --form: did you mean --from?'],
    [['cat', 'a', '--from', '0'], 'Expected --from to be a whole number, 1 or greater, got "0"'],
    [['cat', 'a', '--from', '9007199254740993'], 'Expected --from to be a whole number, from 1 to 9007199254740991, got "9007199254740993"'],
    [['cat', 'a', '--from'], 'Expected a value for --from, got nothing'],
    [['tail', 'a', '-n'], 'Expected a value for --lines, got nothing'],
    [['cat', 'a', '--json=yes'], 'Expected no value for --json, got one'],
    [['cat', 'a', '--from', '1e3'], 'Expected --from to be a whole number, 1 or greater, got "1e3"'],
    [['cat', ''], 'Expected JOURNAL, got an empty argument'],
    [['queue', 'a', ''], 'Expected ACTION, got an empty argument'],
    [['queue', 'a', 'discard', '1', '2'], 'Expected no argument after ID, got "2"'],
    [['tail', 'a', '-m', '1'], 'tail has no option -m'],
    [['tail', 'a', '-n', '-1'], 'argument is ambiguous'],
    [['append', 'a', '--batch', '100001'], 'Expected --batch to be a whole number, from 1 to 100000, got "100001"'],
    [['cat', 'a', '--', '--form'], 'Expected no argument after JOURNAL, got "--form"'],
    [['cat', '--', '--help', '-h'], 'Expected no argument after JOURNAL, got "-h"'],
    [['append', 'a', '--batch', '1e3'], 'Expected --batch to be a whole number, from 1 to 100000, got "1e3"'],
  ])('%j is misuse: exit code 2 and a message with the expected arguments', async (args, message) => {
    const { code, stdout, stderr } = await ministore(args)
    expect([code, stdout]).toEqual([2, ''])
    expect(stderr).toMatch(/^ministore: /)
    expect(stderr).toContain(message)
    expect(stderr).toMatch(/Try: ministore .*--help\n$/)
  })

  test.each([
    ['append JOURNAL', 0],
    ['append --json JOURNAL', 1],
    ['cat --salvage DAMAGED', 1],
    ['--help', 0],
    ['cat', 2],
  ] as const)('%s is the same in a process of its own, with exit code %i', async (words, code) => {
    const damaged = join(await temporaryDirectory(), 'damaged.jsonl')
    await writeSegment(damaged, '// MINISTORE JOURNAL v0.3.0 seq=1 id=5c1e9a70b2f4d833', ['1', 'x', '"é🚀"'])
    const input = code === 0 ? '1\n2\n' : '1\nx\n'
    const argsFor = (path: string): string[] =>
      words.split(' ').map((word) => (word === 'JOURNAL' ? path : word === 'DAMAGED' ? damaged : word))
    const here = await ministore(argsFor(await journal()), input)
    expect(here.code).toBe(code)
    expect(await ministoreProcess(argsFor(await journal()), input)).toEqual(here)
  })

  test.each([
    ['cat JOURNAL', 0],
    ['tail -n 2 --sequence JOURNAL', 0],
    ['inspect --json --quick JOURNAL', 0],
    ['verify DAMAGED', 1],
    ['repair DAMAGED', 1],
    ['compact JOURNAL --before 6', 0],
    ['stats DIR', 1],
    ['queue DIR peek', 1],
  ] as const)('%s prints the same when it is run again, with exit code %i', async (words, code) => {
    const path = await journal()
    const damaged = join(await temporaryDirectory(), 'damaged.jsonl')
    await writeSegment(damaged, '// MINISTORE JOURNAL v0.3.0 seq=1 id=5c1e9a70b2f4d833', ['1', 'x', '"é🚀"'])
    const places: Record<string, string> = { JOURNAL: path, DAMAGED: damaged, DIR: dirname(damaged) }
    const args = words.split(' ').map((word) => places[word] ?? word)
    const first = await ministore(args)
    expect(first.code).toBe(code)
    expect(await ministore(args)).toEqual(first)
  })

  test('reports errors to programs as an object', async () => {
    const { stderr } = await ministore(['cat', '--json', '--nope', 'x'])
    expect(JSON.parse(stderr)).toMatchObject({ error: { code: 'ERR_USAGE' } })
  })
})

const hasScript = await new Promise<boolean>((resolve) => {
  const probe = spawn('script', ['--version'])
  probe.on('error', () => resolve(false))
  let said = ''
  probe.stdout.on('data', (piece: Buffer) => (said += piece.toString()))
  probe.on('close', () => resolve(said.includes('util-linux')))
})

test('the counting file system reports every byte read, and passes on all other calls', async () => {
  const path = await journal()
  let bytes = 0
  const file = await countingFileSystem((read) => (bytes += read)).open(path, 'write')
  const buffer = new Uint8Array(128)
  expect(await file.read(buffer, 0)).toBe(72)
  expect(await file.read(buffer, 70)).toBe(2)
  expect(await file.read(buffer, 72)).toBe(0)
  expect(bytes).toBe(74)
  await file.write(Buffer.from('9'), 72)
  await file.truncate(71)
  await file.sync()
  await file.dataSync()
  expect((await file.stat()).size).toBe(71)
  await file.close()
})

describe('on a terminal', () => {
  test('inspect has colour and a bar for each segment, without colour under NO_COLOR', async (context) => {
    if (!hasScript) context.skip('there is no script of util-linux here, to make a pseudo-terminal')
    const path = await journal()
    const plain = await onTerminal(['inspect', path], { NO_COLOR: '1' })
    expect(plain).not.toContain('\u001B[3')
    expect(plain).toMatch(/journal\.jsonl\.001 .* █{8,}/)
    expect(plain).toMatch(/journal\.jsonl {2}.* █{5,}/)
    expect(await onTerminal(['inspect', path], { NO_COLOR: '' })).toContain('\u001B[32mok\u001B[39m')
  })

  test('verify draws a progress bar with rate and time left, and removes it', async (context) => {
    if (!hasScript) context.skip('there is no script of util-linux here, to make a pseudo-terminal')
    const path = join(await temporaryDirectory(), 'journal.jsonl')
    await writeJournal(path, [Array.from({ length: 5000 }, (_, index) => ({ index, text: 'x'.repeat(300) }))])
    // Each read of the clock advances it by a second, so that a small journal takes long enough.
    const clock = 'const { now } = performance; let looks = 0; performance.now = () => now.call(performance) + 1000 * looks++'
    const preload = `data:text/javascript,${encodeURIComponent(clock)}`
    const shown = await onTerminal(['verify', path], { NODE_OPTIONS: `--import ${preload}` })
    expect(shown).toMatch(/verify {2}[█░]{24} {2} *\d+ % {2}[\d.]+ KiB of 1\.\d MiB {2}[\d.]+ [KM]iB\/s/)
    expect(shown).toMatch(/\d+ s left/)
    // oxlint-disable-next-line no-control-regex -- the sequence that clears a terminal line
    expect(shown).toMatch(/\r\u001B\[K(?:\u001B\[32m)?ok/)
  })
})

/** Resolves with the output of a command on a pseudo-terminal of 120 columns. */
async function onTerminal(args: readonly string[], env: NodeJS.ProcessEnv): Promise<string> {
  const command = ['stty cols 120;', ...[process.execPath, main, ...args].map((word) => `'${word}'`)].join(
    ' ',
  )
  const child = spawn('script', ['--quiet', '--return', '--command', command, '/dev/null'], {
    env: { ...process.env, TERM: 'xterm', SHELL: '/bin/sh', ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const [output] = await Promise.all([text(child.stdout), once(child, 'close')])
  return output
}
