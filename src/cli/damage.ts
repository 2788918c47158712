import { messageOf, type MiniStoreError, propertyOf } from '../errors.ts'

/** Damage to a journal as commands print it. The field names are stable. */
export interface DamageReport {
  readonly segment: string | undefined
  readonly line: number | undefined
  readonly offset: number | undefined
  readonly sequence: number | undefined
  readonly reason: string
}

export function damageReport(damage: MiniStoreError): DamageReport {
  const { segment, line, offset, sequence } = damage
  return { segment, line, offset, sequence, reason: reasonOf(damage) }
}

/** Formats damage as `journal.jsonl, line 3, offset 47, sequence 2: the line is blank`. */
export function damageText({ segment, line, offset, sequence, reason }: DamageReport): string {
  const places = [
    segment,
    line === undefined ? undefined : `line ${line}`,
    offset === undefined ? undefined : `offset ${offset}`,
    sequence === undefined ? undefined : `sequence ${sequence}`,
  ]
  return `${places.filter((place) => place !== undefined).join(', ')}: ${reason}`
}

/** Returns the message without the place, which is printed next to it. */
function reasonOf({ message, path, segment, line, offset, code, cause }: MiniStoreError): string {
  const isUndecoded =
    cause !== undefined &&
    line !== undefined &&
    (code === 'ERR_MINISTORE_CODEC' || propertyOf(cause, 'name') === 'SyntaxError')
  if (isUndecoded) return `the line is not JSON: ${messageOf(cause)}`
  const place = `The journal ${path} is damaged at ${segment}`
  if (!message.startsWith(place)) return message
  const exact = `, line ${line}, offset ${offset}`
  const rest = message.slice(place.length)
  const reason = rest.startsWith(exact) ? rest.slice(exact.length) : rest
  return reason.replace(/^: /, '').replace(` (line ${line}, offset ${offset})`, '')
}
