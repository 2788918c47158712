import type { MiniStoreError } from '../errors.ts'

/**
 * The snapshot store beside a journal, as a state manager needs it. `SnapStore` implements it;
 * another store that keeps these promises can replace it.
 *
 * A snapshot is a state and its sequence number. Calls may overlap; they are done in call order. The
 * store, or its user, must ensure that there is only one writer.
 *
 * `snapshotsContract` of `@mini-ts/ministore/testing` tests these promises.
 */
export interface Snapshots<State> {
  /** Number of whole snapshots that the store keeps; 1 or more. */
  readonly keep: number
  /**
   * Stores a snapshot and resolves once it is on stable storage. Removes snapshots older than the
   * {@link keep} newest whole ones, and only once the new one is durable. Those that the store has
   * found damaged do not count. A snapshot of the same sequence number is replaced. Changes of the
   * state after the call settled have no effect.
   *
   * If it rejects, or after a crash before it resolves, earlier snapshots are unchanged and the new
   * one is there as a whole or not at all.
   *
   * @param sequence 0 or greater, never below that of the newest whole snapshot.
   */
  create(state: State, sequence: number, options?: SnapshotCreateOptions): Promise<SnapshotInfo>
  /**
   * Resolves with the newest whole snapshot, or with the newest whole one at or before `atMost`.
   * Resolves with undefined if there is none. The state belongs to the caller: no later call returns
   * a part of it.
   *
   * Rejects with `ERR_MINISTORE_SNAPSHOT_DAMAGED` if there are such snapshots and all are damaged.
   */
  restore(options?: { readonly atMost?: number | undefined }): Promise<LoadedSnapshot<State> | undefined>
  /** Resolves with the existing snapshots, newest first, damaged ones included. */
  list(): Promise<readonly SnapshotInfo[]>
  /**
   * Resolves if the snapshot is as it was written, and rejects with
   * `ERR_MINISTORE_SNAPSHOT_DAMAGED` if it is not. Absent if the store cannot tell, or if its
   * snapshots cannot be damaged: compaction then relies on each snapshot in the list.
   */
  verify?(sequence: number): Promise<void>
  /** Removes what a crash has left half-written. Absent if a crash leaves nothing. */
  sweep?(): Promise<void>
}

/** Options of {@link Snapshots.create}. */
export interface SnapshotCreateOptions {
  /**
   * The state does not change until the call settles, so the store need not copy it first.
   *
   * @default false
   */
  readonly frozen?: boolean | undefined
  /**
   * Identity of the journal that the state comes from. A store that can keeps it with the state, so
   * that no other journal continues from the snapshot.
   *
   * @default none
   */
  readonly journal?: string | undefined
}

/** A snapshot in a store. */
export interface SnapshotInfo {
  /** Sequence number of the state. */
  readonly sequence: number
  /** Absolute path of the file. In a store without files: any text that names the snapshot. */
  readonly path: string
  /** Size in bytes, or 0 if the store does not know it. */
  readonly bytes: number
}

/** A snapshot that was read. */
export interface LoadedSnapshot<State> {
  /** The state, as it was given to `create`. */
  readonly state: State
  /** Sequence number of the state. */
  readonly sequence: number
  /** Identity of the journal that the state comes from. @default unknown */
  readonly journal?: string | undefined
  /** The damage of newer snapshots that were skipped, newest first. @default none */
  readonly damaged?: readonly MiniStoreError[] | undefined
}
