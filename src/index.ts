/**
 * The journal: a durable, append-only log of records that a program embeds.
 *
 * @module ministore
 */
export { MiniStoreError, type MiniStoreErrorCode, type MiniStoreErrorContext } from './errors.ts'
export type { File, FileAccess, FileStat, FileSystem, OpenMode } from './fs/file-system.ts'
export { nodeFileSystem } from './fs/node.ts'
export type { JournalEntry } from './journal/journal.ts'
export { MiniStore } from './ministore/ministore.ts'
export type { RecoveryReport, TornTail } from './ministore/recovery.ts'
export type {
  AppendTrace, Codec, OpenOptions, PoisonMessage, ReadOptions, RecoverTrace, RotateTrace, SchemaOption, StreamOptions,
} from './ministore/settings.ts'
export { type JournalIterator, JournalStream } from './ministore/stream.ts'
export type { SegmentInfo } from './ministore/view.ts'
