import { createHash } from 'node:crypto'

/** One thing that must be true, and why it is not. */
export interface Check {
  readonly claim: string
  /** What is wrong; undefined when the claim holds. */
  readonly problem: string | undefined
}

/** Numbers or texts that must be the same. */
export function checkEqual<T extends number | string>(
  claim: string,
  values: { readonly expected: T; readonly actual: T },
): Check {
  const { expected, actual } = values
  return { claim, problem: actual === expected ? undefined : `expected ${expected}, got ${actual}` }
}

export function checkAtLeast(claim: string, values: { readonly least: number; readonly actual: number }): Check {
  const { least, actual } = values
  return { claim, problem: actual >= least ? undefined : `expected at least ${least}, got ${actual}` }
}

/** After each kill: the journal ends with the last acknowledged record, or with the one in flight behind it. */
export function checkReopened(
  reopenings: ReadonlyArray<{
    readonly lastAcknowledged: number
    readonly inFlight: number | undefined
    readonly lastSequence: number
  }>,
): Check {
  const problems = reopenings.flatMap(({ lastAcknowledged, inFlight, lastSequence }, index) => {
    const allowed = inFlight === undefined ? [lastAcknowledged] : [lastAcknowledged, inFlight]
    if (allowed.includes(lastSequence)) return []
    return [`after kill ${index + 1} it ended with record ${lastSequence}, expected ${allowed.join(' or ')}`]
  })
  return {
    claim: `after each of ${reopenings.length} kills it ended with the last acknowledged record or the one in flight`,
    problem: problems.at(0),
  }
}

/** Acknowledgements came once each and in order: no record was sent again after it was acknowledged. */
export function checkAcknowledgements(acknowledged: readonly number[]): Check {
  const index = acknowledged.findIndex((sequence, at) => at > 0 && sequence <= (acknowledged[at - 1] as number))
  return {
    claim: `${acknowledged.length} appends were acknowledged, their sequence numbers only ever rising`,
    problem: index < 0 ? undefined : `${acknowledged[index]} came after ${acknowledged[index - 1]}`,
  }
}

/** Every acknowledged record is in its place: the line with its sequence number. */
export function checkPresent(facts: { readonly acknowledged: readonly number[]; readonly found: readonly Buffer[] }): Check {
  const lost = facts.acknowledged.filter((sequence) => facts.found[sequence - 1] === undefined)
  return {
    claim: `every acknowledged record is there (${facts.acknowledged.length - lost.length} of ${facts.acknowledged.length})`,
    problem: lost.length === 0 ? undefined : `record ${lost[0]} is gone`,
  }
}

/** No two lines are the same. All records that are sent differ, so each is there at most once. */
export function checkOnce(found: readonly Buffer[]): Check {
  const firstSequences = new Map<string, number>()
  let problem: string | undefined
  for (const [index, line] of found.entries()) {
    const digest = createHash('sha256').update(line).digest('base64')
    const first = firstSequences.get(digest)
    if (first === undefined) firstSequences.set(digest, index + 1)
    else problem ??= `record ${index + 1} is record ${first} again`
  }
  return { claim: 'each of them once', problem }
}

/** Line n is what was sent as record n, byte for byte. @param sent gives the line that was sent. */
export function checkBytes(facts: {
  readonly found: readonly Buffer[]
  readonly sent: (sequence: number) => Buffer | undefined
}): Check {
  const wrong = facts.found.findIndex((line, index) => facts.sent(index + 1)?.equals(line) !== true)
  return {
    claim: 'in order, byte for byte what was sent',
    problem: wrong < 0 ? undefined : `record ${wrong + 1} is not what was sent`,
  }
}

/** Every record that was not acknowledged was in flight at a kill. */
export function checkOthers(facts: {
  readonly acknowledged: readonly number[]
  readonly inFlight: readonly number[]
  readonly found: number
}): Check {
  const acknowledged = new Set(facts.acknowledged)
  const others = Array.from({ length: facts.found }, (_, index) => index + 1).filter((n) => !acknowledged.has(n))
  const unexplained = others.filter((sequence) => !facts.inFlight.includes(sequence))
  return {
    claim: `besides them only what was in flight at a kill (${others.length} of ${facts.inFlight.length} such records)`,
    problem: unexplained.length === 0 ? undefined : `record ${unexplained[0]} was neither acknowledged nor in flight`,
  }
}

/** What recovery cut off is the beginning of the record in flight, and no whole line. */
export function checkEvidence(facts: { readonly sequence: number; readonly evidence: Buffer; readonly sent: Buffer }): Check {
  const { sequence, evidence, sent } = facts
  const isBeginning = evidence.length > 0 && sent.subarray(0, evidence.length).equals(evidence)
  return {
    claim: `the torn bytes are kept, and are a true beginning of record ${sequence}`,
    problem: isBeginning ? undefined : `its ${evidence.length} bytes are not what record ${sequence} began with`,
  }
}
