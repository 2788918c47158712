import { resolve } from 'node:path'

import type { StandardSchemaV1 } from '@standard-schema/spec'

import { messageOf, MiniStoreError } from '../errors.ts'
import type { FileSystem } from '../fs/file-system.ts'
import { type FileSystemOption, fileSystemOption } from '../fs/node.ts'
import { snapStoreSettings } from '../minisnap/settings.ts'
import { type OpenOptions, writerSettings, type WriterSettings } from '../ministore/settings.ts'
import {
  callback, type Fields, fields, filePath, integer, isObject, optionalCallback, signalOption,
} from '../options.ts'
import { checkOnly, type Codec, codecOption, schemaOption } from '../schema.ts'

/** File name of the journal in the directory of a state. */
export const journalName = 'journal.jsonl'

/**
 * Applies a mutation to the state. It either changes the given state and returns nothing, or
 * returns a new state.
 *
 * The mutator runs again for the same mutation whenever the state is rebuilt, so it must be
 * deterministic: no clock, no random numbers, no outside input. Put such values into the mutation.
 *
 * The mutator is synchronous. It must not throw for a mutation that `validate` accepts, because
 * that mutation is already in the journal and the state could no longer be rebuilt.
 *
 * A state is a tree. An object that appears in two places becomes two objects after the state is
 * restored from a snapshot.
 */
export type Mutator<State, Mutation> = (
  state: State,
  mutation: Mutation,
  context: MutationContext,
) => NoInfer<State> | void

/** Context of a mutation, passed to the mutator as its third argument. */
export interface MutationContext {
  /** Sequence number of the mutation. The first mutation has 1; there are no gaps. */
  readonly sequence: number
}

/** Defines a state and how it changes. */
export interface StateDefinition<State, Mutation> {
  /**
   * Returns the state before the first mutation. It is called whenever a state is rebuilt from the
   * beginning. If the mutator changes states in place, this function must return a new state each
   * time.
   */
  readonly initialState: () => State
  /** Applies each mutation to the state. See {@link Mutator}. */
  readonly mutator: Mutator<State, Mutation>
  /**
   * Refuses a mutation by throwing, before anything is written. `apply` and `applyAll` reject with
   * the thrown value.
   *
   * It may be asynchronous; later mutations wait until it settles. It must not change its
   * arguments. It must not wait for another call of the same manager, because that call waits for
   * `validate`. It is not called when a state is rebuilt.
   */
  readonly validate?:
    | ((state: DeepReadonly<State>, mutation: Mutation) => void | Promise<void>)
    | undefined
  /**
   * Returns the state as it is now, as a value that no later mutation changes. With this function,
   * snapshots and compactions write that value while further mutations are applied. Without it, the
   * mutations wait until a snapshot is written.
   *
   * If the mutator never changes the state that it is given, but returns a new one, as with Immer,
   * this is `(state) => state`. Otherwise copy at least what the mutator changes: mutations wait for
   * that copy only. It must return a state that means the same and can be stored in the same way.
   *
   * A copy that shares what a mutation changes later leads to snapshots of a state that never was,
   * and nothing detects that. It is synchronous, and must not change its argument.
   *
   * @default none
   */
  readonly capture?: ((state: State) => State) | undefined
}

/** When snapshots are made automatically. */
export interface AutomaticSnapshots {
  /**
   * Makes a snapshot when this many mutations have followed the last one. The `apply` that reaches
   * the number makes the snapshot before it resolves. With `capture`, it only begins the snapshot,
   * unless another one is still being written: then a later `apply` does.
   *
   * @default no automatic snapshots; minimum 1
   */
  readonly everyMutations?: number | undefined
  /**
   * Called when an automatic snapshot fails. The mutation is durable anyway. The next attempt
   * follows after `everyMutations` further mutations.
   *
   * @default process.emitWarning
   */
  readonly onError?: ((error: unknown) => void) | undefined
}

/** Options of the snapshots. */
export interface SnapshotOptions<State> extends AutomaticSnapshots {
  /**
   * Number of whole snapshots to keep. Records that the oldest of them covers may be dropped.
   *
   * @default 2; minimum 1
   */
  readonly keep?: number | undefined
  /** Replaces JSON for states, for example to store maps, dates or classes. @default JSON */
  readonly codec?: Codec<State> | undefined
  /**
   * Any Standard Schema. It checks each state before the state is written and after it is read.
   *
   * The output of the schema is not used: otherwise a state from a snapshot could differ from the
   * live state. The schema must not change its input.
   *
   * @default none
   */
  readonly schema?: StandardSchemaV1<State> | undefined
}

/** Options of the underlying journal, as for `MiniStore.open`. */
export type StateJournalOptions<Input> = Pick<
  OpenOptions<Input>,
  'maxBytesPerSegment' | 'preallocate' | 'maxRecordBytes' | 'codec' | 'lock' | 'mode'
>

/** Options of `StateManager.open`. */
export interface StateOptions<State, Mutation, Input = Mutation> extends StateDefinition<State, Mutation> {
  /**
   * Any Standard Schema. It checks each mutation before the mutation is written and after it is
   * read. `validate` and `mutator` get its output. Like the mutator, the schema must be
   * deterministic.
   *
   * @default none
   */
  readonly schema?: StandardSchemaV1<Input, Mutation> | undefined
  /** Options of the journal. @default those of `MiniStore.open` */
  readonly journal?: StateJournalOptions<Input> | undefined
  /** How many snapshots are kept, and when they are made. @default 2, made on request only */
  readonly snapshots?: SnapshotOptions<State> | undefined
  /** Where the files are stored; for tests. @default the file system of this machine */
  readonly fileSystem?: FileSystem | undefined
}

/** What says how mutations are stored, in place of plain JSON: a schema or a codec. */
export type MutationForm<Input, Mutation> =
  | {
      /** As in {@link StateOptions}. */
      readonly schema: StandardSchemaV1<Input, Mutation>
    }
  | {
      /** As in {@link StateOptions}. */
      readonly journal: {
        /** As in {@link StateJournalOptions}. */
        readonly codec: Codec<Input>
      }
    }

/** Options of `StateManager.over`. */
export interface StateOverOptions<State, Mutation, Input = Mutation>
  extends StateDefinition<State, Mutation> {
  /** The codec of the journal, if the journal has one. */
  readonly codec?: Codec<Input> | undefined
  /** The schema of the journal, if the journal has one. */
  readonly schema?: StandardSchemaV1<Input, Mutation> | undefined
  /** When snapshots are made automatically. @default never */
  readonly snapshots?: AutomaticSnapshots | undefined
}

/** Options of the snapshots of a `StateView`. */
export interface ViewSnapshotOptions<State> extends SnapshotOptions<State> {
  /**
   * Directory of the view's own snapshots, and of nothing else. Created if it is missing. The view
   * locks it. Delete it when the mutator or the shape of the state changes.
   *
   * Without it the view writes nothing. A read replica then takes only `codec` and `schema`, to read
   * the snapshots of the manager.
   *
   * @default none
   */
  readonly directory?: string | URL | undefined
  /**
   * Makes a snapshot when this many records have followed the last one, and one at `close()`. Folding
   * waits while a snapshot is written.
   *
   * @default 10_000; minimum 1
   */
  readonly everyMutations?: number | undefined
}

/** Options of `StateView.open`. */
export interface ViewOptions<State, Mutation>
  extends Pick<StateDefinition<State, Mutation>, 'initialState' | 'mutator'>, FileSystemOption {
  /** Any Standard Schema for the records; `mutator` gets its output. Only for a path. @default none */
  readonly schema?: StandardSchemaV1<unknown, Mutation> | undefined
  /** Decodes the records in place of JSON. Only for a path. @default JSON.parse */
  readonly codec?: Pick<Codec<never, unknown>, 'decode'> | undefined
  /** Snapshots of the view, so that it need not fold everything again when it is next opened. @default none */
  readonly snapshots?: ViewSnapshotOptions<State> | undefined
  /**
   * Called once with the error that stops the view after it was opened.
   *
   * @default process.emitWarning
   */
  readonly onError?: ((error: unknown) => void) | undefined
  /** Aborting it ends the opening with its reason, and closes an open view. @default none */
  readonly signal?: AbortSignal | undefined
  /**
   * Milliseconds between looks at a journal that another process writes. Only for a path. Where the
   * directory can be watched, changes are noticed sooner.
   *
   * @default 100; minimum 1, maximum 2_147_483_647
   */
  readonly pollIntervalMs?: number | undefined
}

/** Options of `StateView.caughtUp`. */
export interface CaughtUpOptions {
  /** Sequence number to wait for. @default the last one of the journal at the call; minimum 0 */
  readonly sequence?: number | undefined
  /** Ends the wait with the reason of the signal. @default none */
  readonly signal?: AbortSignal | undefined
}

/** Options that `open` and `over` share, checked and complete. */
export interface StateSettings<State, Mutation> {
  readonly definition: StateDefinition<State, Mutation>
  /** Returns a deep copy of a state, to try out mutations on. */
  readonly copyOf: (state: State) => State
  /** Infinity if snapshots are made only on request. */
  readonly everyMutations: number
  readonly onError: ((error: unknown) => void) | undefined
  /** Returns the state as a value that later mutations do not change. */
  readonly capture: ((state: State) => State) | undefined
  /** How mutations are encoded as lines. */
  readonly mutations: Pick<WriterSettings, 'codec' | 'schema' | 'maxRecordBytes'>
}

/** Options of `open`, checked and complete. */
export interface OpenSettings<State, Mutation> extends StateSettings<State, Mutation> {
  readonly journal: WriterSettings
  readonly snapshots: Fields
}

const definitionNames = ['initialState', 'mutator', 'validate', 'capture']
const automaticNames = ['everyMutations', 'onError']

/** @throws {TypeError | RangeError} if a name is unknown or a value is out of range. */
export function openSettings<State, Mutation>(options: unknown): OpenSettings<State, Mutation> {
  const given = fields(options, [...definitionNames, 'schema', 'journal', 'snapshots', 'fileSystem'])
  const { schema, fileSystem } = given
  const journal = writerSettings({ ...journalFields(given['journal']), schema, fileSystem })
  const snapshots = fields(given['snapshots'], ['keep', 'codec', 'schema', ...automaticNames], 'snapshots')
  const { keep, codec } = snapshots
  const stateSchema = schemaOption(snapshots['schema'])
  return {
    ...stateSettings(given, { snapshots, mutations: journal }),
    journal,
    snapshots: { keep, codec, schema: stateSchema && checkOnly(stateSchema), fileSystem: journal.fileSystem },
  }
}

/** @throws {TypeError | RangeError} if a name is unknown or a value is out of range. */
export function overSettings<State, Mutation>(options: unknown): StateSettings<State, Mutation> {
  const given = fields(options, [...definitionNames, 'codec', 'schema', 'snapshots'])
  const { codec, schema } = given
  const snapshots = fields(given['snapshots'], automaticNames, 'snapshots')
  return stateSettings(given, { snapshots, mutations: writerSettings({ codec, schema }) })
}

/** Options of a view, checked and complete. */
export interface ViewSettings<State, Mutation> {
  readonly definition: StateDefinition<State, Mutation>
  /** Options of a reader of the journal at a path. */
  readonly journal: Fields
  /** Options of a `SnapStore`. */
  readonly snapshots: Fields
  /** Absolute path of the directory of the view's own snapshots. */
  readonly directory: string | undefined
  readonly automatic: Pick<StateSettings<State, Mutation>, 'everyMutations' | 'onError' | 'capture'>
  readonly onError: ((error: unknown) => void) | undefined
  readonly signal: AbortSignal | undefined
  readonly fileSystem: FileSystem
}

/** @throws {TypeError | RangeError} if a name is unknown or a value is out of range. */
export function viewSettings<State, Mutation>(options: unknown): ViewSettings<State, Mutation> {
  const journalNames = ['schema', 'codec', 'pollIntervalMs', 'fileSystem']
  const given = fields(options, ['initialState', 'mutator', 'snapshots', 'onError', 'signal', ...journalNames])
  const snapshots = fields(given['snapshots'], ['directory', 'keep', 'codec', 'schema', ...automaticNames], 'snapshots')
  const { directory, keep, codec } = snapshots
  const useless = ['keep', ...automaticNames].find((name) => snapshots[name] !== undefined)
  if (directory === undefined && useless !== undefined) {
    throw new TypeError(`Expected \`snapshots.directory\` beside \`${useless}\`: without it a view writes no snapshots`)
  }
  const everyMutations = snapshots['everyMutations'] ?? 10_000
  const common = { snapshots: { ...snapshots, everyMutations }, mutations: writerSettings({}) }
  const { definition, ...automatic } = stateSettings<State, Mutation>(given, common)
  const stateSchema = schemaOption(snapshots['schema'])
  const stored = { keep, codec, schema: stateSchema && checkOnly(stateSchema) }
  // Refuses what is invalid now. Later, a lock would be held.
  snapStoreSettings(stored)
  return {
    definition,
    journal: Object.fromEntries(journalNames.map((name) => [name, given[name]])),
    snapshots: stored,
    directory: directory === undefined ? undefined : directoryPath(directory),
    automatic,
    onError: optionalCallback('onError', given['onError']),
    signal: signalOption(given['signal']),
    fileSystem: fileSystemOption(given['fileSystem']),
  }
}

/** @throws {TypeError | RangeError} if a name is unknown or a value is out of range. */
export function caughtUpSettings(options: unknown): CaughtUpOptions {
  const { sequence, signal } = fields(options, ['sequence', 'signal'])
  return {
    sequence: sequence === undefined ? undefined : integer('sequence', sequence, { min: 0 }),
    signal: signalOption(signal),
  }
}

/** @throws {TypeError} unless `directory` is a non-empty string without NUL or a `file:` URL. */
export function directoryPath(directory: unknown): string {
  return resolve(filePath(directory, 'directory'))
}

function stateSettings<State, Mutation>(
  given: Fields,
  parts: { readonly snapshots: Fields; readonly mutations: StateSettings<State, Mutation>['mutations'] },
): StateSettings<State, Mutation> {
  const definition = {
    initialState: callback('initialState', given['initialState']),
    mutator: callback('mutator', given['mutator']),
    validate: optionalCallback('validate', given['validate']),
  }
  const { everyMutations, onError } = parts.snapshots
  return {
    definition: definition as unknown as StateDefinition<State, Mutation>,
    copyOf: copierOf(codecOption(parts.snapshots['codec'], ['encode', 'decode'])) as (state: State) => State,
    everyMutations: integer('everyMutations', everyMutations, { default: Number.POSITIVE_INFINITY }),
    onError: optionalCallback('onError', onError),
    capture: optionalCallback('capture', given['capture']),
    mutations: parts.mutations,
  }
}

/** A state with a codec may hold what `structuredClone` does not keep, such as instances of classes. */
function copierOf(codec: Codec | undefined): (state: unknown) => unknown {
  const copy = codec === undefined ? structuredClone<unknown> : (state: unknown) => codec.decode(codec.encode(state))
  const [code, how] =
    codec === undefined
      ? (['ERR_MINISTORE_NOT_SERIALIZABLE', 'structuredClone'] as const)
      : (['ERR_MINISTORE_CODEC', 'the codec of the snapshots'] as const)
  return (state) => {
    try {
      return copy(state)
    } catch (error) {
      const message =
        `Expected a state that ${how} can copy, which applyAll needs for \`validate\`: ${messageOf(error)}. Nothing is ` +
        'written. Change the state, or open it with a codec for snapshots that fits, or call `apply` for each mutation.'
      throw new MiniStoreError(code, message, { cause: error })
    }
  }
}

function journalFields(value: unknown): Fields {
  if (isObject(value) && 'maxSegments' in value) {
    const reason = 'it would delete mutations that no snapshot covers; use compact() instead'
    throw new TypeError(`Expected no option \`maxSegments\` of \`journal\`: ${reason}`)
  }
  return fields(value, ['maxBytesPerSegment', 'preallocate', 'maxRecordBytes', 'codec', 'lock', 'mode'], 'journal')
}

/** Options of `apply` and `applyAll`. */
export interface ApplyOptions {
  /**
   * Applies the mutations only if the state is at this sequence number when the call's turn comes.
   * Use it to refuse a change when the state has changed since you read it. 0 is the initial state.
   *
   * @default any sequence number
   */
  readonly expectedSequence?: number | undefined
}

/**
 * Makes every part of a type read-only at all depths: objects, arrays, tuples, maps and sets.
 * Functions and dates stay as they are. Only the compiler enforces this; nothing is frozen.
 *
 * `validate` gets the state in this type, but the mutation in its own: a mutation with read-only
 * arrays would not fit the types that callers have.
 */
export type DeepReadonly<T> = unknown extends T
  ? T
  : T extends string | number | bigint | boolean | symbol | null | undefined | Date | ((...given: never[]) => unknown)
    ? T
    : T extends ReadonlyMap<infer Key, infer Value>
      ? ReadonlyMap<DeepReadonly<Key>, DeepReadonly<Value>>
      : T extends ReadonlySet<infer Value>
        ? ReadonlySet<DeepReadonly<Value>>
        : { readonly [Key in keyof T]: DeepReadonly<T[Key]> }
