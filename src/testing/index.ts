/**
 * A simulated file system for crash tests of ministore and of code that uses it, and the tests that
 * every journal and every snapshot store below a state manager must pass.
 *
 * Run the code on a {@link SimulatedFileSystem} and take the states that a crash may leave at any
 * moment. Check that the code opens each state and finds everything it had acknowledged:
 *
 * ```ts
 * import { SimulatedFileSystem } from '@mini-ts/ministore/testing'
 *
 * const files = new SimulatedFileSystem()
 * files.onOperation(() => {
 *   // Before each operation: every state that a crash at this moment may leave.
 *   for (const state of files.crashStates({ seed: 1, limit: 100 })) check(state, [...acknowledged])
 * })
 * const file = await files.open('/log', 'create')
 * await file.write(Buffer.from('one\n'), 0)
 * await file.dataSync()
 * await files.syncDirectory('/')
 * acknowledged.push('one')
 * ```
 *
 * @module
 */
export type { ContractOptions, ContractTest } from './contract.ts'
export { journalContract, type ContractRecord, type JournalSubject } from './journal-contract.ts'
export { snapshotsContract, type ContractState, type SnapshotsSubject } from './snapshots-contract.ts'
export type { AppendedRange, AppendOptions, Journal, JournalEntry, JournalRange } from '../journal/journal.ts'
export type { LoadedSnapshot, SnapshotCreateOptions, SnapshotInfo, Snapshots } from '../journal/snapshots.ts'
export type { CrashOptions } from './crash-states.ts'
export type { Fault, FaultOptions, OperationMatch, ShortWriteMatch } from './fault.ts'
export type { Operation, OperationName, SystemErrorCode } from './operation.ts'
export { SimulatedStopError } from './fault.ts'
export { SimulatedFileSystem } from './simulated-file-system.ts'
export type { SimulatedFileSystemOptions } from './simulated-file-system.ts'
export type { TornVariant } from './file-outcomes.ts'
export type { File, FileAccess, FileStat, FileSystem, OpenMode } from '../fs/file-system.ts'
