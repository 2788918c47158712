import '../../support/fixed-identity.ts'

import { scaled } from '../../support/crash-scale.ts'
import { testRandomWorkloads } from './crash-states-random.ts'

// Together with its sibling and crash-states.test.ts, this file opens more than 50,000 distinct
// states, and a million in the full suite.
testRandomWorkloads({ from: 1, to: scaled(20, 430), floor: scaled(20_500, 450_000) })
