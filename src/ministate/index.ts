/**
 * A state that survives crashes, built from a mutator, a journal of mutations, snapshots, and
 * compaction; and read models, which fold a journal in any process.
 *
 * @module
 */
export type { Codec, KeptByJson, NotKeptByJson } from '../schema.ts'
export { MiniStoreError, type MiniStoreErrorCode, type MiniStoreErrorContext } from '../errors.ts'
export type { AppendedRange, AppendOptions, Journal, JournalEntry, JournalRange, JournalUse } from '../journal/journal.ts'
export type { LoadedSnapshot, SnapshotCreateOptions, SnapshotInfo, Snapshots } from '../journal/snapshots.ts'
export type { RecoveryReport } from '../ministore/recovery.ts'
export type { ApplyOptions } from './settings.ts'
export type { CompactionReport } from './snapshots.ts'
export type { DeepReadonly } from './settings.ts'
export type { StateRecovery } from './recovery.ts'
export type {
  AutomaticSnapshots, CaughtUpOptions, MutationContext, MutationForm, Mutator, SnapshotOptions, StateDefinition,
  StateJournalOptions, StateOptions, StateOverOptions, ViewOptions, ViewSnapshotOptions,
} from './settings.ts'
export { StateManager } from './state-manager.ts'
export { StateView } from './state-view.ts'
