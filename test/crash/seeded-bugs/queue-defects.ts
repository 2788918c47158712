import type { Defect } from './defects.ts'

/** Defects of the queue. */
export const queueDefects: readonly Defect[] = [
  {
    name: 'queue: an ack resolves before it is durable',
    patches: [
      {
        file: 'miniqueue/settlement.ts',
        find: '      await this.#log.inTurn(() => this.#log.commit(mutation()))\n    } catch (error) {\n      this.#leases.thaw',
        by: `      const written = this.#log.inTurn(() => this.#log.commit(mutation()))
      if (mutation().op === 'ack') written.catch(() => {})
      else await written
    } catch (error) {
      this.#leases.thaw`,
      },
    ],
    finding: /^queue: enqueue, deliver, acknowledge.*found is waiting \[3 ×1 .*expected waiting \[\]/,
  },
  {
    name: 'queue: an attempt is counted in memory only, and written with whatever comes next',
    patches: [
      {
        file: 'miniqueue/delivery.ts',
        find: "      if (uncounted.length > 0) await this.#log.commit({ op: 'deliver', ids: uncounted })\n",
        by: '      for (const id of uncounted) this.#message(id).attempts += 1\n',
      },
    ],
    finding: /^queue: enqueue, deliver, acknowledge.*found is waiting \[\d ×0 .*expected waiting \[\d ×1 /,
  },
  {
    name: 'queue: what was in flight when its process ended is delivered to nobody',
    patches: [
      {
        file: 'miniqueue/message-index.ts',
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
        file: 'miniqueue/settlement.ts',
        find: "      await this.#log.inTurn(() => this.#log.commit({ op: 'bury', ids, reason, at }))\n",
        by: "      await this.#log.inTurn(() => this.#log.pretend({ op: 'bury', ids, reason, at }))\n",
      },
      {
        file: 'miniqueue/queue-log.ts',
        find: '  async compact(): Promise<CompactionReport> {\n',
        by: `  async pretend(mutation: QueueMutation): Promise<void> {
    this.#applied.listener?.follow(mutation, transition(this.state, mutation))
  }

  async compact(): Promise<CompactionReport> {
`,
      },
    ],
    finding: /^queue: delivered too often.*found is waiting \[1 ×2 .*expected .*dead \[1 ×2/,
  },
  {
    name: 'queue: keys are forgotten by a compaction',
    patches: [
      {
        file: 'miniqueue/queue-log.ts',
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
        find: "        ids = (await this.#log.commit({ op: 'enqueue', at, messages })).waiting\n",
        by: `        const one: number[] = []
        for (const message of messages) {
          one.push(...(await this.#log.commit({ op: 'enqueue', at, messages: [message] })).waiting)
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
]
