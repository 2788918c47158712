import { unseen } from './style.ts'

/**
 * A path as one word of a command that a person copies into a shell: quoted where it must be, and never taken
 * for an option. Characters that are not seen stand as escapes, which bash, zsh and ksh read, so that they do
 * nothing to the terminal.
 */
export function shellWord(path: string): string {
  const word = path.startsWith('-') ? `./${path}` : path
  if (/^[\w./:-]+$/.test(word)) return word
  if (word.search(unseen) === -1) return `'${word.replaceAll("'", String.raw`'\''`)}'`
  return `$'${word.replaceAll(/['\\]/g, String.raw`\$&`).replaceAll(unseen, escapesOf)}'`
}

/** Byte by byte: a name is bytes, and some of these are two of them. */
function escapesOf(character: string): string {
  return Array.from(Buffer.from(character), (byte) => `\\x${byte.toString(16).padStart(2, '0')}`).join('')
}
