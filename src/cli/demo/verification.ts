import { readFile } from 'node:fs/promises'
import { basename } from 'node:path'

import type { MiniStore } from '../../index.ts'
import {
  checkAcknowledgements, checkAtLeast, checkBytes, checkEqual, checkEvidence, checkOnce, checkOthers, checkPresent,
  checkReopened,
} from './checks.ts'
import type { CrashHistory } from './crash-rounds.ts'
import { lineOf } from './demo-journal.ts'
import { bytesText, type Printer } from './printer.ts'
import { readRawJournal } from './raw-journal.ts'
import type { WebhookRecord } from './webhook-records.ts'

/** Shows what recovery did and compares the files, read without the library, with what was sent and acknowledged. */
export async function verify(
  printer: Printer,
  facts: {
    readonly store: MiniStore<WebhookRecord>
    readonly records: readonly WebhookRecord[]
    readonly history: CrashHistory
  },
): Promise<void> {
  const { store, records, history } = facts
  const { acknowledged, kills } = history
  const sent = (sequence: number): Buffer | undefined => {
    const record = records[sequence - 1]
    return record === undefined ? undefined : lineOf(record)
  }
  await showRecovery(printer, history, sent)
  const total = store.segments.reduce((sum, { bytes }) => sum + bytes, 0)
  const { torn, scannedBytes } = store.recovery
  printer.line(`Opening it now read ${bytesText(scannedBytes)} of ${bytesText(total)}: the active segment is enough`)
  printer.check(checkEqual('after a proper close there is nothing to repair', { expected: 0, actual: torn?.bytes ?? 0 }))
  const { headers, records: found } = await readRawJournal(store.segments.map(({ path }) => path))
  const inFlight = kills.flatMap((round) => round.inFlight ?? [])
  printer.line(`The files, read as plain text: ${headers.length} segments, ${found.length} records`)
  printer.check(checkReopened(kills))
  printer.check(checkAcknowledgements(acknowledged))
  printer.check(checkPresent({ acknowledged, found }))
  printer.check(checkOnce(found))
  printer.check(checkBytes({ found, sent }))
  printer.check(checkOthers({ acknowledged, inFlight, found: found.length }))
  printer.check(checkEqual('the store counts as many', { expected: found.length, actual: store.lastSequence }))
  printer.check(checkAtLeast(`it was rotated several times (${headers.length} segments)`, { least: 4, actual: headers.length }))
}

async function showRecovery(
  printer: Printer,
  { kills }: CrashHistory,
  sent: (sequence: number) => Buffer | undefined,
): Promise<void> {
  const tails = kills.flatMap(({ torn }) => torn ?? [])
  if (tails.length === 0) {
    printer.line('No write was torn this time: the kills fell before or after them. Run it again to see one.')
  }
  for (const { sequence, bytes, offset, reason, savedAs } of tails) {
    printer.line(`Torn tail: ${bytesText(bytes)} of record ${sequence}, from offset ${offset} on (${reason})`)
    if (savedAs === undefined) {
      printer.line('  not kept: there was no room for a copy')
      continue
    }
    printer.line(`  kept in ${basename(savedAs)}`)
    printer.check(checkEvidence({ sequence, evidence: await readFile(savedAs), sent: sent(sequence) ?? Buffer.alloc(0) }))
  }
}
