import { MiniStoreError } from '../errors.ts'

export function queueClosed(): MiniStoreError {
  return new MiniStoreError('ERR_MINISTORE_CLOSED', 'The queue is closed')
}

export function alreadySettled(id: number): MiniStoreError {
  const message = `Message ${id} has been acked or nacked already, or is being so`
  return new MiniStoreError('ERR_MINISTORE_MESSAGE_SETTLED', message)
}

export function leaseLost(id: number): MiniStoreError {
  const message = `The lease of message ${id} is over: somebody else may have it by now`
  return new MiniStoreError('ERR_MINISTORE_LEASE_LOST', message)
}

export function noSuchMessage(id: number): MiniStoreError {
  return new MiniStoreError('ERR_MINISTORE_NO_SUCH_MESSAGE', `There is no dead letter ${id}`)
}

/** @param more what does not fit, and the limit. */
export function queueFull(more: string): MiniStoreError {
  return new MiniStoreError('ERR_MINISTORE_QUEUE_FULL', `The queue is full: ${more}; nothing is written`)
}

/** The error for whoever comes after, or waits, when the queue cannot know any more what is on the disk. */
export function queuePoisoned(cause: MiniStoreError): MiniStoreError {
  if (cause.code === 'ERR_MINISTORE_POISONED') return cause
  return new MiniStoreError('ERR_MINISTORE_POISONED', `Only close() works: ${cause.message}`, { cause })
}
