import type { Defect } from './defects.ts'

/** Defects of the queue. */
export const queueDefects: readonly Defect[] = [
  {
    name: 'queue: an ack resolves before it is durable',
    patches: [
      {
        file: 'miniqueue/delivery.ts',
        find: '      await this.#log.inTurn(() => this.#log.commit(settling.step()))\n',
        by: `      const written = this.#log.inTurn(() => this.#log.commit(settling.step()))
      if (settling.step().op === 'ack') written.catch(() => {})
      else await written
`,
      },
    ],
    finding: /^queue: enqueue, deliver, acknowledge.*found is waiting \[\d ×1 .*expected waiting \[/,
  },
  {
    name: 'queue: an attempt is counted in memory only, and written with whatever comes next',
    patches: [
      {
        file: 'miniqueue/dispatcher.ts',
        find: "    if (uncounted.length > 0) steps.push({ op: 'deliver', ids: uncounted })\n",
        by: '    for (const id of uncounted) this.#log.state.messages[id]!.attempts += 1\n',
      },
    ],
    finding: /^queue: enqueue, deliver, acknowledge.*found is waiting \[\d ×0 .*expected waiting \[\d ×1 /,
  },
  {
    name: 'queue: what was in flight when its process ended is delivered to nobody',
    patches: [
      {
        file: 'miniqueue/order.ts',
        find: 'if (!except.has(id)) (',
        by: 'if (!except.has(id) && message.attempts === 0) (',
      },
    ],
    finding: /^queue: .*(?:ready, 0 delayed, but \d received)/,
  },
  {
    name: 'queue: a dead letter is dropped when it is buried',
    patches: [{ file: 'miniqueue/transitions.ts', find: '  state.dead[id] = letter\n', by: '' }],
    finding: /^queue: leases that end.*There is no dead letter 1/,
  },
  {
    name: 'queue: a burial at the end of a lease is not written',
    patches: [
      {
        file: 'miniqueue/delivery.ts',
        find: "      await this.#log.inTurn(() => this.#log.commit({ op: 'bury', ids, reason: this.#fitting(reason, ids.length), at }))\n",
        by: "      await this.#log.inTurn(() => this.#log.pretend({ op: 'bury', ids, reason, at }))\n",
      },
      {
        file: 'miniqueue/log.ts',
        find: '  async compact(): Promise<CompactionReport> {\n    return await this.inTurn(',
        by: `  async pretend(mutation: QueueMutation): Promise<void> {
    this.#applied.listener?.follow(mutation, transition(this.state, mutation))
  }

  async compact(): Promise<CompactionReport> {
    return await this.inTurn(`,
      },
    ],
    finding: /^queue: delivered too often.*found is waiting \[1 ×2 .*expected .*dead \[1 ×2/,
  },
  {
    name: 'queue: keys are forgotten by a compaction',
    patches: [
      {
        file: 'miniqueue/log.ts',
        find: '            return await manager.compact()\n',
        by: `            for (const name of Object.keys(this.state.keys)) delete this.state.keys[name]
            return await manager.compact()
`,
      },
    ],
    finding: /^queue: keys that count.*(?:found is|the key \w+ gives)/,
  },
  {
    name: 'queue: enqueueAll writes one message after the other',
    patches: [
      {
        file: 'miniqueue/miniqueue.ts',
        find: "        ids = (await this.#delivery.enqueue({ op: 'enqueue', at, messages })).added\n",
        by: `        const one: number[] = []
        for (const message of messages) {
          one.push(...(await this.#delivery.enqueue({ op: 'enqueue', at, messages: [message] })).added)
        }
        ids = one
`,
      },
    ],
    finding: /^queue: many in one call: .*found is waiting \[1 ×0 [^,]*\], dead .*expected waiting \[\]/,
  },
  {
    name: 'queue: a redriven message stays among the dead',
    patches: [
      {
        file: 'miniqueue/transitions.ts',
        find: '  const letter = takeDead(state, id, outcome)\n  if (letter === undefined) return\n',
        by: '  const letter = state.dead[id]\n  if (letter === undefined) return\n  outcome.dead--\n',
      },
    ],
    finding: /^queue: delivered too often.*message 1 is dead, and should not be/,
  },
  {
    name: 'queue: purge removes what is in flight',
    patches: [
      {
        file: 'miniqueue/miniqueue.ts',
        find: "commit({ op: 'purge', except })",
        by: "commit({ op: 'purge', except: [] })",
      },
    ],
    finding: /^queue: purged.*purge of \d gives \d/,
  },
  {
    name: 'queue: what is nacked goes to the end',
    patches: [
      {
        file: 'miniqueue/transitions.ts',
        find: '  state.messages[id] = nacked\n',
        by: '  state.messages[id] = { ...nacked, order: state.nextOrder++ }\n',
      },
    ],
    finding: /^queue: given back.*received 3,2, expected 2,3/,
  },
  {
    name: 'queue: a redriven message keeps its attempts',
    patches: [
      {
        file: 'miniqueue/transitions.ts',
        find: '  const { payload, bytes, priority, enqueuedAt, key } = letter\n',
        by: '  const { payload, bytes, priority, enqueuedAt, key, attempts } = letter\n',
      },
      {
        file: 'miniqueue/transitions.ts',
        find: '    enqueuedAt,\n    attempts: 0,\n',
        by: '    enqueuedAt,\n    attempts,\n',
      },
    ],
    finding: /^queue: .*message 1 has attempt 3, expected 1/,
  },
  {
    name: 'queue: closing leaves the attempts that nobody has made',
    patches: [
      {
        file: 'miniqueue/miniqueue.ts',
        find: '    await this.#delivery.returnUntaken()\n',
        by: '',
      },
    ],
    finding: /^queue: fetched ahead.*given to nobody, message \d has 1 attempts, expected 0/,
  },
  {
    name: 'queue: the attempts that nobody has made stay until the queue is closed',
    patches: [
      {
        file: 'miniqueue/delivery.ts',
        find: '    this.returnUntaken().catch((error: unknown) => this.#log.tell(error))\n',
        by: '',
      },
    ],
    finding: /^queue: fetched ahead.*given to nobody, message \d has 1 attempts, expected 0/,
  },
  {
    name: 'queue: closing takes back attempts that were made',
    patches: [
      {
        file: 'miniqueue/delivery.ts',
        find: '    const ids = this.#index.counted\n',
        by: '    const ids = [...this.#index.counted, ...(this.isOpen ? [] : this.#leases.ids)]\n',
      },
    ],
    finding: /^queue: .*found is waiting \[\d ×\d /,
  },
  {
    name: 'queue: how a handler ended is written later, and nobody waits for it',
    patches: [
      {
        file: 'miniqueue/dispatcher.ts',
        find: '      if (steps.length > 0) await this.#log.commit(mutationOf(steps))\n',
        by: `      if (uncounted.length > 0) await this.#log.commit({ op: 'deliver', ids: uncounted })
      if (others.length > 0) void this.#log.commit(mutationOf(others)).catch(() => {})
`,
      },
    ],
    finding: /^queue: handled, each.*message \d is not told that its queue is closed/,
  },
  {
    name: 'queue: an attempt of somebody who waited is counted in memory only',
    patches: [
      {
        file: 'miniqueue/dispatcher.ts',
        find: '    const outcome = await this.#log.commit(mutationOf(steps))\n    if (ids.length > 0) this.#giveToWaiting(ids)\n    return outcome\n',
        by: `    if (ids.length === 0) return await this.#log.commit(step)
    const outcome = await this.#log.commit(step)
    for (const id of ids) this.#log.state.messages[id]!.attempts += 1
    this.#index.take(ids.length)
    this.#giveToWaiting(ids)
    return outcome
`,
      },
    ],
    finding: /^queue: enqueued for somebody.*found is waiting \[\d ×0 .*expected waiting \[\d ×1 /,
  },
]
