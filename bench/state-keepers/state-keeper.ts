import type { Entries } from '../data/changes.ts'

/** A way to keep a state of many keys on the disk while its keys change one after another. */
export interface StateKeeper {
  /** Name shown in tables. */
  readonly name: string
  readonly version: string
  /** What holds once a change has resolved, or returned. */
  readonly promise: string
  /** Whether the event loop stands still while a change waits for the disk. */
  readonly blocksEventLoop: boolean
  /** Short remarks that a reader of the comparison needs. */
  readonly notes: readonly string[]
  /** Why it can be faster than the library, if blocking the event loop is not the reason. */
  readonly because?: string | undefined
  /** Creates a store with these entries in an empty directory. */
  open(directory: string, entries: Entries): Promise<KeptState>
}

/** An open state that accepts changes. */
export interface KeptState {
  /**
   * Sets the value of a key. The change is as durable as `promise` says once the call resolves, or
   * returns undefined.
   */
  set(key: string, value: string): Promise<unknown> | undefined
  close(): Promise<void>
}
