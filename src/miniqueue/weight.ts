/** About what the JSON of a message takes beside its payload, key and reason. */
const messageBytes = 128
/** About what the JSON of a kept key takes beside the key, which is there twice. */
const keptKeyBytes = 80

/**
 * About how many bytes of JSON a message or a dead letter is: for the ratio between what lives and what is on
 * the disk, and for the limit on all that a snapshot can hold.
 */
export function weightOf(message: {
  readonly bytes: number
  readonly key?: string
  readonly reason?: string
}): number {
  return messageBytes + message.bytes + (message.key?.length ?? 0) + (message.reason?.length ?? 0)
}

/** As {@link weightOf}, of the key of a message that is acknowledged. */
export function weightOfKept(key: string): number {
  return keptKeyBytes + 2 * key.length
}
