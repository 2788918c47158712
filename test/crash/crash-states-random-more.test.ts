import { scaled } from '../support/crash-scale.ts'
import { testRandomWorkloads } from './crash-states-random.ts'

// With its sibling and crash-states.test.ts it opens more than 50,000 distinct states, in the full suite a million.
testRandomWorkloads({ from: 1001, to: scaled(1020, 1430), floor: scaled(20_500, 450_000) })
