/**
 * Durable snapshots of a state: one file per snapshot, written as a whole or not at all.
 *
 * @module
 */
export type { Codec } from '../schema.ts'
export { MiniStoreError, type MiniStoreErrorCode, type MiniStoreErrorContext } from '../errors.ts'
export type { SnapshotInfo } from '../journal/snapshots.ts'
export { SnapStore } from './snap-store.ts'
export type { CreateOptions, RestoredSnapshot, RestoreOptions, SnapStoreOptions } from './settings.ts'
