/**
 * The journal: a durable, append-only log of records that a program embeds.
 *
 * @module ministore
 */
export { MiniStoreError, type MiniStoreErrorCode, type MiniStoreErrorContext } from './errors.ts'
export type { File, FileAccess, FileStat, FileSystem, OpenMode } from './fs/file-system.ts'
export { nodeFileSystem } from './fs/node.ts'
export { type GroupCommit, groupCommit, type GroupCommitOptions } from './journal/group-commit.ts'
export type { AppendedRange, AppendOptions, Journal, JournalEntry, JournalRange } from './journal/journal.ts'
export { replicate, type ReplicateOptions, type ReplicationReport } from './journal/replicate.ts'
export type { LoadedSnapshot, SnapshotCreateOptions, SnapshotInfo, Snapshots } from './journal/snapshots.ts'
export { MiniStore } from './ministore/ministore.ts'
export type { JournalAtPath, JournalReader, ReadableJournal } from './ministore/reader.ts'
export type { RecoveryReport, RecoverTrace, TornTail } from './ministore/recovery.ts'
export type { PoisonMessage, RotateTrace } from './ministore/rotation.ts'
export { PreparedRecord } from './schema.ts'
export type {
  BytesOptions, Codec, KeptByJson, NotKeptByJson, OpenOptions, ReadOptions, SchemaOption, StreamOptions,
} from './ministore/settings.ts'
export { type ByteBlock, type JournalIterator, JournalStream } from './ministore/stream.ts'
export type { SegmentInfo } from './ministore/view.ts'
export type { AppendTrace } from './ministore/writer.ts'
