import { MiniStoreError } from '../errors.ts'
import { fields, integer } from '../options.ts'

/** Options of `apply`. */
export interface ApplyOptions {
  /**
   * Applies the mutation only if the state is at this sequence number when its turn comes: if nobody has
   * changed it since the caller looked. 0 is the initial state. @default whatever it is
   */
  readonly expectedSequence?: number | undefined
}

/** @throws {TypeError | RangeError} for an unknown name or what is neither 0 nor a sequence number. */
export function expectedSequenceOf(options: unknown): number | undefined {
  if (options === undefined) return undefined
  const { expectedSequence } = fields(options, ['expectedSequence'])
  if (expectedSequence === undefined) return undefined
  return integer('expectedSequence', expectedSequence, { least: 0 })
}

/**
 * @throws {MiniStoreError} `ERR_MINISTORE_SEQUENCE_CONFLICT` unless the state is where it was expected, if it
 *   was.
 */
export function refuseConflict(expected: number | undefined, sequence: number): void {
  if (expected === undefined || expected === sequence) return
  const message = `Expected the state to be at sequence ${expected}, it is at ${sequence}; nothing is written`
  throw new MiniStoreError('ERR_MINISTORE_SEQUENCE_CONFLICT', message, { sequence })
}

/** The error when the journal has given a mutation another sequence number than the next. */
export function foreignRecord(expected: number, sequence: number): MiniStoreError {
  const message =
    `Expected the journal to give the mutation the sequence number ${expected}, got ${sequence}: ` +
    'somebody else appends to it'
  return new MiniStoreError('ERR_MINISTORE_OUTCOME_UNKNOWN', message, { sequence })
}
