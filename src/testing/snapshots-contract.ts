import type { Snapshots } from '../journal/snapshots.ts'
import { type ContractOptions, type ContractTest, holds, Patience, same } from './contract.ts'

/** A state that {@link snapshotsContract} stores. */
export interface ContractState {
  /** The sequence number of the state. */
  readonly at: number
  /** A text of any characters. */
  readonly text: string
  /** A list, to hold something that can be changed. */
  readonly list: number[]
}

/** A store that {@link snapshotsContract} tests, without schema. */
export interface SnapshotsSubject {
  /** New: nothing was ever stored in it. */
  readonly snapshots: Snapshots<ContractState>
  /** Opens the same store again, as another process would. */
  reopen(): Promise<Snapshots<ContractState>>
  /** Damages a snapshot that is there. Leave it out if that is impossible. */
  damage?(sequence: number): Promise<void>
}

/**
 * Returns the tests of everything that the interface `Snapshots` promises. Optional methods, and
 * optional parts of the subject, are tested where they are present.
 *
 * ```ts
 * for (const { name, run } of snapshotsContract(openNewStore)) test(name, run)
 * ```
 *
 * The tests cannot see whether a snapshot would survive a power loss.
 *
 * @param make opens a new store for each test. A store that keeps 2 or more is tested best.
 * @throws {TypeError | RangeError} if an option is invalid.
 */
export function snapshotsContract(make: () => Promise<SnapshotsSubject>, options?: ContractOptions): ContractTest[] {
  const patience = new Patience(options)
  return Object.entries(claims).map(([name, claim]) => ({
    name,
    run: async () => {
      const subject = await make()
      await claim({ subject, snapshots: subject.snapshots, patience })
    },
  }))
}

interface Scene {
  readonly subject: SnapshotsSubject
  readonly snapshots: Snapshots<ContractState>
  readonly patience: Patience
}

/** A state that nothing can serialize. */
const unwritable = Object.defineProperty(stateAt(0), 'text', {
  enumerable: true,
  get: () => {
    throw new Error('a state that cannot be read')
  },
})

/** The tests by their names. */
const claims: Readonly<Record<string, (scene: Scene) => Promise<void>>> = {
  'a new store is empty': async ({ snapshots, patience }) => {
    holds(Number.isInteger(snapshots.keep) && snapshots.keep >= 1, `Expected \`keep\` to be 1 or more, got ${snapshots.keep}`)
    same('the list', await patience.until('list', snapshots.list()), [])
    same('what restore gives', await patience.until('restore', snapshots.restore()), undefined)
    same('what restore gives at 5', await snapshots.restore({ atMost: 5 }), undefined)
  },

  'a snapshot restores as it was, also after reopening, and 0 is a sequence number': async ({ subject, snapshots, patience }) => {
    const info = await patience.until('create', snapshots.create(stateAt(0), 0))
    same('the sequence number', info.sequence, 0)
    for (const store of [snapshots, await subject.reopen()]) {
      same('the restored state', await restored(patience, store), stateAt(0))
      same('the list', await sequences(store), [0])
    }
  },

  'texts of any characters and lengths restore as they were': async ({ snapshots, patience }) => {
    const texts = ['"\\\n\r\u0000\u001f', 'äöü € 😀 \u2028\ufeff', '{"state":1}', 'x'.repeat(2_000_000)]
    for (const [at, text] of texts.entries()) {
      await patience.until('create', snapshots.create({ at, text, list: [at] }, at))
      same('the restored state', await restored(patience, snapshots), { at, text, list: [at] })
    }
  },

  'the newest `keep` snapshots are kept and listed, newest first': async ({ subject, snapshots, patience }) => {
    const { keep } = snapshots
    for (let n = 1; n <= keep + 2; n++) {
      await patience.until('create', snapshots.create(stateAt(n * 5), n * 5))
      const newest = Array.from({ length: Math.min(n, keep) }, (_, index) => (n - index) * 5)
      same('the list', await sequences(snapshots), newest)
      same('the restored state', await restored(patience, snapshots), stateAt(n * 5))
    }
    const again = await subject.reopen()
    same('`keep` after reopening', again.keep, keep)
    same('the list after reopening', (await sequences(again)).length, keep)
  },

  'restore with atMost gives the newest snapshot that is not later': async ({ subject, snapshots, patience }) => {
    const { keep } = snapshots
    const kept = Array.from({ length: keep }, (_, index) => (index + 1) * 10)
    for (const sequence of kept) await snapshots.create(stateAt(sequence), sequence)
    for (const store of [snapshots, await subject.reopen()]) {
      for (const sequence of kept) {
        same(`the state at ${sequence}`, await restored(patience, store, sequence), stateAt(sequence))
        same(`the state at ${sequence + 9}`, await restored(patience, store, sequence + 9), stateAt(sequence))
      }
      same('the state at 9', await patience.until('restore', store.restore({ atMost: 9 })), undefined)
      same('the newest state', await restored(patience, store), stateAt(keep * 10))
    }
  },

  'a snapshot of the same sequence number is replaced': async ({ subject, snapshots, patience }) => {
    await snapshots.create(stateAt(3), 3)
    await patience.until('create', snapshots.create({ ...stateAt(3), text: 'again' }, 3))
    same('the list', await sequences(snapshots), [3])
    same('the restored state', await restored(patience, await subject.reopen()), { ...stateAt(3), text: 'again' })
  },

  'a state is taken as it is when create settles, frozen or not': async ({ snapshots, patience }) => {
    for (const [sequence, options] of [[1, undefined], [2, { frozen: true }], [3, { frozen: false }]] as const) {
      const state = stateAt(sequence)
      await patience.until('create', snapshots.create(state, sequence, options))
      state.list.push(99)
      same('the restored state', await restored(patience, snapshots), stateAt(sequence))
    }
  },

  'each restore gives a state of its own': async ({ snapshots, patience }) => {
    await snapshots.create(stateAt(1), 1)
    ;(await restored(patience, snapshots))?.list.push(99)
    same('the restored state', await restored(patience, snapshots), stateAt(1))
  },

  'a create that fails leaves the earlier snapshots as they were': async ({ subject, snapshots, patience }) => {
    await snapshots.create(stateAt(1), 1)
    await patience.rejected('create of a bad state', Promise.resolve().then(() => snapshots.create(unwritable, 2)))
    await patience.rejected('create of a bad state', Promise.resolve().then(() => snapshots.create(unwritable, 1)))
    for (const store of [snapshots, await subject.reopen()]) {
      same('the list', await sequences(store), [1])
      same('the restored state', await restored(patience, store), stateAt(1))
    }
    await patience.until('create', snapshots.create(stateAt(2), 2))
    same('the next restored state', await restored(patience, snapshots), stateAt(2))
  },

  'what is read during a create is a whole snapshot, never an older one than before': async ({ subject, snapshots, patience }) => {
    const reader = await subject.reopen()
    await snapshots.create(longAt(1), 1)
    const progress = { created: 1, isOver: false }
    const creating = (async () => {
      try {
        for (let n = 2; n <= 20 && !progress.isOver; n++) {
          await patience.until('create', snapshots.create(longAt(n), n))
          progress.created = n
        }
      } finally {
        progress.isOver = true
      }
    })()
    const reading = (async () => {
      while (!progress.isOver) {
        const before = progress.created
        const found = await patience.until('restore', reader.restore())
        holds(found !== undefined && found.sequence >= before, `Restored ${found?.sequence} after ${before} was created`)
        same('the restored state', found.state, longAt(found.sequence))
        // Lets a store that answers at once proceed with its creates.
        await new Promise((resolve) => setTimeout(resolve))
      }
    })()
    await Promise.all([creating, reading]).finally(() => {
      // A loop that fails ends the other one too, rather than let it work on after the test.
      progress.isOver = true
    })
  },

  'overlapping calls are done in call order': async ({ snapshots, patience }) => {
    const creates = [1, 2, 3, 4, 5].map((n) => snapshots.create(stateAt(n), n))
    const found = patience.started('restore', () => snapshots.restore())
    const infos = await patience.until('5 creates', Promise.all(creates))
    same('the sequence numbers', infos.map(({ sequence }) => sequence), [1, 2, 3, 4, 5])
    same('what restore gives', (await found)?.state, stateAt(5))
  },

  'verify accepts what is whole, and sweep removes no snapshot': async ({ snapshots, patience }) => {
    for (const n of [1, 2]) await snapshots.create(stateAt(n), n)
    const before = await sequences(snapshots)
    await patience.until('sweep', snapshots.sweep?.() ?? Promise.resolve())
    for (const sequence of before) await patience.until('verify', snapshots.verify?.(sequence) ?? Promise.resolve())
    same('the list', await sequences(snapshots), before)
    same('the restored state', await restored(patience, snapshots), stateAt(2))
  },

  'a damaged snapshot is skipped, listed, and never given': async ({ subject, snapshots, patience }) => {
    if (subject.damage === undefined) return
    await snapshots.create(stateAt(1), 1)
    if (snapshots.keep > 1) {
      await snapshots.create(stateAt(2), 2)
      await subject.damage(2)
      const store = await subject.reopen()
      const found = await patience.until('restore', store.restore())
      same('sequence number and state', [found?.sequence, found?.state], [1, stateAt(1)])
      same('the damage', found?.damaged?.map(({ code }) => code), ['ERR_MINISTORE_SNAPSHOT_DAMAGED'])
      same('the list', await sequences(store), [2, 1])
      if (store.verify !== undefined) {
        await patience.until('verify of a whole snapshot', store.verify(1))
        await patience.refused('verify of a damaged one', store.verify(2), 'ERR_MINISTORE_SNAPSHOT_DAMAGED')
      }
    }
    await subject.damage(1)
    const store = await subject.reopen()
    await patience.refused('restore', store.restore(), 'ERR_MINISTORE_SNAPSHOT_DAMAGED')
    await patience.refused('restore at 1', store.restore({ atMost: 1 }), 'ERR_MINISTORE_SNAPSHOT_DAMAGED')
    same('what restore gives at 0', await store.restore({ atMost: 0 }), undefined)
  },

  'a damaged snapshot does not count: whole ones are kept in its place': async ({ subject, snapshots, patience }) => {
    if (subject.damage === undefined || snapshots.verify === undefined || snapshots.keep < 2) return
    for (const n of [1, 2]) await snapshots.create(stateAt(n), n)
    await subject.damage(2)
    await patience.refused('verify of a damaged one', snapshots.verify(2), 'ERR_MINISTORE_SNAPSHOT_DAMAGED')
    await patience.until('create', snapshots.create(stateAt(3), 3))
    await subject.damage(3)
    same('the restored state', await restored(patience, await subject.reopen()), stateAt(1))
  },
}

function stateAt(at: number): ContractState {
  return { at, text: `state ${at}`, list: [at, at + 1] }
}

function longAt(at: number): ContractState {
  return { at, text: `${at},`.repeat(20_000), list: [] }
}

async function restored(
  patience: Patience,
  snapshots: Snapshots<ContractState>,
  atMost?: number,
): Promise<ContractState | undefined> {
  const found = await patience.until('restore', snapshots.restore(atMost === undefined ? undefined : { atMost }))
  if (found !== undefined) same('the sequence number of the restored state', found.sequence, found.state.at)
  return found?.state
}

async function sequences(snapshots: Snapshots<ContractState>): Promise<number[]> {
  return (await snapshots.list()).map(({ sequence }) => sequence)
}
