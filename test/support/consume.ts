/** What came out of something iterable until it ended, and the error it ended with, if it did. */
export interface Outcome<T> {
  readonly items: T[]
  readonly error: unknown
}

/** Everything an async iterable gives, as `Array.fromAsync` does. */
export async function collect<T>(source: AsyncIterable<T>): Promise<T[]> {
  const items: T[] = []
  for await (const item of source) items.push(item)
  return items
}

/** As {@link collect}, but an error is a part of the outcome: what came before it is told too. */
export async function outcomeOf<T>(source: AsyncIterable<T>): Promise<Outcome<T>> {
  const items: T[] = []
  try {
    for await (const item of source) items.push(item)
  } catch (error) {
    return { items, error }
  }
  return { items, error: undefined }
}

/** Takes so many items and leaves the iterator where it is. */
export async function take<T>(iterator: AsyncIterator<T>, count: number): Promise<T[]> {
  const items: T[] = []
  while (items.length < count) {
    const result = await iterator.next()
    if (result.done === true) break
    items.push(result.value)
  }
  return items
}

/** Lets everything that is ready run: a whole turn of the event loop. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}
