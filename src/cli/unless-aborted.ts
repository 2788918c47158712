import { settledOrAborted } from '../async.ts'

/**
 * What some work gives, or the signal's reason as soon as it is aborted. The work goes on unheard until the
 * process ends: only for what changes nothing.
 */
export async function unlessAborted<T>(signal: AbortSignal, start: () => Promise<T>): Promise<T> {
  signal.throwIfAborted()
  const work = start()
  await settledOrAborted(work, signal)
  return work
}
