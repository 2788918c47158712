import { resolve } from 'node:path'

import type { StandardSchemaV1 } from '@standard-schema/spec'

import { MiniStoreError } from '../errors.ts'
import type { FileSystem } from '../fs/file-system.ts'
import { type OpenOptions, writerSettings, type WriterSettings } from '../ministore/settings.ts'
import { type Fields, fields, filePath, integer, isObject, shown } from '../options.ts'
import { checkOnly, type Codec, schemaOption } from '../schema.ts'

/** The journal's name in the directory of a state. */
export const journalName = 'journal.jsonl'

/**
 * Makes a mutation part of the state: changes the state it is given and returns nothing, or returns a new
 * one.
 *
 * It runs again for the same mutation whenever the state is rebuilt, so it must give the same for the same:
 * no clock, no random numbers, nothing from outside. Put such things into the mutation. It is synchronous,
 * and must not throw for a mutation that `validate` lets pass: then the mutation is in the journal, and the
 * state cannot be had any more.
 *
 * A state is a tree: an object that lies in two places of it lies there twice once it comes from a snapshot.
 */
export type Mutator<State, Mutation> = (
  state: State,
  mutation: Mutation,
  context: MutationContext,
) => NoInfer<State> | void

/** What a mutator is told besides. */
export interface MutationContext {
  /** Sequence number of the mutation: 1 for the first ever, without a gap. */
  readonly sequence: number
}

/** What a state is and how it changes. */
export interface StateDefinition<State, Mutation> {
  /**
   * The state before the first mutation. Called whenever a state is rebuilt from the beginning: with a
   * mutator that changes states in place it must give a new one each time.
   */
  readonly initialState: () => State
  readonly mutator: Mutator<State, Mutation>
  /**
   * Refuses a mutation by throwing, before anything is written; `apply` rejects with what it threw. It may be
   * asynchronous, and holds up the mutations behind it. It must not change what it is given, nor wait for
   * another call of the same manager, which waits for it. Not asked when a state is rebuilt.
   */
  readonly validate?:
    | ((state: DeepReadonly<State>, mutation: Mutation) => void | Promise<void>)
    | undefined
}

/** When snapshots are made without being asked for one by one. */
export interface AutomaticSnapshots {
  /**
   * Makes a snapshot in the `apply` that is so many mutations behind the last one, before it resolves.
   *
   * @default none are made; minimum 1
   */
  readonly everyMutations?: number | undefined
  /**
   * Is told when such a snapshot failed; the mutation is durable all the same, and it is tried again after as
   * many mutations.
   *
   * @default process.emitWarning
   */
  readonly onError?: ((error: unknown) => void) | undefined
}

/** Options of the snapshots. */
export interface SnapshotOptions<State> extends AutomaticSnapshots {
  /** Snapshots to keep; records that the oldest of them covers may be dropped. @default 2; minimum 1 */
  readonly keep?: number | undefined
  /** Replaces JSON for states: for maps, dates, classes. @default JSON */
  readonly codec?: Codec<State> | undefined
  /**
   * Any Standard Schema, asked about a state before it is written and when it is read. It is a check: its output is not
   * used, or a state that comes from a snapshot would be another than the live one. It must not change what it is given.
   *
   * @default none
   */
  readonly schema?: StandardSchemaV1<State> | undefined
}

/** Options of the journal beneath, as `MiniStore.open` has them. */
export type StateJournalOptions<Input> = Pick<
  OpenOptions<Input>,
  'maxBytesPerSegment' | 'maxRecordBytes' | 'codec' | 'lock' | 'mode'
>

/** Options of `StateManager.open`. */
export interface StateOptions<State, Mutation, Input = Mutation> extends StateDefinition<State, Mutation> {
  /**
   * Any Standard Schema, asked about every mutation before it is written and when it is read; `validate` and
   * `mutator` get its output. As the mutator it must give the same for the same. @default none
   */
  readonly schema?: StandardSchemaV1<Input, Mutation> | undefined
  readonly journal?: StateJournalOptions<Input> | undefined
  readonly snapshots?: SnapshotOptions<State> | undefined
  /** Where files live; for tests. @default the file system of this machine */
  readonly fileSystem?: FileSystem | undefined
}

/** Options of `StateManager.over`. */
export interface StateOverOptions<State, Mutation, Input = Mutation>
  extends StateDefinition<State, Mutation> {
  /** The journal's own, when it has one. */
  readonly codec?: Codec<Input> | undefined
  /** The journal's own, when it has one. */
  readonly schema?: StandardSchemaV1<Input, Mutation> | undefined
  readonly snapshots?: AutomaticSnapshots | undefined
}

/** What is the same for both ways of opening, checked and complete. */
export interface StateSettings<State, Mutation> {
  readonly definition: StateDefinition<State, Mutation>
  /** Infinity when snapshots are made only when asked for. */
  readonly everyMutations: number
  readonly onError: ((error: unknown) => void) | undefined
  /** How mutations become lines. */
  readonly mutations: Pick<WriterSettings, 'codec' | 'schema' | 'maxRecordBytes'>
}

/** Options of `open`, checked and complete. */
export interface OpenSettings<State, Mutation> extends StateSettings<State, Mutation> {
  readonly journal: WriterSettings
  readonly snapshots: Fields
}

const definitionNames = ['initialState', 'mutator', 'validate']
const automaticNames = ['everyMutations', 'onError']

/** @throws {TypeError | RangeError} for an unknown name or a value out of its range. */
export function openSettings<State, Mutation>(options: unknown): OpenSettings<State, Mutation> {
  const given = fields(options, [...definitionNames, 'schema', 'journal', 'snapshots', 'fileSystem'])
  const { schema, fileSystem } = given
  const journal = writerSettings({ ...journalFields(given['journal']), schema, fileSystem })
  const snapshots = nested('snapshots', given['snapshots'], ['keep', 'codec', 'schema', ...automaticNames])
  const { keep, codec } = snapshots
  const stateSchema = schemaOption(snapshots['schema'])
  return {
    ...stateSettings(given, { snapshots, mutations: journal }),
    journal,
    snapshots: { keep, codec, schema: stateSchema && checkOnly(stateSchema), fileSystem: journal.fileSystem },
  }
}

/** @throws {TypeError | RangeError} for an unknown name or a value out of its range. */
export function overSettings<State, Mutation>(options: unknown): StateSettings<State, Mutation> {
  const given = fields(options, [...definitionNames, 'codec', 'schema', 'snapshots'])
  const { codec, schema } = given
  const snapshots = nested('snapshots', given['snapshots'], automaticNames)
  return stateSettings(given, { snapshots, mutations: writerSettings({ codec, schema }) })
}

/** @throws {TypeError} unless it is a path that names a directory. */
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
    validate: given['validate'] === undefined ? undefined : callback('validate', given['validate']),
  }
  const { everyMutations, onError } = parts.snapshots
  return {
    definition: definition as unknown as StateDefinition<State, Mutation>,
    everyMutations: integer('everyMutations', everyMutations, { otherwise: Number.POSITIVE_INFINITY }),
    onError: onError === undefined ? undefined : callback('onError', onError),
    mutations: parts.mutations,
  }
}

function journalFields(value: unknown): Fields {
  if (isObject(value) && 'maxSegments' in value) {
    const reason = 'it would delete mutations that no snapshot has; compact() deletes those that one has'
    throw new TypeError(`Expected no option \`maxSegments\` of \`journal\`: ${reason}`)
  }
  return nested('journal', value, ['maxBytesPerSegment', 'maxRecordBytes', 'codec', 'lock', 'mode'])
}

function nested(name: string, value: unknown, known: readonly string[]): Fields {
  if (value === undefined || isObject(value)) return fields(value, known)
  throw new TypeError(`Expected \`${name}\` to be an object, got ${shown(value)}`)
}

function callback(name: string, value: unknown): (...given: unknown[]) => unknown {
  if (typeof value === 'function') return value as (...given: unknown[]) => unknown
  throw new TypeError(`Expected \`${name}\` to be a function, got ${shown(value)}`)
}

/** Options of `apply`. */
export interface ApplyOptions {
  /**
   * Applies the mutation only if the state is at this sequence number when its turn comes: if nobody has
   * changed it since the caller looked. 0 is the initial state. @default whatever it is
   */
  readonly expectedSequence?: number | undefined
}

/** @throws {TypeError | RangeError} for an unknown name or what is neither 0 nor a sequence number. */
export function expectedSequenceOf(options: unknown): number | undefined {
  if (options === undefined) return undefined
  const { expectedSequence } = fields(options, ['expectedSequence'])
  if (expectedSequence === undefined) return undefined
  return integer('expectedSequence', expectedSequence, { least: 0 })
}

/**
 * @throws {MiniStoreError} `ERR_MINISTORE_SEQUENCE_CONFLICT` unless the state is where it was expected, if it
 *   was.
 */
export function refuseConflict(expected: number | undefined, sequence: number): void {
  if (expected === undefined || expected === sequence) return
  const message = `Expected the state to be at sequence ${expected}, it is at ${sequence}; nothing is written`
  throw new MiniStoreError('ERR_MINISTORE_SEQUENCE_CONFLICT', message, { sequence })
}

/** The error when the journal has given a mutation another sequence number than the next. */
export function foreignRecord(expected: number, sequence: number): MiniStoreError {
  const message =
    `Expected the journal to give the mutation the sequence number ${expected}, got ${sequence}: ` +
    'somebody else appends to it'
  return new MiniStoreError('ERR_MINISTORE_OUTCOME_UNKNOWN', message, { sequence })
}

/**
 * A type whose every part is read-only: objects, arrays, tuples, maps and sets, all the way down. Functions
 * and dates are left as they are. Only the compiler holds it; nothing is frozen.
 */
export type DeepReadonly<T> = unknown extends T
  ? T
  : T extends LeftAlone
    ? T
    : T extends ReadonlyMap<infer Key, infer Value>
      ? ReadonlyMap<DeepReadonly<Key>, DeepReadonly<Value>>
      : T extends ReadonlySet<infer Value>
        ? ReadonlySet<DeepReadonly<Value>>
        : { readonly [Key in keyof T]: DeepReadonly<T[Key]> }

type LeftAlone = Primitive | Date | ((...given: never[]) => unknown)
type Primitive = string | number | bigint | boolean | symbol | null | undefined
