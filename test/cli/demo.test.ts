import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { text } from 'node:stream/consumers'

import { afterAll, beforeAll, describe, expect, test } from 'vitest'

const DEMO = join(import.meta.dirname, '../../dist/cli/demo.js')

/** Several times what it takes when two other test files run beside it. */
const TIMEOUT_MS = 120_000

/** What a process wrote, and how it ended. */
interface Outcome {
  readonly exitCode: number | null
  readonly stdout: string
  readonly stderr: string
}

describe('the demo', () => {
  let directory: string
  let outcome: Outcome

  beforeAll(async () => {
    expect(existsSync(DEMO), `${DEMO} is missing: run \`npm run build\` first`).toBe(true)
    directory = await mkdtemp(join(tmpdir(), 'ministore-demo-test-'))
    await mkdir(join(directory, 'kept'))
    outcome = await runDemo(join(directory, 'kept'))
  }, TIMEOUT_MS)

  afterAll(async () => {
    await rm(directory, { recursive: true, force: true })
  })

  test('ends with exit code 0 and says nothing on standard error', () => {
    expect(outcome.stderr).toBe('')
    expect(outcome.exitCode, outcome.stdout).toBe(0)
  })

  test('has at least a dozen checks, and none fails', () => {
    const lines = outcome.stdout.split('\n')
    expect(lines.filter((line) => line.includes('FAILED'))).toEqual([])
    const ok = lines.filter((line) => line.startsWith('   ok  '))
    expect(ok.length).toBeGreaterThanOrEqual(12)
    expect(outcome.stdout).toMatch(new RegExp(`All ${ok.length} checks are ok, after [\\d.]+ s\\.\\n$`))
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
    const told = [...outcome.stdout.matchAll(/kept in (\S+)/g)].map(([, name]) => String(name))
    const names = await readdir(dirname(journalPath()))
    const evidence = names.filter((name) => name.includes('.torn-'))
    expect(new Set(told)).toEqual(new Set(evidence))
    expect(told).toHaveLength(evidence.length)
  })

  test('prints commands that name files which exist', () => {
    const commands = [...outcome.stdout.matchAll(/^ {3}(?:head|tail) -[nc] \d+ (\S+)/gm)].map(([, name]) => name as string)
    expect(commands.length).toBeGreaterThanOrEqual(2)
    expect(commands.filter((name) => !existsSync(join(dirname(journalPath()), name)))).toEqual([])
  })

  test('ends with exit code 1, a message and a code when something unexpected happens', async () => {
    const failed = await runDemo(join(directory, 'missing'))
    expect(failed.exitCode).toBe(1)
    expect(failed.stderr).toMatch(/The demo broke off: .*no such file or directory.* \(ENOENT\)\n$/)
  }, TIMEOUT_MS)

  function journalPath(): string {
    const path = /^ {3}Journal: (.*)$/m.exec(outcome.stdout)?.[1] ?? ''
    expect(existsSync(path), `the printed path ${path} exists`).toBe(true)
    return path
  }
})

/** Runs it with a temporary directory of our own, so that what it keeps is ours to remove. */
async function runDemo(temporary: string): Promise<Outcome> {
  const env = { ...process.env, TMPDIR: temporary, TEMP: temporary, TMP: temporary }
  const child = spawn(process.execPath, [DEMO], { env, stdio: ['ignore', 'pipe', 'pipe'] })
  const [stdout, stderr, [exitCode]] = (await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, 'close'),
  ])) as [string, string, [number | null]]
  return { exitCode, stdout, stderr }
}
