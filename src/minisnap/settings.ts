import type { StandardSchemaV1 } from '@standard-schema/spec'

import type { MiniStoreError } from '../errors.ts'
import type { FileSystem } from '../fs/file-system.ts'
import { type FileSystemOption, fileSystemOption } from '../fs/node.ts'
import { boolean, fields, integer, journalId, permissions } from '../options.ts'
import { type Codec, codecOption, schemaOption } from '../schema.ts'

/** Options of a `SnapStore`. */
export interface SnapStoreOptions<Input = unknown, Output = Input> extends FileSystemOption {
  /**
   * Number of whole snapshots to keep; `create()` removes older ones. With 1, there is no fallback
   * if the disk damages the only snapshot.
   *
   * @default 2; minimum 1
   */
  readonly keep?: number | undefined
  /**
   * Replaces JSON. If the codec returns a JSON object or array on one line, that text is stored as
   * it is. Any other text is stored as a JSON string.
   *
   * @default JSON.stringify and JSON.parse
   */
  readonly codec?: Codec<Input, Output> | undefined
  /**
   * Any Standard Schema. `create()` checks the given state and stores it as given. `restore()`
   * returns the schema's output for the stored state.
   *
   * @default none
   */
  readonly schema?: StandardSchemaV1<Input, Output> | undefined
  /**
   * Permissions of new snapshots, regardless of the umask. For example, 0o600 gives access to the
   * owner only. Windows has no such permissions.
   *
   * @default those of the newest snapshot, or 0o666 less the umask for the first; 0o600 to 0o777
   */
  readonly mode?: number | undefined
}

/**
 * Option that names a file whose permissions and owner new snapshots take. Used only inside the
 * package: a state names its journal here.
 */
export const modelFile: unique symbol = Symbol('modelFile')

/** Options of `SnapStore.create`. */
export interface CreateOptions {
  /**
   * Set this if the state does not change until the call settles. You must ensure that.
   *
   * @default false
   */
  readonly frozen?: boolean | undefined
  /**
   * Identity of the journal that the state comes from, such as `store.id`: 16 lower-case hexadecimal
   * digits. It is stored with the state, so that no other journal continues from this snapshot.
   *
   * @default none
   */
  readonly journal?: string | undefined
}

/** Options of `SnapStore.restore`. */
export interface RestoreOptions {
  /** Ignores snapshots with a greater sequence number. @default no limit; minimum 0 */
  readonly atMost?: number | undefined
}

/** A restored state. */
export interface RestoredSnapshot<State> {
  /** The state is yours to change: each call reads it from disk again. */
  readonly state: State
  /** Sequence number of the state. */
  readonly sequence: number
  /** Identity of the journal that the state comes from; undefined if the snapshot names none. */
  readonly journal: string | undefined
  /** The damage of newer snapshots that were skipped, newest first. Their files stay in place. */
  readonly damaged: readonly MiniStoreError[]
}

/** Options of a store, checked and complete. */
export interface SnapStoreSettings {
  readonly keep: number
  readonly codec: Codec | undefined
  readonly schema: StandardSchemaV1 | undefined
  readonly fileSystem: FileSystem
  readonly mode: number | undefined
  /** See {@link modelFile}. */
  readonly modelFile: string | undefined
}

/** @throws {TypeError | RangeError} if a name is unknown or a value is out of range. */
export function snapStoreSettings(options: unknown): SnapStoreSettings {
  const given = fields(options, ['keep', 'codec', 'schema', 'mode', 'fileSystem'])
  return {
    keep: integer('keep', given['keep'], { default: 2 }),
    codec: codecOption(given['codec'], ['encode', 'decode']),
    schema: schemaOption(given['schema']),
    fileSystem: fileSystemOption(given['fileSystem']),
    mode: permissions('mode', given['mode']),
    modelFile: (options as { readonly [modelFile]?: string } | undefined)?.[modelFile],
  }
}

/** @throws {TypeError} if a name is unknown or a value is invalid. */
export function createSettings(options: unknown): { readonly isFrozen: boolean; readonly journal: string | undefined } {
  const { frozen, journal } = fields(options, ['frozen', 'journal'])
  return {
    isFrozen: boolean('frozen', frozen, { default: false }),
    journal: journal === undefined ? undefined : journalId('journal', journal),
  }
}

/** @throws {TypeError | RangeError} if a name is unknown or a value is out of range. */
export function restoreLimit(options: unknown): number {
  const given = fields(options, ['atMost'])
  return integer('atMost', given['atMost'], { default: Number.MAX_SAFE_INTEGER, min: 0 })
}
