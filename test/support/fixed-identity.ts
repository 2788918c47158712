import { vi } from 'vitest'

// Gives every journal the same identity. Equal runs then leave equal disks, so a crash suite need not
// open again what it has judged before. crash/journal/identity.test.ts runs with random identities.
//
// Import this first: the mock must be in place before the library is loaded.
vi.mock(import('node:crypto'), async (importOriginal) => {
  const original = await importOriginal()
  return { ...original, randomBytes: (size: number) => Buffer.alloc(size, 0xa5) }
})
