import { unseen } from './style.ts'

/**
 * Formats a path as one word of a command that a person copies into a shell. The word is quoted if
 * necessary and never looks like an option. Invisible characters are written as escapes, so that
 * they do not affect the terminal. bash, zsh and ksh read these escapes.
 */
export function shellWord(path: string): string {
  const word = path.startsWith('-') ? `./${path}` : path
  if (/^[\w./:-]+$/.test(word)) return word
  if (word.search(unseen) === -1) return `'${word.replaceAll("'", String.raw`'\''`)}'`
  return `$'${word.replaceAll(/['\\]/g, String.raw`\$&`).replaceAll(unseen, escapesOf)}'`
}

/** Escapes each byte on its own, because file names are bytes and a character may have several. */
function escapesOf(character: string): string {
  return Array.from(Buffer.from(character), (byte) => `\\x${byte.toString(16).padStart(2, '0')}`).join('')
}
