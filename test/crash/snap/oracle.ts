import { type RestoredSnapshot, SnapStore } from '../../../src/minisnap/index.ts'
import type { SimulatedFileSystem } from '../../../src/testing/index.ts'
import { keyOf, type Oracle } from '../harness.ts'
import { allowed, type ExpectedSnaps, type Known, snapDirectory } from './model.ts'

/** What a state of the disk held. */
export interface FoundSnaps {
  /** Every snapshot, newest first. */
  readonly all: readonly Known[]
  readonly temporaryFiles: number
}

const keep = 2

/**
 * The rules for snapshots wherever the crash came. Any damage is a finding, in harsh states too.
 */
export class SnapOracle implements Oracle<ExpectedSnaps, FoundSnaps> {
  async find(state: SimulatedFileSystem): Promise<FoundSnaps> {
    const before = keyOf(state)
    const temporaryFiles = namesIn(state).filter((name) => name.endsWith('.tmp')).length
    const store = new SnapStore(snapDirectory, { keep, fileSystem: state })
    const all = await everyOne(store)
    const [newest] = all
    assertSame(await everyOne(store), all, 'restoring twice')
    assertSame((await store.list()).map(({ sequence }) => sequence), all.map(({ sequence }) => sequence), 'list()')
    assertSame(await store.exists(), newest !== undefined, 'exists()')
    for (const { sequence } of all) await store.verify(sequence)
    assertSame(keyOf(state), before, 'the files after reading')
    // What `restore` gave is durable, even if its writer died before syncing it.
    const crashed = state.afterCrash({ keep: 'none' })
    const [durable] = await everyOne(new SnapStore(snapDirectory, { fileSystem: crashed }))
    assertSame(durable, newest, 'a crash right after restore()')
    await this.#goOn(state, store, all)
    return { all, temporaryFiles }
  }

  check({ all }: FoundSnaps, expected: ExpectedSnaps): void {
    const { acknowledged, possible, most } = expected
    for (const { sequence, json } of all) {
      const states = allowed(expected, sequence)
      assert(states.includes(json), `the snapshot ${sequence} holds ${json}, written was ${states.join(' or ')}`)
    }
    const found = new Map(all.map(({ sequence, json }) => [sequence, json]))
    const there = possible.filter(({ sequence, json }) => found.get(sequence) === json).map(({ sequence }) => sequence)
    const whole = [...new Set([...acknowledged.keys(), ...there])].toSorted((left, right) => right - left)
    const added = whole.length - acknowledged.size
    // Only a call whose own snapshot is in place may have removed others.
    const kept = there.length === 0 ? expected.kept : Math.min(expected.keep, expected.kept + added)
    for (const sequence of whole.slice(0, kept)) {
      assert(found.has(sequence), `the snapshot ${sequence} is gone, and must be among the ${kept} kept`)
    }
    assert(all.length <= most, `${all.length} snapshots are left, expected at most ${most}`)
  }

  hasRecovered({ temporaryFiles }: FoundSnaps): boolean {
    return temporaryFiles > 0
  }

  async recover(state: SimulatedFileSystem): Promise<void> {
    const store = new SnapStore(snapDirectory, { keep, fileSystem: state })
    const found = await store.restore()
    const next = nextOf(found?.sequence ?? 0)
    await store.create(JSON.parse(next.json), next.sequence)
  }

  expectedInside(_: ExpectedSnaps, { all }: FoundSnaps): ExpectedSnaps {
    const acknowledged = new Map(all.map(({ sequence, json }) => [sequence, json]))
    return { acknowledged, possible: [nextOf(all[0]?.sequence ?? 0)], kept: all.length, keep, most: Infinity }
  }

  /**
   * Checks that the next create removes all remains of the crash, and that a crash right after it
   * changes nothing.
   */
  async #goOn(state: SimulatedFileSystem, store: SnapStore, all: readonly Known[]): Promise<void> {
    const next = nextOf(all[0]?.sequence ?? 0)
    await store.create(JSON.parse(next.json), next.sequence)
    const kept = [next, ...all].slice(0, keep)
    assertSame(await everyOne(store), kept, 'the next create')
    const crashed = state.afterCrash({ keep: 'none' })
    const names = kept.map(({ sequence }) => `snapshot-${sequence}.json`).toSorted()
    assertSame(namesIn(state), names, 'the names after it')
    const left = await everyOne(new SnapStore(snapDirectory, { fileSystem: crashed }))
    assertSame(left, kept, 'a crash after the next create')
    assertSame(namesIn(crashed), names, 'the names after that crash')
  }
}

function nextOf(sequence: number): Known {
  return { sequence: sequence + 1, json: '{"after":"the crash"}' }
}

/** Returns each snapshot as `restore` gives it. None may be skipped as damaged. */
async function everyOne(store: SnapStore): Promise<Known[]> {
  const all: Known[] = []
  let found: RestoredSnapshot<unknown> | undefined
  for (let atMost = Number.MAX_SAFE_INTEGER; (found = await store.restore({ atMost })) !== undefined; ) {
    assertSame(found.damaged, [], 'the damaged ones')
    all.push({ sequence: found.sequence, json: JSON.stringify(found.state) })
    if (found.sequence === 0) break
    atMost = found.sequence - 1
  }
  return all
}

function namesIn(state: SimulatedFileSystem): string[] {
  return state.exists(snapDirectory) ? state.names(snapDirectory) : []
}

function assertSame(got: unknown, expected: unknown, what: string): void {
  const [left, right] = [JSON.stringify(got), JSON.stringify(expected)]
  assert(left === right, `${what}: got ${left}, expected ${right}`)
}

function assert(holds: boolean, message: string): asserts holds {
  if (!holds) throw new Error(message)
}
