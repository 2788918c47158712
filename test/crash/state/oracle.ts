import { MiniStoreError } from '../../../src/index.ts'
import type { SimulatedFileSystem } from '../../../src/testing/index.ts'
import { Continuations, keyOf, type Oracle, show, type StateKind } from '../harness.ts'
import { type ExpectedState, type LogManager, openLog, snapshotsIn, stateDirectory } from './model.ts'

/** What a state of the disk held. */
export interface FoundState {
  /** The log of the recovered state: one entry per mutation. */
  readonly log: readonly string[]
  /** Every past state from this sequence number on is available. */
  readonly answersFrom: number
  readonly hasRecovered: boolean
  /** Why it does not open. */
  readonly damage?: MiniStoreError | undefined
}

/** How many snapshots the oracle's own managers keep. */
const keep = 2

/** The rules that hold for a state manager whatever was applied and wherever the crash came. */
export class StateOracle implements Oracle<ExpectedState, FoundState> {
  /** How many past states were requested. */
  pastStates = 0
  /** How many states did not open because a write of several mutations lost its middle. */
  toleratedDamage = 0
  /** The log that the second open gives, before what follows it. */
  readonly #continuations = new Continuations<string>()

  async find(state: SimulatedFileSystem): Promise<FoundState> {
    const hadTemporary = temporaryIn(state).length > 0
    const kept = visibleSnapshots(state)
    const opened = await openLog(state).catch((error: unknown) => error)
    if (opened instanceof MiniStoreError && opened.code === 'ERR_MINISTORE_CORRUPT') {
      return { log: [], answersFrom: 0, hasRecovered: false, damage: opened }
    }
    if (opened instanceof Error) throw opened
    const manager = opened as LogManager
    const { log } = manager.snapshot()
    const { sequence, recovery } = manager
    assert(log.length === sequence, `the state has ${log.length} mutations, but is at ${sequence}`)
    log.forEach((entry, index) =>
      assert(entry.startsWith(`${index + 1}:`), `mutation ${index + 1} was applied as ${entry}`),
    )
    assert(recovery.damagedSnapshots.length === 0, `damaged: ${String(recovery.damagedSnapshots[0])}`)
    assert(recovery.snapshotSequence === kept[0], `began with ${recovery.snapshotSequence} of ${kept.join()}`)
    assert(recovery.replayed === sequence - (kept[0] ?? 0), `replayed ${recovery.replayed}`)
    const first = await assertChanges(manager, log)
    const answersFrom = await this.#askPast(manager, log, { first, kept })
    // Open makes everything it gives durable, so a crash at this moment takes none of it.
    const crashed = state.afterCrash({ keep: 'none' })
    if (keyOf(crashed) !== keyOf(state)) await assertReopens(crashed, log, 'a crash right after open')
    await manager.close()
    const { result } = await this.#continuations.of({ state, recovery }, async () => {
      await assertGoesOn(state, log)
      return log.join()
    })
    assert(result === log.join(), `after the second open the state is ${result}, expected ${log.join()}`)
    const { isNew = false, isActiveRestored = false, torn, removedFiles = [] } = recovery.journal ?? {}
    const hasRecovered = hadTemporary || isNew || isActiveRestored || torn !== undefined || removedFiles.length > 0
    return { log, answersFrom, hasRecovered }
  }

  check(found: FoundState, expected: ExpectedState, { isHarsh }: StateKind): void {
    const { issued, acknowledged, floor, exactly, isManyLines = false } = expected
    const { log, answersFrom, damage } = found
    if (damage !== undefined) {
      const isTolerated = isHarsh && isManyLines && (damage.sequence ?? 0) > acknowledged
      assert(isTolerated, `it does not open: ${damage.message}`)
      this.toleratedDamage += 1
      return
    }
    log.forEach((entry, index) => {
      const issuedEntry = `${index + 1}:${issued[index]}`
      assert(entry === issuedEntry, `mutation ${index + 1} is ${entry}, issued was ${issuedEntry}`)
    })
    assert(log.length >= acknowledged, `the state is at ${log.length}, but ${acknowledged} were acknowledged`)
    assert(
      answersFrom <= Math.max(floor.highest, 0),
      `past states are to be had from ${answersFrom} on, expected from ${floor.highest}`,
    )
    if (exactly !== undefined) assert(log.length === exactly, `the state is at ${log.length}, expected ${exactly}`)
  }

  hasRecovered(found: FoundState): boolean {
    return found.hasRecovered
  }

  async recover(state: SimulatedFileSystem): Promise<void> {
    const manager = await openLog(state)
    await manager.close()
  }

  expectedInside(expected: ExpectedState, found: FoundState): ExpectedState {
    return { ...expected, exactly: found.log.length }
  }

  /**
   * Checks that every past state is right, or gone because no snapshot and no records can build it.
   * Returns the first sequence number from which all past states are available.
   */
  async #askPast(
    manager: LogManager,
    log: readonly string[],
    { first, kept }: { readonly first: number; readonly kept: readonly number[] },
  ): Promise<number> {
    let answersFrom = 0
    for (let sequence = 0; sequence <= log.length; sequence++) {
      const base = kept.find((snapshot) => snapshot <= sequence) ?? 0
      const isThere = base === sequence || first <= base + 1
      const past = await manager.stateAt(sequence).catch((error: unknown) => error)
      this.pastStates += 1
      if (past instanceof Error) {
        const isGone = past instanceof MiniStoreError && past.code === 'ERR_MINISTORE_SEQUENCE_GONE'
        assert(isGone && !isThere, `no state at ${sequence}, with ${base} and records from ${first}: ${String(past)}`)
        answersFrom = sequence + 1
      } else {
        const [got, expected] = [(past as { log: string[] }).log, log.slice(0, sequence)].map((each) => each.join())
        assert(got === expected, `the state at ${sequence} is ${got}, expected ${expected}`)
        assert(isThere, `a state at ${sequence} out of ${base} and records from ${first}`)
      }
    }
    return answersFrom
  }
}

/**
 * Checks that the changes are the state's mutations, from the start of the journal on. Returns the
 * sequence number of the first one.
 */
async function assertChanges(manager: LogManager, log: readonly string[]): Promise<number> {
  const entries: string[] = []
  for await (const { sequence, record } of manager.changes()) entries.push(`${sequence}:${record.id}`)
  const expected = log.slice(log.length - entries.length)
  assert(entries.join() === expected.join(), `the changes are ${entries.join()}, expected ${expected.join()}`)
  return log.length - entries.length + 1
}

async function assertReopens(state: SimulatedFileSystem, log: readonly string[], after: string): Promise<void> {
  const manager = await openLog(state)
  const { log: found } = manager.state
  assert(found.join() === log.join(), `after ${after} the state is ${found.join()}, expected ${log.join()}`)
  await manager.close()
}

/**
 * Checks that the second open changes nothing, that the next mutation follows directly, and that a
 * compaction leaves a clean directory and the same state.
 */
async function assertGoesOn(state: SimulatedFileSystem, log: readonly string[]): Promise<void> {
  const before = show(state)
  await assertReopens(state, log, 'the second open')
  assert(show(state) === before, `the second open changed files, from:\n${before}\nto:\n${show(state)}`)
  const manager = await openLog(state, { snapshots: { keep } })
  const id = 1_000_000
  const sequence = await manager.apply({ id })
  assert(sequence === log.length + 1, `the next mutation is ${sequence}, expected ${log.length + 1}`)
  await manager.compact()
  const durable = state.afterCrash({ keep: 'none' })
  await manager.close()
  assert(temporaryIn(state).length === 0, `temporary files are left: ${temporaryIn(state).join()}`)
  const snapshots = visibleSnapshots(state)
  assert(snapshots.length <= keep && snapshots[0] === sequence, `the snapshots are ${snapshots.join()}`)
  await assertReopens(durable, [...log, `${sequence}:${id}`], 'a compaction and a crash')
}

function visibleSnapshots(state: SimulatedFileSystem): number[] {
  return state.exists(stateDirectory) ? snapshotsIn(state) : []
}

function temporaryIn(state: SimulatedFileSystem): string[] {
  return state.exists(stateDirectory)
    ? state.names(stateDirectory).filter((name) => name.startsWith('snapshot-') && name.endsWith('.tmp'))
    : []
}

function assert(claim: boolean, otherwise: string): asserts claim {
  if (!claim) throw new Error(otherwise)
}
