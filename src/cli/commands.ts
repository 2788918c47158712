import type { Command } from './command.ts'
import { append } from './commands/append.ts'
import { cat } from './commands/cat.ts'
import { compact } from './commands/compact.ts'
import { demo } from './commands/demo.ts'
import { inspect } from './commands/inspect.ts'
import { queue } from './commands/queue.ts'
import { repair } from './commands/repair.ts'
import { stats } from './commands/stats.ts'
import { tail } from './commands/tail.ts'
import { verify } from './commands/verify.ts'

/** Every command, in the order of `--help`. */
export const commands: readonly Command[] = [append, cat, tail, inspect, verify, repair, compact, stats, queue, demo]
