import type { StandardSchemaV1 } from '@standard-schema/spec'

import type { MiniStoreError } from '../errors.ts'
import type { FileSystem } from '../fs/file-system.ts'
import { type FileSystemOption, fileSystemOption } from '../fs/node.ts'
import { boolean, fields, integer, permissions } from '../options.ts'
import { type Codec, codecOption, schemaOption } from '../schema.ts'

/** Options of a `SnapStore`. */
export interface SnapStoreOptions<Input = unknown, Output = Input> extends FileSystemOption {
  /**
   * Whole snapshots to keep; `create()` removes older ones. With 1 there is nothing to fall back to when a disk
   * damages the one that is left.
   *
   * @default 2; minimum 1
   */
  readonly keep?: number | undefined
  /**
   * Replaces JSON. Its text is stored as it is where it is a JSON object or array on one line, and as a JSON string
   * where it is not.
   *
   * @default JSON.stringify and JSON.parse
   */
  readonly codec?: Codec<Input, Output> | undefined
  /**
   * Any Standard Schema. `create()` holds the given state against it and stores that state; `restore()` gives the
   * schema's output for what was stored.
   */
  readonly schema?: StandardSchemaV1<Input, Output> | undefined
  /**
   * Permissions of new snapshots, exactly so whatever the umask: 0o600 keeps them to their owner. Windows has none.
   *
   * @default those of the newest snapshot, or 0o666 less the umask for the first; 0o600 to 0o777
   */
  readonly mode?: number | undefined
}

/**
 * Names, among the options, a file whose permissions and owner new snapshots take. Inside the package only: a state
 * gives that of its journal.
 */
export const modelFile: unique symbol = Symbol('modelFile')

/** Options of `SnapStore.create`. */
export interface CreateOptions {
  /** Whether the state stays as it is until the promise settles; the caller sees to it. @default false */
  readonly frozen?: boolean | undefined
}

/** Options of `SnapStore.restore`. */
export interface RestoreOptions {
  /** Newer snapshots are left out of account: as if they were not there. @default none is too new */
  readonly atMost?: number | undefined
}

/** One snapshot as its name and size tell. */
export interface SnapshotInfo {
  /** Sequence number of the state. */
  readonly sequence: number
  /** Absolute path of its file. */
  readonly path: string
  /** Size of its file. */
  readonly bytes: number
}

/** A state as it was stored. */
export interface RestoredSnapshot<State> {
  /** The caller's own: it is read anew every time. */
  readonly state: State
  readonly sequence: number
  /** Newer snapshots that were passed over because they are not whole, newest first. Their files are left as they are. */
  readonly damaged: readonly MiniStoreError[]
}

/** Options of a store, checked and complete. */
export interface SnapStoreSettings {
  readonly keep: number
  readonly codec: Codec | undefined
  readonly schema: StandardSchemaV1 | undefined
  readonly fileSystem: FileSystem
  readonly mode: number | undefined
  readonly modelFile: string | undefined
}

const defaultKeep = 2

/** @throws {TypeError | RangeError} for an unknown name or a value out of its range. */
export function snapStoreSettings(options: unknown): SnapStoreSettings {
  const given = fields(options, ['keep', 'codec', 'schema', 'mode', 'fileSystem'])
  return {
    keep: integer('keep', given['keep'], { otherwise: defaultKeep }),
    codec: codecOption(given['codec'], ['encode', 'decode']),
    schema: schemaOption(given['schema']),
    fileSystem: fileSystemOption(given['fileSystem']),
    mode: permissions('mode', given['mode']),
    modelFile: (options as { readonly [modelFile]?: string } | undefined)?.[modelFile],
  }
}

/** @throws {TypeError} for an unknown name or a value that is none. */
export function createSettings(options: unknown): { readonly isFrozen: boolean } {
  const { frozen } = fields(options, ['frozen'])
  return { isFrozen: boolean('frozen', frozen, false) }
}

/** @throws {TypeError | RangeError} for an unknown name or a value out of its range. */
export function restoreLimit(options: unknown): number {
  const given = fields(options, ['atMost'])
  return integer('atMost', given['atMost'], { otherwise: Number.MAX_SAFE_INTEGER, least: 0 })
}
