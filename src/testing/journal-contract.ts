import type { Journal } from '../journal/journal.ts'
import { type ContractOptions, type ContractTest, Patience } from './contract.ts'
import { journalClaims } from './journal-claims.ts'

/** A record that {@link journalContract} appends. */
export interface ContractRecord {
  /** Which record it is. */
  readonly n: number
  /** A text of any characters. */
  readonly text?: string
}

/** A log that {@link journalContract} tests, without schema. */
export interface JournalSubject {
  /** Open for writing, and new: no record was ever written to it. */
  readonly journal: Journal<ContractRecord>
  /** Opens the same log again. Called after the journal was closed. */
  reopen(): Promise<Journal<ContractRecord>>
  /**
   * Opens the same log for writing while the journal is still open, in place of it. Leave it out if
   * an open log refuses a second writer.
   */
  takeOver?(): Promise<Journal<ContractRecord>>
  /** Opens the same log for reading while the journal is still open, if it can be read like that. */
  reader?(): Promise<Journal<ContractRecord, never>>
}

/**
 * Returns the tests of everything that the interface `Journal` promises. Optional methods, and
 * optional parts of the subject, are tested where they are present.
 *
 * ```ts
 * for (const { name, run } of journalContract(openNewLog)) test(name, run)
 * ```
 *
 * The tests cannot see whether an acknowledged record would survive a power loss.
 *
 * @param make opens a new log for each test. A test closes the journals that it opened, unless it
 *   fails.
 * @throws {TypeError | RangeError} if an option is invalid.
 */
export function journalContract(make: () => Promise<JournalSubject>, options?: ContractOptions): ContractTest[] {
  const patience = new Patience(options)
  return Object.entries(journalClaims).map(([name, claim]) => ({
    name,
    run: async () => {
      const subject = await make()
      const open = new Set([subject.journal])
      const opened = async (call: Promise<Journal<ContractRecord>>): Promise<Journal<ContractRecord>> => {
        const journal = await patience.until('opening the log', call)
        open.add(journal)
        return journal
      }
      const reopened = async (): Promise<Journal<ContractRecord>> => {
        await patience.until('close', Promise.all([...open].map((journal) => journal.close())))
        open.clear()
        return await opened(subject.reopen())
      }
      const { journal } = subject
      await claim({ subject, journal, patience, opened, reopened, another: () => opened(make().then((other) => other.journal)) })
      await patience.until('close', Promise.all([...open].map((one) => one.close())))
    },
  }))
}
