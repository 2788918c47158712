import type { Entries } from '../data/changes.ts'

/** Something that keeps a state of many keys on the disk, of which one after another changes. */
export interface StateKeeper {
  /** As tables show it. */
  readonly name: string
  readonly version: string
  /** What is true when a change has resolved, or returned. */
  readonly promise: string
  /** Whether the event loop stands still while a change waits for the disk. */
  readonly blocksEventLoop: boolean
  /** What to know when comparing it, in a few words. */
  readonly notes: readonly string[]
  /** Why it can be faster than ours, where it is for another reason than that it blocks. */
  readonly because?: string | undefined
  /** Makes a store of these entries in an empty directory. */
  open(directory: string, entries: Entries): Promise<KeptState>
}

/** A state that is open for changes. */
export interface KeptState {
  /** Sets the value of a key. As durable as promised when it resolves, or returns. */
  set(key: string, value: string): Promise<unknown> | undefined
  close(): Promise<void>
}
