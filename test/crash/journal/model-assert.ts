/**
 * Throws unless the claim holds. A run checks very many claims, and an error with one sentence
 * shrinks and prints better than a difference of two values.
 */
export function assertThat(claim: boolean, otherwise: string): asserts claim {
  if (!claim) throw new Error(otherwise)
}
