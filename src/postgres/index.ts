/**
 * The interfaces `Journal` and `Snapshots` on PostgreSQL, for states and event logs that outgrow one machine.
 *
 * @module
 */
export type { Codec, KeptByJson, NotKeptByJson, PreparedRecord } from '../schema.ts'
export { MiniStoreError, type MiniStoreErrorCode, type MiniStoreErrorContext } from '../errors.ts'
export type { AppendedRange, AppendOptions, Journal, JournalEntry, JournalRange } from '../journal/journal.ts'
export type { LoadedSnapshot, SnapshotCreateOptions, SnapshotInfo, Snapshots } from '../journal/snapshots.ts'
export type { PostgresAnswer, PostgresClient } from './client.ts'
export { PostgresJournal, type PostgresOptions, type PostgresReadOptions } from './journal.ts'
export { PostgresSnapshots, type PostgresSnapshotsOptions } from './snapshots.ts'
export { createTables, tablesSql, type TableOptions } from './statements.ts'
