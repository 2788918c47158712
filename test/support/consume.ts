/** What an iterable gave until it ended, and the error it ended with, if any. */
export interface Outcome<T> {
  readonly items: T[]
  readonly error: unknown
}

/** Collects everything an async iterable gives, like `Array.fromAsync`. */
export async function collect<T>(source: AsyncIterable<T>): Promise<T[]> {
  const items: T[] = []
  for await (const item of source) items.push(item)
  return items
}

/**
 * Like {@link collect}, but returns an error as part of the outcome, together with the items before
 * it.
 */
export async function outcomeOf<T>(source: AsyncIterable<T>): Promise<Outcome<T>> {
  const items: T[] = []
  try {
    for await (const item of source) items.push(item)
  } catch (error) {
    return { items, error }
  }
  return { items, error: undefined }
}

/** Takes `count` items and leaves the iterator open. */
export async function take<T>(iterator: AsyncIterator<T>, count: number): Promise<T[]> {
  const items: T[] = []
  while (items.length < count) {
    const result = await iterator.next()
    if (result.done === true) break
    items.push(result.value)
  }
  return items
}

/** Resolves after a whole turn of the event loop, so that everything that is ready has run. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}

/** Waits for a step. Its failure is named after the step. */
export async function named(what: string, step: Promise<void>): Promise<void> {
  try {
    await step
  } catch (error) {
    throw new Error(`${what}: ${String(error)}`, { cause: error })
  }
}
