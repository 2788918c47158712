/**
 * Streams over HTTP: a server of the Durable Streams protocol on journals.
 *
 * @module
 */
export { MiniStoreError, type MiniStoreErrorCode, type MiniStoreErrorContext } from '../errors.ts'
export { type DurableStreams, durableStreams } from './handler.ts'
export { nodeListener } from './node.ts'
export type { DurableStreamsOptions, ServedJournal } from './settings.ts'
