import { readFileSync } from 'node:fs'

import { packageFile } from '../packages.ts'

/**
 * GitHub webhook payloads that users of GitHub collected in `@octokit/webhooks-examples`.
 *
 * @throws {NotInstalledError} if the package is not installed.
 */
export function webhookPayloads(): unknown[] {
  const path = packageFile('@octokit/webhooks-examples', 'api.github.com/index.json')
  type Event = { readonly examples: readonly unknown[] }
  const events = JSON.parse(readFileSync(path, 'utf8')) as readonly Event[]
  return events.flatMap(({ examples }) => examples)
}

/**
 * The flights of `flights-200k.json` in `vega-datasets`: small objects of three numbers each.
 *
 * @throws {NotInstalledError} if the package is not installed.
 */
export function flights(): unknown[] {
  return JSON.parse(readFileSync(packageFile('vega-datasets', 'data/flights-200k.json'), 'utf8')) as unknown[]
}
