import { createRequire } from 'node:module'

import { systemErrorCode } from '../../fs/file-system.ts'

/** What the demo appends: one webhook delivery of GitHub, or a bundle of many. */
export interface WebhookRecord {
  /** GitHub's name of the event, or `bundle`. */
  readonly event: string
  /** 1-based and the same as the sequence number that it must get, so that no two records are equal. */
  readonly delivery: number
  readonly payload: unknown
}

/** One entry of the package's catalogue: an event and what GitHub sends for it. */
interface EventExamples {
  readonly name: string
  readonly examples: readonly unknown[]
}

const packageName = '@octokit/webhooks-examples'

/**
 * The webhook payloads that GitHub's users collected in `@octokit/webhooks-examples`: event names and payloads, as
 * they were published.
 *
 * @throws {Error} when the package is not installed, or is not what it was.
 */
export function loadExamples(): EventExamples[] {
  const catalogue = requireExamples()
  if (!Array.isArray(catalogue) || !catalogue.every(isEventExamples)) {
    throw new Error(`Expected ${packageName} to be an array of { name, examples }`)
  }
  return catalogue
}

/**
 * The records in the order in which they are sent: each payload as a record of its own, and in between, evenly spread,
 * `bundles` large records that hold all payloads `copies` times. A bundle is never the first, the last or next to
 * another.
 */
export function planRecords(
  catalogue: readonly EventExamples[],
  options: { readonly bundles: number; readonly copies: number },
): WebhookRecord[] {
  const singles = catalogue.flatMap(({ name, examples }) => examples.map((payload) => ({ event: name, payload })))
  const bundle = { event: 'bundle', payload: Array.from({ length: options.copies }, () => singles).flat() }
  const gap = Math.floor(singles.length / (options.bundles + 1))
  const planned = singles.flatMap((single, index) => {
    const isBundleNext = (index + 1) % gap === 0 && (index + 1) / gap <= options.bundles
    return isBundleNext ? [single, bundle] : [single]
  })
  return planned.map(({ event, payload }, index) => ({ event, delivery: index + 1, payload }))
}

/** Some of the same payloads once more, for appending while somebody follows. */
export function redeliver(records: readonly WebhookRecord[], count: number): WebhookRecord[] {
  const singles = records.filter((record) => !isBundle(record))
  return Array.from({ length: count }, (_, index) => {
    const { event, payload } = singles[Math.floor((singles.length * index) / count)] as WebhookRecord
    return { event, delivery: records.length + index + 1, payload }
  })
}

export function isBundle(record: WebhookRecord): boolean {
  return record.event === 'bundle'
}

function requireExamples(): unknown {
  try {
    return createRequire(import.meta.url)(packageName) as unknown
  } catch (error) {
    if (systemErrorCode(error) !== 'MODULE_NOT_FOUND') throw error
    const message = `${packageName} is not installed: the demo runs in a clone of the repository after \`npm install\``
    throw Object.assign(new Error(message, { cause: error }), { code: 'MODULE_NOT_FOUND' })
  }
}

function isEventExamples(value: unknown): value is EventExamples {
  if (typeof value !== 'object' || value === null) return false
  return typeof Reflect.get(value, 'name') === 'string' && Array.isArray(Reflect.get(value, 'examples'))
}
