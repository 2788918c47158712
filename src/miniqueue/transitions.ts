import { assertMutation } from './shape.ts'
import {
  type DeadMessage, holderOf, holdKey, keepKey, type NewMessage, type OneMutation, type QueuedMessage,
  type QueueMutation, type QueueState, releaseKey, stepsOf, sweepKeys, weightOf,
} from './state.ts'

/** What a mutation has changed, for indexes of the state. */
export interface Outcome {
  /** Ids of the new messages, in the order of the mutation. */
  readonly added: number[]
  /** Ids of messages that now wait, in order: new messages, nacked ones and redriven ones. */
  readonly waiting: Set<number>
  /** Ids of messages that are gone: acknowledged, dead or purged. */
  readonly left: number[]
  /** Change of the number of messages. */
  depth: number
  /** Change of the number of dead letters. */
  dead: number
  /** Approximate change of the weight of the state, in bytes of JSON. */
  bytes: number
}

/**
 * Applies a mutation to the state, in place, and returns what has changed. The result depends only
 * on the two arguments, so replay gives the same state.
 *
 * Unknown ids are skipped, because ids are checked before a mutation is written.
 *
 * @throws {TypeError} if the mutation is invalid or of a later version; the state is unchanged.
 */
export function transition(state: QueueState, mutation: QueueMutation): Outcome {
  const outcome: Outcome = { added: [], waiting: new Set(), left: [], depth: 0, dead: 0, bytes: 0 }
  assertMutation(mutation)
  for (const step of stepsOf(mutation)) take(step, state, outcome)
  return outcome
}

const transitions: {
  readonly [Op in OneMutation['op']]: Transition<Extract<OneMutation, { op: Op }>>
} = {
  enqueue(state, { at, messages }, outcome) {
    outcome.bytes += sweepKeys(state, at)
    for (const message of messages) enqueue(state, message, { at, outcome })
  },
  deliver(state, { ids }, outcome) {
    for (const id of ids) deliver(state, id, outcome)
  },
  return(state, { ids }) {
    for (const id of ids) {
      const message = state.messages[id]
      if (message !== undefined && message.attempts > 0) message.attempts--
    }
  },
  ack(state, { ids, keysUntil }, outcome) {
    for (const id of ids) ack(state, id, { keyUntil: keysUntil, outcome })
  },
  nack,
  bury(state, { ids, reason, at }, outcome) {
    for (const id of ids) bury(state, id, { reason, at, outcome })
  },
  redrive(state, { ids, at }, outcome) {
    for (const id of ids) redrive(state, id, { at, outcome })
  },
  discard(state, { ids }, outcome) {
    for (const id of ids) takeDead(state, id, outcome)
  },
  purge(state, { except }, outcome) {
    purge(state, new Set(except), outcome)
  },
}

type Transition<Step> = (state: QueueState, step: Step, outcome: Outcome) => void

function take<Step extends OneMutation>(step: Step, state: QueueState, outcome: Outcome): void {
  const transit = transitions[step.op] as Transition<Step>
  transit(state, step, outcome)
}

function enqueue(
  state: QueueState,
  { payload, bytes, priority = 0, dueAt, key }: NewMessage,
  { at, outcome }: { readonly at: number; readonly outcome: Outcome },
): void {
  const id = state.nextId++
  const message: QueuedMessage = {
    payload,
    bytes,
    priority,
    order: state.nextOrder++,
    enqueuedAt: at,
    attempts: 0,
    ...(key !== undefined && { key }),
    ...(dueAt !== undefined && { dueAt }),
  }
  if (key !== undefined) holdKey(state, key, id)
  outcome.added.push(id)
  putMessage(state, id, { message, outcome })
}

function deliver(state: QueueState, id: number, outcome: Outcome): void {
  const message = state.messages[id]
  if (message === undefined) return
  message.attempts++
  // A message that is delivered by the same mutation that added it does not wait.
  outcome.waiting.delete(id)
  if (message.dueAt === undefined && message.reason === undefined) return
  const { dueAt: _due, reason: _reason, ...delivered } = message
  state.messages[id] = delivered
  outcome.bytes += weightOf(delivered) - weightOf(message)
}

function ack(
  state: QueueState,
  id: number,
  { keyUntil, outcome }: { readonly keyUntil: number | undefined; readonly outcome: Outcome },
): void {
  const message = takeMessage(state, id, outcome)
  if (message?.key === undefined) return
  if (keyUntil === undefined) releaseKey(state, message.key, id)
  else outcome.bytes += keepKey(state, message.key, { id, until: keyUntil })
}

function nack(
  state: QueueState,
  { id, dueAt, reason }: { readonly id: number; readonly dueAt?: number; readonly reason?: string },
  outcome: Outcome,
): void {
  const message = state.messages[id]
  if (message === undefined) return
  const nacked: QueuedMessage = {
    ...message,
    ...(dueAt !== undefined && { dueAt }),
    ...(reason !== undefined && { reason }),
  }
  state.messages[id] = nacked
  outcome.waiting.add(id)
  outcome.bytes += weightOf(nacked) - weightOf(message)
}

function bury(
  state: QueueState,
  id: number,
  { reason, at, outcome }: { readonly reason: string; readonly at: number; readonly outcome: Outcome },
): void {
  const message = takeMessage(state, id, outcome)
  if (message === undefined) return
  const { payload, bytes, priority, enqueuedAt, attempts, key } = message
  const letter: DeadMessage = {
    payload,
    bytes,
    priority,
    enqueuedAt,
    attempts,
    reason,
    diedAt: at,
    ...(key !== undefined && { key }),
  }
  // A dead letter holds no key, so the same message can be enqueued again after a repair. Otherwise
  // `enqueue` would report the id of a message that is never delivered.
  if (key !== undefined) releaseKey(state, key, id)
  state.dead[id] = letter
  outcome.dead++
  outcome.bytes += weightOf(letter)
}

function redrive(
  state: QueueState,
  id: number,
  { at, outcome }: { readonly at: number | undefined; readonly outcome: Outcome },
): void {
  const letter = takeDead(state, id, outcome)
  if (letter === undefined) return
  const { payload, bytes, priority, enqueuedAt, key } = letter
  const message: QueuedMessage = {
    payload,
    bytes,
    priority,
    order: state.nextOrder++,
    enqueuedAt,
    attempts: 0,
    ...(key !== undefined && { key }),
  }
  // Another message may hold the key by now, or the key may be kept after an ack. Then it stays so.
  const isFree = key !== undefined && (at === undefined || holderOf(state, key, at) === undefined)
  if (isFree) holdKey(state, key, id)
  putMessage(state, id, { message, outcome })
}

function purge(state: QueueState, except: ReadonlySet<number>, outcome: Outcome): void {
  for (const id of Object.keys(state.messages).map(Number)) {
    if (except.has(id)) continue
    const key = takeMessage(state, id, outcome)?.key
    if (key !== undefined) releaseKey(state, key, id)
  }
}

function putMessage(
  state: QueueState,
  id: number,
  { message, outcome }: { readonly message: QueuedMessage; readonly outcome: Outcome },
): void {
  state.messages[id] = message
  outcome.waiting.add(id)
  outcome.depth++
  outcome.bytes += weightOf(message)
}

function takeMessage(state: QueueState, id: number, outcome: Outcome): QueuedMessage | undefined {
  const message = state.messages[id]
  if (message === undefined) return undefined
  delete state.messages[id]
  outcome.left.push(id)
  outcome.depth--
  outcome.bytes -= weightOf(message)
  return message
}

function takeDead(state: QueueState, id: number, outcome: Outcome): DeadMessage | undefined {
  const letter = state.dead[id]
  if (letter === undefined) return undefined
  delete state.dead[id]
  outcome.dead--
  outcome.bytes -= weightOf(letter)
  return letter
}
