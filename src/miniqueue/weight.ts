/** What a snapshot has of a message beside its payload, key and reason, with long numbers. */
const messageBytes = 160
/** What it has of the key of a message, beside the key, which is there twice. */
const keyBytes = 36
/** What it has of the key of a message that is acknowledged, beside the key, which is there twice. */
const keptKeyBytes = 80
/** What it has of a reason beside its text. */
const reasonBytes = 12

/**
 * About how many bytes of a snapshot a message or a dead letter is, rather more than fewer: for the ratio between
 * what lives and what is on the disk, and for the limit on all that a snapshot can hold. The key of a dead letter
 * counts as if it were held, so that a letter that is redriven weighs no more than before.
 */
export function weightOf(message: {
  readonly bytes: number
  readonly key?: string
  readonly reason?: string
}): number {
  const { bytes, key, reason } = message
  const ofKey = key === undefined ? 0 : keyBytes + 2 * jsonBytes(key)
  return messageBytes + bytes + ofKey + (reason === undefined ? 0 : weightOfReason(reason))
}

/** As {@link weightOf}, of a reason alone. */
export function weightOfReason(reason: string): number {
  return reasonBytes + jsonBytes(reason)
}

/** As {@link weightOf}, of the key of a message that is acknowledged. */
export function weightOfKept(key: string): number {
  return keptKeyBytes + 2 * jsonBytes(key)
}

/** With escapes and in UTF-8, without the quotes. */
function jsonBytes(text: string): number {
  return Buffer.byteLength(JSON.stringify(text)) - 2
}
