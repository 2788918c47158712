import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { createRequire, isBuiltin } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'

import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { type Comparison, readResults, type Section } from '../bench/results.ts'

const BENCH = join(import.meta.dirname, '../bench')
/** The package that provides the real records. */
const DATA_PACKAGES = new Map([
  ['webhook payloads', '@octokit/webhooks-examples'],
  ['flights-200k', 'vega-datasets'],
])

const PEERS = ['better-sqlite3', 'node:sqlite', 'classic-level', 'lmdb']
const STATE_PEERS = ['better-sqlite3', 'node:sqlite', 'write-file-atomic', 'lowdb']
const QUEUE_PEERS = ['better-sqlite3', 'node:sqlite', 'plainjob', 'liteque']
/** Peers that may be installed but not work, because better-sqlite3 failed to compile. */
const COMPILED_PEERS = new Set(['better-sqlite3', 'plainjob', 'liteque'])

/** Several times the duration beside two other test files, plus time to install the peers. */
const TIMEOUT_MS = 240_000

/** The output of a process, and how it ended. */
interface Outcome {
  readonly exitCode: number | null
  readonly stdout: string
  readonly stderr: string
}

describe('a quick run', () => {
  let directory: string
  let sections: Section[]
  let outcome: Outcome

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'ministore-bench-test-'))
    await mkdir(join(directory, 'journals'))
    const journals = join(directory, 'journals')
    outcome = await runBench(['--quick', '--dir', journals, '--out', join(directory, 'out')])
    sections = readResults(join(directory, 'out'))
  }, TIMEOUT_MS)

  afterAll(async () => {
    await rm(directory, { recursive: true, force: true })
  })

  test('ends with exit code 0, runs every case, and leaves no journal behind', () => {
    expect(outcome.exitCode, outcome.stderr).toBe(0)
    const names = [
      'append', 'append-all', 'replay', 'bytes', 'replicate', 'followers', 'scale', 'segments', 'start-stop', 'state', 'queue',
      'durability',
    ]
    expect(sections.map(({ name }) => name)).toEqual(names)
    expect(readdirSync(join(directory, 'journals'))).toEqual([])
  })

  test.each<[string, string[], string[]?]>([
    ['append', ['100B', '1KiB', '64KiB'].flatMap((size) => [`=${size} callers=1`, `=${size} callers=64`])],
    ['append-all', ['records=10 ', 'records=100 ', 'records=1000 ']],
    ['replay', ['150B, ASCII', '150B, beyond ASCII', 'webhook payloads', 'flights-200k']],
    ['start-stop', ['import in a fresh process', 'open and close']],
    ['state', ['keys=100 ', 'keys=10000 '], STATE_PEERS],
    ['queue', ['enqueue', 'drain, one at a time', 'drain, up to 32', 'end to end'], QUEUE_PEERS],
  ])('of %s compares the floor, this library and every installed peer', (name, everything, peers = PEERS) => {
    const { comparisons, missing } = sectionOf(name)
    // Real records come from packages; the output must name a package that is not installed.
    const isThere = (label: string): boolean => {
      const source = DATA_PACKAGES.get(label)
      return source === undefined || isInstalled(source)
    }
    const labels = everything.filter(isThere)
    const absent = everything.filter((label) => !isThere(label))
    expect(missing.map(({ name: lack }) => lack)).toEqual(expect.arrayContaining(absent))
    for (const label of labels) {
      const comparison = comparisons.find((candidate) => `${candidate.label} `.includes(label))
      expect(comparison, `${name}: ${label}`).toBeDefined()
      expectComplete(name, comparison as Comparison, peers)
    }
    expect(comparisons).toHaveLength(labels.length)
  })

  test('of append measures the event loop for everything that appends', () => {
    const { figures, comparisons } = sectionOf('append')
    expect(figures).toHaveLength(2)
    const appending = (comparisons[0] as Comparison).rows.filter(({ name }) => !/^(?:C, |Rust )/.test(name))
    for (const { rows } of figures) {
      expect(rows.map(({ name }) => name).toSorted()).toEqual(appending.map(({ name }) => name).toSorted())
    }
  })

  test('of replay reads in every way there is', () => {
    for (const { rows } of sectionOf('replay').comparisons) {
      const names = rows.map(({ name }) => name)
      for (const way of ['for await', 'getReader()', 'pipeThrough()', 'entries()', 'replay()']) {
        expect(names).toContain(`ministore, ${way}`)
      }
      expect(names).toContain('createReadStream, readline, JSON.parse')
      if (isInstalled('split2')) expect(names).toContain('createReadStream, split2(JSON.parse)')
    }
  })

  test('of bytes compares raw bytes, bytes() and records, to nowhere and through gzip', () => {
    const { comparisons } = sectionOf('bytes')
    expect(comparisons.map(({ label }) => label.replace(/,.*/, ''))).toEqual(['to nowhere', 'through gzip'])
    for (const { rows } of comparisons) {
      const names = rows.map(({ name }) => name.replace(/,.*/, ''))
      expect(names.toSorted()).toEqual(['bytes()', 'bytes()', 'createReadStream', 'stream()'])
      expect(rows.find(({ role }) => role === 'floor')?.name).toMatch(/^createReadStream/)
    }
  })

  test('of scale measures three sizes, each with its memory along the way', () => {
    const { figures, courses } = sectionOf('scale')
    expect(figures.flatMap(({ rows }) => rows.map(({ name }) => name))).toEqual(['1 MiB', '2 MiB', '4 MiB'])
    for (const { points } of courses.flatMap(({ lines }) => lines)) expect(points.length).toBeGreaterThan(100)
    expect(courses.flatMap(({ lines }) => lines)).toHaveLength(3)
  })

  test('of state opens journals with and without a snapshot, and writes and reads snapshots', () => {
    const { figures } = sectionOf('state')
    const names = figures.map(({ rows }) => rows.map(({ name }) => name))
    const states = ['state=0.1MB', 'state=0.2MB', 'state=0.4MB']
    const views = [['records=2000'], ['the process of the writer', 'another process']]
    expect(names).toEqual([['mutations=2000', 'mutations=4000', 'mutations=8000'], states, states, ...views])
    for (const { rows } of figures.slice(0, 3)) {
      // Stalls may be too short to detect, and memory cannot be measured on every platform.
      for (const { cells } of rows) expect(Number(cells[0]) * Number(cells[1])).toBeGreaterThan(0)
    }
  })

  test('of queue watches the event loop in each way of emptying one', () => {
    const { comparisons, figures } = sectionOf('queue')
    const ways = comparisons.find(({ label }) => label.startsWith('drain, up to 32')) as Comparison
    const names = ways.rows.filter(({ role }) => role !== 'floor').map(({ name }) => name)
    const own = ['miniqueue, consume prefetch=32', 'miniqueue, process concurrency=32']
    expect(names).toEqual(expect.arrayContaining(own))
    expect(figures.map(({ rows }) => rows.map(({ name }) => name).toSorted())).toEqual([names.toSorted()])
  })

  test('of durability counts one sync for each append of this library, or says why it cannot', () => {
    const { figures, missing } = sectionOf('durability')
    const [row] = figures.flatMap(({ rows }) => rows.filter(({ name }) => name === 'ministore'))
    if (row === undefined) expect(missing.map(({ name }) => name).join()).toContain('strace')
    else expect(row.cells).toEqual(['1.00', '1.00'])
  })

  test('gives a reason for everything that it could not measure', () => {
    for (const { missing } of sections) {
      for (const { reason } of missing) expect(reason).toMatch(/\w+ \w+/)
    }
    const told = sectionOf('append').missing.map(({ name }) => name)
    const measured = (sectionOf('append').comparisons[0] as Comparison).rows.map(({ name }) => name)
    for (const peer of PEERS) expect([...told, ...measured]).toContain(peer)
  })

  test('writes a page that names no path of this machine, with plots that are there', () => {
    const page = readFileSync(join(directory, 'out/RESULTS.md'), 'utf8')
    for (const { title, command } of sections) {
      expect(page).toContain(`## ${title}\n`)
      expect(page).toContain(`\`${command}\``)
      expect(outcome.stdout).toContain(`## ${title}\n`)
    }
    expect(page).not.toMatch(/\(\/|`\/|NaN|undefined|Infinity/)
    expect(page).not.toContain(directory)
    const plots = [...page.matchAll(/!\[[^\]]+\]\(([^)]+)\)/g)].map(([, file]) => file as string)
    if (isInstalled('echarts')) expect(plots.length).toBeGreaterThanOrEqual(6)
    for (const plot of plots) {
      const svg = readFileSync(join(directory, 'out', plot), 'utf8')
      expect(svg).toMatch(/^<svg /)
      expect(svg.length, plot).toBeLessThan(60_000)
    }
  })

  function sectionOf(name: string): Section {
    const section = sections.find((candidate) => candidate.name === name)
    expect(section, `${name} is in the results`).toBeDefined()
    return section as Section
  }

  function expectComplete(section: string, { label, rows }: Comparison, peers: readonly string[]): void {
    expect(rows.filter(({ role }) => role === 'floor'), label).toHaveLength(1)
    expect(rows.some(({ role }) => role === 'library'), label).toBe(true)
    for (const { time, ratio } of rows) expect(Math.min(time, ratio.median), label).toBeGreaterThan(0)
    const told = new Set(sectionOf(section).missing.map(({ name }) => name))
    for (const peer of peers) {
      const isMeasured = rows.some(({ name, role }) => role === 'peer' && name.includes(peer))
      // A peer that needs no compiler must run where it is installed. The others may say why not.
      const mustBe = peer === 'node:sqlite' ? isBuiltin(peer) : !COMPILED_PEERS.has(peer) && isInstalled(peer)
      expect(isMeasured, `${peer}, ${label}`).toBe(mustBe || !told.has(peer))
    }
  }
})

describe('the peers', () => {
  test('are locked without saying where they were downloaded from', () => {
    const lock = readFileSync(join(BENCH, 'package-lock.json'), 'utf8')
    expect(lock).toContain('"integrity": "sha512-')
    expect(lock).not.toMatch(/"resolved":/)
  })

  test('are no packages of the library', () => {
    const lock = readFileSync(join(BENCH, '../package-lock.json'), 'utf8')
    const names = ['better-sqlite3', 'classic-level', 'lmdb', 'echarts', 'vega-datasets']
    for (const name of [...names, 'lowdb', 'write-file-atomic', 'plainjob', 'liteque']) {
      expect(lock).not.toContain(`node_modules/${name}"`)
    }
  })
})

function isInstalled(name: string): boolean {
  const [first] = createRequire(join(BENCH, 'package.json')).resolve.paths(name) ?? []
  return existsSync(join(first ?? '', name, 'package.json'))
}

async function runBench(given: readonly string[]): Promise<Outcome> {
  const program = [join(BENCH, 'start.js'), ...given]
  const child = spawn(process.execPath, program, { stdio: ['ignore', 'pipe', 'pipe'] })
  const [stdout, stderr, [exitCode]] = (await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, 'close'),
  ])) as [string, string, [number | null]]
  return { exitCode, stdout, stderr }
}
