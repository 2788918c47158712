import { MiniStore, MiniStoreError, type OpenOptions } from '../../../src/index.ts'
import type { SimulatedFileSystem } from '../../../src/testing/index.ts'
import { Continuations, keyOf, type Oracle, type StateKind } from '../harness.ts'
import { type ExpectedJournal, journalPath } from './model.ts'
import { OrderMonitor } from './order-monitor.ts'
import { withoutPadding } from './order-rules.ts'

/** What a state of the disk held. */
export interface FoundJournal {
  /** The error with which the journal did not open; undefined if it opened. */
  readonly damage: MiniStoreError | undefined
  /**
   * Sequence number and JSON of each record. If the journal did not open, these are the records
   * that a static reader gave before the damage.
   */
  readonly entries: ReadonlyArray<readonly [sequence: number, json: string]>
  /** The identity that open told. */
  readonly id: string | undefined
  readonly first: number
  readonly last: number
  /** The last record that a crash right after open leaves. */
  readonly durable: number
  /** The error that a reader of the state after that crash ends with, if any. */
  readonly durableError: unknown
  readonly hasRecovered: boolean
}

/**
 * The rules of the durability contract and of recovery. They hold whatever was written and wherever
 * the crash came.
 */
export class JournalOracle implements Oracle<ExpectedJournal, FoundJournal> {
  /**
   * How often damage was accepted: a write of many lines lost its beginning, which leaves a NUL
   * before the last line (FORMAT.md).
   */
  toleratedDamage = 0
  readonly #options: OpenOptions
  /** What the second open and the next append lead to. */
  readonly #continuations = new Continuations<{ readonly sequence: number; readonly operations: number }>()

  constructor(options: OpenOptions = {}) {
    this.#options = options
  }

  async find(state: SimulatedFileSystem): Promise<FoundJournal> {
    const before = state.snapshot()
    const read = await readWithoutOpening(state)
    const order = OrderMonitor.of(state, journalPath)
    order.begin()
    const store = await openOrDamage(state)
    if (store instanceof MiniStoreError) {
      assertSameFiles(before, state.snapshot(), 'the open that found damage')
      order.assertInOrder()
      return {
        damage: store,
        entries: read.entries,
        id: undefined,
        first: 0,
        last: 0,
        durable: 0,
        durableError: undefined,
        hasRecovered: false,
      }
    }
    order.settled('open')
    const { id, recovery, firstSequence: first, lastSequence: last } = store
    assert(id !== undefined, 'open gave no identity, though there was room')
    assert(state.readFile(journalPath).includes(` id=${id}`), 'the active segment does not have the identity that open told')
    assert(read.error === undefined, `a static reader failed where open did not: ${String(read.error)}`)
    const entries = await entriesOf(store.entries())
    assertSameEntries(entries, read.entries, 'the static reader before recovery')
    assert(
      entries.every(([sequence], index) => sequence === first + index),
      'the sequence has a gap',
    )
    assert(entries.length === last - first + 1, `${entries.length} records, but sequence ${first} to ${last}`)
    assertEvidence(before, state, store)
    // Open makes everything it gives durable, so a crash at this moment takes none of it.
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
    const { result, isKnown } = await this.#continuations.of({ state, recovery }, async () => {
      const operationsBefore = OrderMonitor.operations
      const sequence = await appendAfterSecondOpen(state, order)
      return { sequence, operations: OrderMonitor.operations - operationsBefore }
    })
    if (isKnown) OrderMonitor.repeat(result.operations)
    assert(result.sequence === last + 1, `the next append is ${result.sequence}, expected ${last + 1}`)
    const { isNew, isActiveRestored, torn, removedFiles } = recovery
    const isIdentified = !isNew && !(before.get(journalPath)?.includes(' id=') ?? true)
    const hasRecovered = isNew || isActiveRestored || isIdentified || torn !== undefined || removedFiles.length > 0
    return { damage: undefined, entries, id, first, last, durable, durableError, hasRecovered }
  }

  check(found: FoundJournal, expected: ExpectedJournal, options: StateKind): void {
    const { issued, acknowledged, floor, isManyLines, id, exactly } = expected
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
    // Last: a journal that lost its records is begun anew, which the claims above say better.
    assert(id === undefined || found.id === id, `it has the identity ${found.id}, ${id} was told`)
  }

  hasRecovered(found: FoundJournal): boolean {
    return found.hasRecovered
  }

  async recover(state: SimulatedFileSystem): Promise<void> {
    const order = OrderMonitor.of(state, journalPath)
    order.begin()
    const store = await MiniStore.open(journalPath, { ...this.#options, fileSystem: state })
    order.settled('open')
    await store.close()
    order.assertInOrder()
  }

  expectedInside(expected: ExpectedJournal, found: FoundJournal): ExpectedJournal {
    return { ...expected, isManyLines: false, exactly: found.last }
  }
}

/** Returns what a reader in another process sees. Such a reader must leave no trace. */
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

/**
 * Checks that the evidence file holds exactly the bytes cut off the end, and that nothing else was
 * cut.
 */
function assertEvidence(
  before: ReadonlyMap<string, Buffer>,
  state: SimulatedFileSystem,
  store: MiniStore,
): void {
  const was = withoutPadding(before.get(journalPath) ?? Buffer.alloc(0))
  const { torn, isNew, isActiveRestored } = store.recovery
  if (isNew || isActiveRestored) return
  const kept = was.subarray(0, torn?.offset ?? was.length)
  const header = kept.subarray(0, kept.indexOf('\n') + 1)
  // A journal of an old version got its identity: by another header if it had no record, else by a
  // rotation.
  const isOld = !header.includes(' id=')
  if (!isOld || header.length < kept.length) {
    const path = isOld ? (store.segments.at(-2)?.path ?? '') : journalPath
    assert(kept.equals(state.readFile(path)), 'recovery changed more than the torn tail')
  }
  if (isOld) {
    assert(state.readFile(journalPath).indexOf('\n') === state.readFile(journalPath).length - 1, 'there is more than a header')
    const sealed = [...before.keys()].filter((path) => /\.\d+$/.test(path)).length
    assert(store.segments.length - 1 === sealed + (header.length < kept.length ? 1 : 0), 'segments came or went')
  }
  if (torn === undefined) return
  assert(torn.savedAs !== undefined, 'no evidence was kept, though there was room')
  assert(state.readFile(torn.savedAs).equals(was.subarray(torn.offset)), 'the evidence is not what was cut')
  for (const [path, bytes] of before) {
    if (!/\.torn-\d+(?:-\d+)?$/.test(path)) continue
    assert(
      state.exists(path) && state.readFile(path).equals(bytes),
      `the older evidence ${path} was overwritten`,
    )
  }
}

/**
 * Checks that the second open recovers nothing and changes no byte, and that the next append adds
 * its line and nothing else. Returns the sequence number of that append.
 */
async function appendAfterSecondOpen(state: SimulatedFileSystem, order: OrderMonitor): Promise<number> {
  const before = state.snapshot()
  order.begin()
  const store = await MiniStore.open(journalPath, { fileSystem: state })
  assertSameFiles(before, state.snapshot(), 'the second open')
  const { isNew, isActiveRestored, torn, removedFiles } = store.recovery
  const isClean = !isNew && !isActiveRestored && torn === undefined && removedFiles.length === 0
  assert(isClean, `the second open recovers again: ${JSON.stringify(store.recovery)}`)
  const sequence = await store.append('probe')
  order.acknowledge(sequence, ['"probe"'])
  before.set(
    journalPath,
    Buffer.concat([before.get(journalPath) ?? Buffer.alloc(0), Buffer.from('"probe"\n')]),
  )
  assertSameFiles(before, state.snapshot(), 'the next append, besides adding its line,')
  await store.close()
  order.assertInOrder()
  return sequence
}

function assertSameEntries(
  actual: FoundJournal['entries'],
  expected: FoundJournal['entries'],
  after: string,
): void {
  const [a, b] = [JSON.stringify(actual), JSON.stringify(expected)]
  assert(a === b, `after ${after} there is ${a}, expected ${b}`)
}

/** Compares all files byte for byte, except the empty lock file. */
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
