import { createHash } from 'node:crypto'

import { MiniStore, MiniStoreError, type OpenOptions } from '../../src/index.ts'
import { type Operation, SimulatedFileSystem, type TornVariant } from '../../src/testing/index.ts'
import { createRandom, type Random } from '../../src/testing/random.ts'

/** Something that runs on a simulated file system and knows, at any moment, what it has been promised. */
export interface Workload<Expected> {
  readonly name: string
  /** Runs to its end. */
  run(files: SimulatedFileSystem): Promise<void>
  /**
   * What a crash at this moment may and may not leave. Called before each operation; the states are
   * judged when the
   * run has ended, so what a step decides only at its end may still be filled in then.
   */
  expected(): Expected
}

/**
 * Knows how to open what a crash has left and whether it may be so. The same for all workloads of one
 * module.
 */
export interface Oracle<Expected, Found> {
  /**
   * Opens a state, uses it, and tells what it held. Throws for whatever must hold of every state, wherever it
   * comes from. May change the state.
   */
  find(state: SimulatedFileSystem): Promise<Found>
  /**
   * Throws unless what was found is allowed.
   *
   * @param options.isHarsh whether the state may hold a write that lost its beginning, or garbage in
   * place of it.
   */
  check(found: Found, expected: Expected, options: StateKind): void
  /** Whether opening had something to repair: such a repair is then itself crashed at every operation. */
  hasRecovered(found: Found): boolean
  /** Opens a state and closes it: what is crashed then. */
  recover(state: SimulatedFileSystem): Promise<void>
  /** What a crash inside that recovery may leave. */
  expectedInside(expected: Expected, found: Found): Expected
}

/** What a state may hold besides what was written. */
export interface StateKind {
  readonly isHarsh: boolean
}

/** How much was looked at; a shrinking suite shows here. */
export interface CrashCounts {
  /** Operations before which the disk was crashed. */
  moments: number
  /**
   * States that were judged; one that comes up at two moments counts twice, since other things are
   * expected.
   */
  judged: number
  /** States that differ from all others in names or bytes; each was opened. */
  distinct: number
  /** States of a killed process on a system that lives on. */
  killed: number
  /** Recoveries that were crashed in their turn. */
  recoveries: number
}

export interface CrashOptions {
  readonly seed: number
  /** States to take before each operation, at most, for each group of torn variants. */
  readonly limit: number
  /** Of states that need recovery, one of so many is crashed inside it. @default 8 */
  readonly insideEvery?: number
  /** Says whether to take states at this moment. @default always */
  readonly isTaken?: () => boolean
  /**
   * Changes whenever the same visible and durable bytes may mean something else, such as after a
   * failed sync.
   */
  readonly epoch?: () => number
}

/** States a crash leaves when the interrupted write is cut, or its end never came: these must always heal. */
const mildVariants: readonly TornVariant[] = ['cut', 'zeros']
/** States with bytes that nobody wrote, or with the beginning of a write lost. */
const harshVariants: readonly TornVariant[] = ['head-lost', 'garbage']

interface Moment<Expected> {
  readonly operation: string
  readonly expected: Expected
  readonly mild: Iterable<SimulatedFileSystem>
  readonly harsh: Iterable<SimulatedFileSystem>
  readonly killed: SimulatedFileSystem
  readonly epoch: number
}

/** Runs workloads, crashes them before every operation, and judges every state. Counts over all its runs. */
export class CrashHarness<Expected, Found> {
  readonly counts: CrashCounts = { moments: 0, judged: 0, distinct: 0, killed: 0, recoveries: 0 }
  readonly #oracle: Oracle<Expected, Found>
  /** By names and bytes: what a state holds does not depend on how it came to be. */
  readonly #found = new Map<string, Found>()

  constructor(oracle: Oracle<Expected, Found>) {
    this.#oracle = oracle
  }

  async run(
    workload: Workload<Expected>,
    options: CrashOptions,
    files: SimulatedFileSystem = new SimulatedFileSystem(),
  ): Promise<void> {
    await this.#run(workload, files, { ...options, depth: 0 })
  }

  async #run(
    workload: Workload<Expected>,
    files: SimulatedFileSystem,
    options: CrashOptions & { readonly depth: number },
  ): Promise<void> {
    const { seed, limit } = options
    const moments: Array<Moment<Expected>> = []
    const take = (operation: string): void => {
      // Both generators copy the disk now and make the states later, when the run has ended.
      moments.push({
        operation,
        expected: workload.expected(),
        mild: files.crashStates({ seed, limit, tornVariants: mildVariants }),
        harsh: files.crashStates({ seed, limit, tornVariants: harshVariants }),
        killed: files.afterKill(),
        epoch: options.epoch?.() ?? 0,
      })
    }
    const stop = files.onOperation((operation) => {
      if (options.isTaken?.() === false) return
      // What a call that changes nothing is about to do makes no state that the one before it did not.
      if (operation.changesDisk || operation.operation === 'close') take(describe(operation))
    })
    try {
      await workload.run(files)
    } finally {
      stop()
    }
    take('the end')
    const random = createRandom(seed, options.depth)
    const killed = new Map<string, Found>()
    for (const moment of moments) await this.#judgeMoment(workload, moment, { ...options, random, killed })
  }

  async #judgeMoment(
    workload: Workload<Expected>,
    moment: Moment<Expected>,
    options: RunOptions<Found>,
  ): Promise<void> {
    const { operation, expected, killed } = moment
    const where = `${workload.name}, seed ${options.seed}, before ${operation}`
    this.counts.moments += 1
    for (const state of moment.mild) await this.#judge(state, { where, expected, isHarsh: false }, options)
    for (const state of moment.harsh) await this.#judge(state, { where, expected, isHarsh: true }, options)
    const [visible, durable] = [keyOf(killed), keyOf(killed.afterCrash({ keep: 'none' }))]
    // With nothing pending it is a state of the power failure, and judged already.
    if (visible === durable) return
    const key = `${visible} ${durable} ${moment.epoch}`
    const whereKilled = `${where}, killed`
    const found =
      options.killed.get(key) ??
      (await explained(whereKilled, killed, () => this.#oracle.find(killed.afterKill())))
    options.killed.set(key, found)
    this.counts.killed += 1
    await explained(whereKilled, killed, () =>
      this.#oracle.check(found, expected, { isHarsh: false }),
    )
  }

  async #judge(
    state: SimulatedFileSystem,
    moment: { readonly where: string; readonly expected: Expected; readonly isHarsh: boolean },
    options: RunOptions<Found>,
  ): Promise<void> {
    const { where, expected, isHarsh } = moment
    this.counts.judged += 1
    const key = keyOf(state)
    const known = this.#found.get(key)
    const found = known ?? (await explained(where, state, () => this.#oracle.find(state.afterKill())))
    await explained(where, state, () => this.#oracle.check(found, expected, { isHarsh }))
    if (known !== undefined) return
    this.#found.set(key, found)
    this.counts.distinct += 1
    const isChosen = options.random.below(options.insideEvery ?? 8) === 0
    if (options.depth > 0 || !isChosen || !this.#oracle.hasRecovered(found)) return
    this.counts.recoveries += 1
    const inside = this.#oracle.expectedInside(expected, found)
    const recovery: Workload<Expected> = {
      name: `recovery after (${where})`,
      run: (files) => this.#oracle.recover(files),
      expected: () => inside,
    }
    const { seed, limit } = options
    await this.#run(recovery, state.afterKill(), { seed, limit, depth: 1 })
  }
}

interface RunOptions<Found> extends CrashOptions {
  readonly depth: number
  readonly random: Random
  /** What killed processes of this run left. */
  readonly killed: Map<string, Found>
}

/** Gives a failure the place it comes from and the files as they were. */
async function explained<T>(
  where: string,
  state: SimulatedFileSystem,
  task: () => T | Promise<T>,
): Promise<T> {
  try {
    return await task()
  } catch (error) {
    if (error instanceof CrashFinding) throw error
    throw new CrashFinding(`${where}:\n${String(error)}\nThe disk was:\n${show(state)}`, { cause: error })
  }
}

/** A state that must not be. */
export class CrashFinding extends Error {
  override readonly name = 'CrashFinding'
}

/** Every file on its own lines, as text. */
export function show(state: SimulatedFileSystem): string {
  const lines = [...state.snapshot()].map(
    ([path, bytes]) => `  ${path} ${JSON.stringify(bytes.toString('latin1'))}`,
  )
  return lines.join('\n')
}

/** The same text for the same names and bytes. */
function keyOf(state: SimulatedFileSystem): string {
  const hash = createHash('sha1')
  for (const [path, bytes] of state.snapshot()) hash.update(`${path} ${bytes.length} `).update(bytes)
  return hash.digest('base64')
}

function describe({ index, operation, path, to }: Operation): string {
  return `operation ${index}, ${operation} of ${path}${to === undefined ? '' : ` to ${to}`}`
}

// The journal: what a MiniStore promises.

/** Where the journals of the crash tests lie: two directories deep, so that making them is crashed too. */
export const journalPath = '/data/deep/journal.jsonl'

/** What a crash may leave of a journal. */
export interface ExpectedJournal {
  /**
   * The JSON of every record that may be there, by sequence number from 1 on, whether it was deleted
   * since or not.
   */
  readonly issued: readonly string[]
  /** The last sequence number that must be there. */
  readonly acknowledged: number
  /**
   * Sequence numbers between which the oldest record must lie; `highest` is known when the step under
   * way has ended.
   */
  readonly floor: { readonly lowest: number; readonly highest: number }
  /** Whether a write of several records may be under way. */
  readonly isManyLines: boolean
  /** Set when exactly this must be found: the number of the last record. */
  readonly exactly?: number | undefined
}

/** What a state of the disk held. */
export interface FoundJournal {
  /** Why it did not open. */
  readonly damage: MiniStoreError | undefined
  /** Sequence number and JSON of each record; with damage, what a static reader gave before it. */
  readonly entries: ReadonlyArray<readonly [sequence: number, json: string]>
  readonly first: number
  readonly last: number
  /** The last record that a crash right after open leaves. */
  readonly durable: number
  /** What a reader of the state after that crash fails with. */
  readonly durableError: unknown
  readonly hasRecovered: boolean
}

type Write = readonly string[]

/**
 * A journal as its user knows it: what was issued, what was acknowledged, what was deleted. Workloads
 * write through it.
 */
export class JournalModel {
  readonly #acknowledged: string[] = []
  #inFlight: Write[] = []
  #floor = { lowest: 1, highest: 1 }
  #steps = 0
  #hasFailed = false
  /** Set when a record may or may not be there until the journal is opened anew. */
  isUnknown = false

  /** The expectation now, as {@link Workload.expected} wants it. */
  readonly expected = (): ExpectedJournal => ({
    issued: [...this.#acknowledged, ...this.#inFlight.flat()],
    acknowledged: this.#acknowledged.length,
    floor: this.#floor,
    isManyLines: this.#inFlight.some((write) => write.length > 1),
  })

  /** A model that knows the same and goes on alone. */
  fork(): JournalModel {
    const copy = new JournalModel()
    copy.#acknowledged.push(...this.#acknowledged)
    copy.#inFlight = [...this.#inFlight]
    copy.#floor = this.#floor
    return copy
  }

  get acknowledged(): number {
    return this.#acknowledged.length
  }

  async open(files: SimulatedFileSystem, options: OpenOptions = {}): Promise<MiniStore> {
    const store = await MiniStore.open(journalPath, { ...options, fileSystem: files })
    // What was in flight before is either there by now, for good, or gone.
    const issued = [...this.#acknowledged, ...this.#inFlight.flat()]
    if (store.lastSequence > issued.length)
      throw new Error(`Opened with ${store.lastSequence}, issued ${issued.length}`)
    if (store.lastSequence < this.acknowledged) {
      throw new Error(`Opened with ${store.lastSequence}, acknowledged ${this.acknowledged}`)
    }
    this.#acknowledged.push(...issued.slice(this.#acknowledged.length, store.lastSequence))
    this.#inFlight = []
    this.isUnknown = false
    this.#settleFloor(store)
    return store
  }

  append(store: MiniStore, record: unknown): Promise<void> {
    return this.#write(store, [record], async () => {
      const sequence = await store.append(record)
      return { first: sequence, last: sequence }
    })
  }

  appendAll(store: MiniStore, records: readonly unknown[]): Promise<void> {
    return this.#write(store, records, () => store.appendAll(records))
  }

  rotate(store: MiniStore): Promise<void> {
    return this.#step(store, () => store.rotate())
  }

  truncateBefore(store: MiniStore, sequence: number): Promise<void> {
    return this.#step(store, () => store.truncateBefore(sequence))
  }

  async #write(
    store: MiniStore,
    records: readonly unknown[],
    task: () => Promise<{ first: number; last: number }>,
  ): Promise<void> {
    const write: Write = records.map((record) => JSON.stringify(record))
    this.#inFlight.push(write)
    try {
      await this.#step(store, async () => {
        const { first, last } = await task()
        const expected = [this.#acknowledged.length + 1, this.#acknowledged.length + records.length]
        if (first !== expected[0] || last !== expected[1]) {
          throw new Error(`Expected the sequence numbers ${expected.join(' to ')}, got ${first} to ${last}`)
        }
        this.#acknowledged.push(...write)
        this.#forget(write)
      })
    } catch (error) {
      const code = error instanceof MiniStoreError ? error.code : undefined
      if (code === 'ERR_MINISTORE_OUTCOME_UNKNOWN') this.isUnknown = true
      // Every other rejection says that nothing of it was written, or that what was is gone.
      else this.#forget(write)
      throw error
    }
  }

  #forget(write: Write): void {
    this.#inFlight = this.#inFlight.filter((other) => other !== write)
  }

  async #step(store: MiniStore, task: () => Promise<void>): Promise<void> {
    // Whether it deletes anything, and how much, is known when it has ended; overlapping steps share one
    // floor.
    if (this.#steps === 0) this.#floor = { lowest: this.#floor.lowest, highest: Infinity }
    this.#steps += 1
    try {
      await task()
    } catch (error) {
      this.#hasFailed = true
      throw error
    } finally {
      this.#steps -= 1
      if (this.#steps === 0) this.#settleFloor(store)
    }
  }

  #settleFloor(store: MiniStore): void {
    const { firstSequence } = store
    this.#floor.highest = firstSequence
    // What a step that failed has deleted may come back.
    this.#floor = { lowest: this.#hasFailed ? this.#floor.lowest : firstSequence, highest: firstSequence }
    this.#hasFailed = false
  }
}

/** The rules of DESIGN.md §5 and §6 that hold whatever was written and wherever the crash came. */
export class JournalOracle implements Oracle<ExpectedJournal, FoundJournal> {
  /**
   * How often damage was accepted: a write of many lines that lost its beginning (DESIGN.md §6, NUL
   * before the last line).
   */
  toleratedDamage = 0
  readonly #options: OpenOptions

  constructor(options: OpenOptions = {}) {
    this.#options = options
  }

  async find(state: SimulatedFileSystem): Promise<FoundJournal> {
    const before = state.snapshot()
    const read = await readWithoutOpening(state)
    const store = await openOrDamage(state)
    if (store instanceof MiniStoreError) {
      assertSameFiles(before, state.snapshot(), 'the open that found damage')
      return {
        damage: store,
        entries: read.entries,
        first: 0,
        last: 0,
        durable: 0,
        durableError: undefined,
        hasRecovered: false,
      }
    }
    const { recovery, firstSequence: first, lastSequence: last } = store
    assert(read.error === undefined, `a static reader failed where open did not: ${String(read.error)}`)
    const entries = await entriesOf(store.entries())
    assertSameEntries(entries, read.entries, 'the static reader before recovery')
    assert(
      entries.every(([sequence], index) => sequence === first + index),
      'the sequence has a gap',
    )
    assert(entries.length === last - first + 1, `${entries.length} records, but sequence ${first} to ${last}`)
    assertEvidence(before, state, store)
    // Open has made durable all that it gives, so a crash right now takes none of it.
    const crashed = state.afterCrash({ keep: 'none' })
    let durable = last
    let durableError: unknown
    if (keyOf(crashed) !== keyOf(state)) {
      const kept = await readWithoutOpening(crashed)
      durable = kept.entries.at(-1)?.[0] ?? first - 1
      durableError = kept.error
      const common = entries.slice(0, kept.entries.length)
      assertSameEntries(kept.entries, common, 'a crash right after open')
    }
    await store.close()
    await assertSecondOpenChangesNothing(state, last)
    const { isNew, isActiveRestored, torn, removedFiles } = recovery
    const hasRecovered = isNew || isActiveRestored || torn !== undefined || removedFiles.length > 0
    return { damage: undefined, entries, first, last, durable, durableError, hasRecovered }
  }

  check(found: FoundJournal, expected: ExpectedJournal, options: StateKind): void {
    const { issued, acknowledged, floor, isManyLines, exactly } = expected
    for (const [sequence, json] of found.entries) {
      assert(
        issued[sequence - 1] === json,
        `record ${sequence} is ${json}, issued was ${issued[sequence - 1]}`,
      )
    }
    if (found.damage !== undefined) {
      const { code, sequence = 0, message } = found.damage
      const isTolerated =
        options.isHarsh && isManyLines && code === 'ERR_MINISTORE_CORRUPT' && sequence > acknowledged
      assert(isTolerated, `it does not open: ${code} ${message}`)
      const read = Math.max(found.entries.at(-1)?.[0] ?? 0, floor.highest - 1)
      assert(
        read >= acknowledged,
        `a reader of the damaged journal gives ${read} of ${acknowledged} acknowledged records`,
      )
      this.toleratedDamage += 1
      return
    }
    assert(
      found.last >= acknowledged,
      `${found.last} is the last record, but ${acknowledged} were acknowledged`,
    )
    assert(
      found.last <= issued.length,
      `${found.last} is the last record, but only ${issued.length} were issued`,
    )
    assert(
      found.first >= floor.lowest,
      `deleted records are back: ${found.first}, expected ${floor.lowest} or more`,
    )
    assert(
      found.first <= floor.highest,
      `records are gone: ${found.first}, expected ${floor.highest} or less`,
    )
    assert(
      found.durable >= acknowledged,
      `a crash right after open leaves ${found.durable} of ${acknowledged} acknowledged`,
    )
    assert(
      found.durable === found.last && found.durableError === undefined,
      `a crash right after open leaves ${found.durable} of ${found.last} records that it gave; reading them: ${String(found.durableError)}`,
    )
    if (exactly !== undefined)
      assert(found.last === exactly, `${found.last} is the last record, expected ${exactly}`)
  }

  hasRecovered(found: FoundJournal): boolean {
    return found.hasRecovered
  }

  async recover(state: SimulatedFileSystem): Promise<void> {
    const store = await MiniStore.open(journalPath, { ...this.#options, fileSystem: state })
    await store.close()
  }

  expectedInside(expected: ExpectedJournal, found: FoundJournal): ExpectedJournal {
    return { ...expected, isManyLines: false, exactly: found.last }
  }
}

/** What a reader of another process sees, which must leave no trace. */
async function readWithoutOpening(state: SimulatedFileSystem): Promise<{
  readonly entries: FoundJournal['entries']
  readonly error: unknown
}> {
  const before = state.snapshot()
  const entries: Array<readonly [number, string]> = []
  let failure: unknown
  const stop = state.onOperation(({ operation, path, changesDisk }) => {
    if (changesDisk) failure = new Error(`a static reader did ${operation} on ${path}`)
  })
  try {
    for await (const { sequence, record } of MiniStore.entries(journalPath, { fileSystem: state })) {
      entries.push([sequence, JSON.stringify(record)])
    }
  } catch (error) {
    failure ??= error
  }
  stop()
  assertSameFiles(before, state.snapshot(), 'a static reader')
  return { entries, error: failure }
}

async function openOrDamage(state: SimulatedFileSystem): Promise<MiniStore | MiniStoreError> {
  try {
    return await MiniStore.open(journalPath, { fileSystem: state })
  } catch (error) {
    if (error instanceof MiniStoreError && error.code === 'ERR_MINISTORE_CORRUPT') return error
    throw error
  }
}

async function entriesOf(
  stream: AsyncIterable<{ readonly sequence: number; readonly record: unknown }>,
): Promise<FoundJournal['entries']> {
  const entries: Array<readonly [number, string]> = []
  for await (const { sequence, record } of stream) entries.push([sequence, JSON.stringify(record)])
  return entries
}

/** What was taken off the end is in the evidence file, to the byte, and nothing else was taken off. */
function assertEvidence(
  before: ReadonlyMap<string, Buffer>,
  state: SimulatedFileSystem,
  store: MiniStore,
): void {
  const was = before.get(journalPath) ?? Buffer.alloc(0)
  const { torn, isNew, isActiveRestored } = store.recovery
  if (isNew || isActiveRestored) return
  const kept = was.subarray(0, torn?.offset ?? was.length)
  assert(kept.equals(state.readFile(journalPath)), 'recovery changed more than the torn tail')
  if (torn === undefined) return
  assert(state.readFile(torn.savedAs).equals(was.subarray(torn.offset)), 'the evidence is not what was cut')
  for (const [path, bytes] of before) {
    if (!/\.torn-\d+(?:-\d+)?$/.test(path)) continue
    assert(
      state.exists(path) && state.readFile(path).equals(bytes),
      `the older evidence ${path} was overwritten`,
    )
  }
}

/** The second open finds nothing to do, leaves identical bytes, and the next append lands right behind. */
async function assertSecondOpenChangesNothing(state: SimulatedFileSystem, last: number): Promise<void> {
  const before = state.snapshot()
  const store = await MiniStore.open(journalPath, { fileSystem: state })
  assertSameFiles(before, state.snapshot(), 'the second open')
  const { isNew, isActiveRestored, torn, removedFiles } = store.recovery
  const isClean = !isNew && !isActiveRestored && torn === undefined && removedFiles.length === 0
  assert(isClean, `the second open recovers again: ${JSON.stringify(store.recovery)}`)
  const sequence = await store.append('probe')
  assert(sequence === last + 1, `the next append is ${sequence}, expected ${last + 1}`)
  before.set(
    journalPath,
    Buffer.concat([before.get(journalPath) ?? Buffer.alloc(0), Buffer.from('"probe"\n')]),
  )
  assertSameFiles(before, state.snapshot(), 'the next append, besides adding its line,')
  await store.close()
}

function assertSameEntries(
  actual: FoundJournal['entries'],
  expected: FoundJournal['entries'],
  after: string,
): void {
  const [a, b] = [JSON.stringify(actual), JSON.stringify(expected)]
  assert(a === b, `after ${after} there is ${a}, expected ${b}`)
}

/** Byte for byte, but for the empty file of the lock. */
function assertSameFiles(
  before: ReadonlyMap<string, Buffer>,
  after: ReadonlyMap<string, Buffer>,
  what: string,
): void {
  const text = (files: ReadonlyMap<string, Buffer>): string =>
    [...files]
      .filter(([path]) => !path.endsWith('.lock'))
      .map(([path, bytes]) => `${path} ${bytes.toString('latin1')}`)
      .join('\n')
  assert(text(before) === text(after), `${what} changed files, from:\n${text(before)}\nto:\n${text(after)}`)
}

function assert(claim: boolean, otherwise: string): asserts claim {
  if (!claim) throw new Error(otherwise)
}
