import { systemErrorCode } from '../../fs/file-system.ts'
import { openJournal, recordsToSend } from './demo-journal.ts'

/** What the writer tells its parent. `begin` comes before an append, `acknowledged` after it resolved. */
export type WriterMessage =
  | { readonly kind: 'begin'; readonly sequence: number }
  | { readonly kind: 'acknowledged'; readonly sequence: number }
  | { readonly kind: 'failed'; readonly message: string; readonly code: string | undefined }

/** The argument that makes the demo the writer; the journal's path follows it. */
export const writerArgument = 'write'

/**
 * The child process: opens the journal, goes on behind what is there, appends the rest of the records one by one, and
 * closes it. It expects to be killed at any moment.
 */
export async function writeOn(path: string): Promise<void> {
  process.once('disconnect', onOrphaned)
  try {
    await appendRest(path)
  } catch (error) {
    process.exitCode = 1
    // When even that cannot be told, the parent is gone: the error is just that, and nobody is left to hear of it.
    await tell({ kind: 'failed', message: String(error), code: systemErrorCode(error) }).catch(onOrphaned)
  }
  process.off('disconnect', onOrphaned)
  process.disconnect()
}

/** The parent is gone, so nobody would kill this process or hear of it. */
function onOrphaned(): void {
  process.exit(1)
}

async function appendRest(path: string): Promise<void> {
  const records = recordsToSend()
  await using store = await openJournal(path)
  for (const record of records.slice(store.lastSequence)) {
    await tell({ kind: 'begin', sequence: store.lastSequence + 1 })
    const sequence = await store.append(record)
    await tell({ kind: 'acknowledged', sequence })
  }
}

/**
 * Resolves when the message is in the pipe, where it outlives this process. So at most one append is ever under way of
 * which the parent has heard `begin` and not `acknowledged`.
 */
function tell(message: WriterMessage): Promise<void> {
  return new Promise((resolve, reject) => {
    if (process.send === undefined) throw new Error('The writer is started by the demo, not by hand')
    process.send(message, undefined, undefined, (error: Error | null) => {
      if (error) reject(error)
      else resolve()
    })
  })
}
