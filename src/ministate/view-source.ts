import { join } from 'node:path'

import PQueue from 'p-queue'

import { addInContext } from '../async.ts'
import { hasCode, MiniStoreError } from '../errors.ts'
import { ensureDirectory, ifPresent, listIfPresent } from '../fs/durable.ts'
import { WriterLock } from '../fs/lock.ts'
import type { Journal } from '../journal/journal.ts'
import { modelFile, type RestoredSnapshot, type RestoreOptions } from '../minisnap/settings.ts'
import { isDamage } from '../minisnap/file.ts'
import { sequenceOf } from '../minisnap/format.ts'
import { type SnapshotInfo, SnapStore } from '../minisnap/index.ts'
import { MiniStore } from '../ministore/ministore.ts'
import type { JournalReader } from '../ministore/reader.ts'
import { type Fields, filePath, isObject, isUrl, shown } from '../options.ts'
import { initialStateOf, pastState, refuseAhead, refuseForeign, refuseGap, type Restorable, restoreBase, type StateAt } from './recovery.ts'
import { journalName, type StateDefinition, type ViewSettings } from './settings.ts'

/** The part of a journal that a view reads. Only a {@link JournalReader} has `settle`. */
export type ViewedJournal<Mutation> = Pick<
  Journal<Mutation, never>,
  'id' | 'firstSequence' | 'lastSequence' | 'entries' | 'refresh'
> & { readonly settle?: (() => Promise<void>) | undefined }

/** Name of the file that a view locks in the directory of its own snapshots. */
const lockName = 'view.lock'

/**
 * What a view is folded from: a journal, the snapshots of the manager that writes it if the view is
 * a read replica, and the view's own snapshots.
 *
 * **Invariant.** The files of the journal's writer are only read. Nothing is created, renamed or
 * removed beside them.
 */
export class ViewSource<State, Mutation> {
  readonly journal: ViewedJournal<Mutation>
  /** The view's own snapshots. */
  readonly own: SnapStore<State> | undefined
  readonly #manager: SnapStore<State> | undefined
  readonly #definition: StateDefinition<State, Mutation>
  readonly #lock: WriterLock | undefined
  readonly #looks = new PQueue({ concurrency: 1 })

  private constructor(parts: {
    readonly journal: ViewedJournal<Mutation>
    readonly manager: SnapStore<State> | undefined
    readonly own: OwnSnapshots<State> | undefined
    readonly definition: StateDefinition<State, Mutation>
  }) {
    this.journal = parts.journal
    this.own = parts.own?.store
    this.#lock = parts.own?.lock
    this.#manager = parts.manager
    this.#definition = parts.definition
  }

  /**
   * Opens a path or takes a journal. A path that is a directory is the directory of a state.
   *
   * @throws {TypeError} if the source or an option does not fit.
   */
  static async open<State, Mutation>(
    source: unknown,
    settings: ViewSettings<State, Mutation>,
  ): Promise<ViewSource<State, Mutation>> {
    const { definition, fileSystem, snapshots } = settings
    const { journal, path, directory } = isJournal<Mutation>(source)
      ? { journal: withoutOptions(source, settings.journal), path: pathOf(source), directory: undefined }
      : await openPath<Mutation>(source, settings)
    if (directory === undefined && settings.directory === undefined && Object.values(snapshots).some(isGiven)) {
      throw new TypeError('Expected `snapshots.directory`: only a read replica reads snapshots that it does not write')
    }
    const manager = directory === undefined ? undefined : new SnapStore<State>(directory, { ...snapshots, fileSystem })
    const own = settings.directory === undefined ? undefined : await lockOwn(settings.directory, settings, path)
    return new ViewSource({ journal, manager, own, definition })
  }

  /** Looks at the journal and resolves with the sequence number of its last record. */
  async lastSequence(): Promise<number> {
    const { journal } = this
    // Of two looks at once, the older one could end last.
    return await addInContext(this.#looks, async () => {
      await journal.refresh?.()
      return journal.lastSequence
    })
  }

  /**
   * Resolves with the state from which folding begins, and with where the journal ends: the newest
   * whole snapshot, or the initial state.
   *
   * The snapshots are read before the journal, so none of them can be ahead of it: its records were
   * durable first. Meanwhile the manager may drop the records after the snapshot that was read. Then
   * there is a newer one, and this looks again, as long as there is something new to see.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_SNAPSHOT_AHEAD`, `…_FOREIGN_JOURNAL`, `…_STATE_GAP`, and
   *   the errors of reading snapshots and journal.
   */
  async begin(): Promise<{ readonly base: StateAt<State>; readonly own: SnapshotInfo | undefined; readonly last: number }> {
    for (let seen = ''; ; ) {
      const stores = await this.#stores()
      const { base, store, damaged } = await this.#restoreNewest(stores)
      const last = await this.lastSequence()
      for (const { kept } of stores) refuseAhead({ lastSequence: last }, kept[0])
      refuseForeign(this.journal, base, stores.flatMap(({ kept }) => kept))
      const { firstSequence } = this.journal
      const sight = `${base.sequence} ${firstSequence}`
      if (firstSequence <= base.sequence + 1 || sight === seen) {
        refuseGap(this.journal, base.sequence, damaged)
        const own = stores.find((each) => each.store === store && store === this.own)
        return { base, own: own?.kept.find(({ sequence }) => sequence === base.sequence), last }
      }
      seen = sight
    }
  }

  /**
   * Resolves with a newer state after the journal ended with an error. That is the manager's newest
   * snapshot, if the next record is gone because a compaction dropped it.
   *
   * @throws the error. If the next record is gone for good, `ERR_MINISTORE_STATE_GAP` instead.
   */
  async restoreAfter(error: unknown, sequence: number): Promise<StateAt<State>> {
    if (!hasCode(error, 'ERR_MINISTORE_SEQUENCE_GONE')) throw error
    // A compaction makes its snapshot durable before it drops what the snapshot covers.
    const found = await this.#manager?.restore()
    if (found !== undefined && found.sequence > sequence) {
      refuseForeign(this.journal, found, [])
      return found
    }
    const message = `The journal no longer has record ${sequence + 1}, and no snapshot covers it: ${error.message}`
    throw new MiniStoreError('ERR_MINISTORE_STATE_GAP', message, { path: error.path, sequence: sequence + 1, cause: error })
  }

  /** Rebuilds the state after a record that the view has already folded. */
  async past(sequence: number): Promise<State> {
    const stores = [this.own, this.#manager].filter(isGiven)
    const newest: Restorable<State> = {
      restore: async (options) => await newestOf(stores, options),
      verify: async () => {},
    }
    return await pastState(this.journal, newest, this.#definition, sequence)
  }

  /**
   * Makes the records that were folded durable. Must be called before a snapshot is written, or a
   * crash could leave a snapshot with records that the journal has lost.
   */
  async settle(): Promise<void> {
    // By contract, any other journal gives only durable records.
    await this.journal.settle?.()
  }

  /** Releases the lock of the view's own snapshots. */
  async close(): Promise<void> {
    await this.#lock?.release()
  }

  /** The snapshot stores and their snapshots, the store with the newest snapshot first. */
  async #stores(): Promise<Array<Kept<State>>> {
    const all: Array<Kept<State>> = []
    for (const store of [this.own, this.#manager]) {
      if (store !== undefined) all.push({ store, kept: await store.list() })
    }
    return all.toSorted((left, right) => newestIn(right) - newestIn(left))
  }

  async #restoreNewest(stores: ReadonlyArray<Kept<State>>): Promise<Base<State>> {
    const [first, second] = stores
    if (first === undefined) return { base: initialStateOf(this.#definition), store: undefined, damaged: [] }
    const newest = await restoreBase(first.store, first.kept, this.#definition)
    if (second === undefined || newestIn(second) <= newest.base.sequence) return { ...newest, store: first.store }
    // The newest snapshot is damaged, so the other store may have a newer whole one.
    const other = await restoreBase(second.store, second.kept, this.#definition)
    const damaged = [...newest.damaged, ...other.damaged]
    const isOlder = other.base.sequence < newest.base.sequence
    return { base: isOlder ? newest.base : other.base, store: isOlder ? first.store : second.store, damaged }
  }
}

interface Kept<State> {
  readonly store: SnapStore<State>
  readonly kept: readonly SnapshotInfo[]
}

interface Base<State> {
  readonly base: StateAt<State>
  /** The store that it was restored from. */
  readonly store: SnapStore<State> | undefined
  readonly damaged: readonly MiniStoreError[]
}

/** The view's own snapshots, and the lock on their directory. */
interface OwnSnapshots<State> {
  readonly store: SnapStore<State>
  readonly lock: WriterLock
}

function newestIn({ kept }: Pick<Kept<never>, 'kept'>): number {
  return kept[0]?.sequence ?? -1
}

async function newestOf<State>(
  stores: ReadonlyArray<SnapStore<State>>,
  options: RestoreOptions | undefined,
): Promise<RestoredSnapshot<State> | undefined> {
  let newest: RestoredSnapshot<State> | undefined
  for (const store of stores) {
    const found = await store.restore(options).catch((error: unknown) => {
      // The journal may still hold what the damaged snapshots held.
      if (!isDamage(error)) throw error
    })
    if (found !== undefined && found.sequence > (newest?.sequence ?? -1)) newest = found
  }
  return newest
}

async function openPath<Mutation>(
  source: unknown,
  { journal: options, fileSystem }: Pick<ViewSettings<never, Mutation>, 'journal' | 'fileSystem'>,
): Promise<{ readonly journal: ViewedJournal<Mutation>; readonly path: string; readonly directory: string | undefined }> {
  const given = filePath(source, 'source')
  const isDirectory = (await ifPresent(fileSystem.stat(given)))?.isDirectory === true
  const journal: unknown = await MiniStore.read(isDirectory ? join(given, journalName) : given, options)
  const { path } = journal as JournalReader
  return { journal: journal as JournalReader<Mutation>, path, directory: isDirectory ? given : undefined }
}

/** Locks the directory of a view's own snapshots and opens it. */
async function lockOwn<State, Mutation>(
  directory: string,
  { fileSystem, snapshots }: ViewSettings<State, Mutation>,
  model: string | undefined,
): Promise<OwnSnapshots<State>> {
  // Before the lock file is created, which would make the directory look like the view's own.
  const owner = otherOwner(await listIfPresent(fileSystem, directory))
  if (owner !== undefined) {
    const problem = `got ${directory}, ${owner}: its snapshots would be taken for those of the view`
    throw new TypeError(`Expected \`snapshots.directory\` to be a directory of the view's own, ${problem}`)
  }
  await ensureDirectory(fileSystem, directory)
  const path = join(directory, lockName)
  try {
    const lock = await WriterLock.acquire(fileSystem, path, {
      kernel: true, holder: {}, journalPath: path, access: undefined,
    })
    try {
      // A crash must not leave snapshots without the lock file, which shows that they are the view's own.
      await lock.fileSystem.syncDirectory(directory)
      const options: Fields = { ...snapshots, fileSystem: lock.fileSystem, [modelFile]: model }
      return { lock, store: new SnapStore<State>(directory, options) }
    } catch (error) {
      await lock.release().catch(() => {})
      throw error
    }
  } catch (error) {
    if (!hasCode(error, 'ERR_MINISTORE_LOCKED')) throw error
    const message = `The snapshots in ${directory} are in use by another view`
    throw new MiniStoreError('ERR_MINISTORE_LOCKED', message, { path: directory, cause: error })
  }
}

/** What a directory with these files is, if it does not belong to a view. A view locks its directory before its first snapshot. */
function otherOwner(names: readonly string[]): string | undefined {
  if (names.includes(journalName)) return 'the directory of a state'
  const isUnlocked = !names.includes(lockName) && names.some((name) => sequenceOf(name) !== undefined)
  return isUnlocked ? `which holds snapshots and no ${lockName}` : undefined
}

function isJournal<Mutation>(source: unknown): source is ViewedJournal<Mutation> {
  if (typeof source === 'string' || isUrl(source)) return false
  if (isObject(source) && typeof Reflect.get(source, 'entries') === 'function') return true
  throw new TypeError(`Expected \`source\` to be a path or a journal, got ${shown(source)}`)
}

function withoutOptions<Mutation>(journal: ViewedJournal<Mutation>, options: Fields): ViewedJournal<Mutation> {
  for (const name of ['schema', 'codec', 'pollIntervalMs']) {
    if (options[name] !== undefined) throw new TypeError(`Expected no \`${name}\` with a journal: it has its own`)
  }
  return journal
}

function pathOf(journal: object): string | undefined {
  const path: unknown = Reflect.get(journal, 'path')
  return typeof path === 'string' ? path : undefined
}

function isGiven<T>(value: T | undefined): value is T {
  return value !== undefined
}
