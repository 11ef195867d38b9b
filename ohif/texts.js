// The texts in the browser's language, English where there is no other; numbers and dates as that language writes them.
import english from './english.js'
import french from './french.js'

const TEXTS = { en: english, fr: french }
// What the API says in English only: its errors, in other languages by their code, and what it stores with a result or
// says of a series, by its phrases.
const ERRORS = 'errors', PHRASES = 'phrases'

const browser = () => globalThis.navigator?.language ?? 'en'
/** The language of the texts. */
const known = language => (Object.hasOwn(TEXTS, language.slice(0, 2)) ? language.slice(0, 2) : 'en')
/** How numbers and dates are written: as the browser says, where the texts are in its language. */
const locale = language => (known(language) === language.slice(0, 2) ? language : 'en')

const filled = (sentence, values) => sentence.replace(/\{(\w+)\}/g, (_, key) => values[key])

/** The sentence of that name; of those that depend on a number, the one for values.count. */
export function text(name, values = {}, language = browser()) {
  const entry = TEXTS[known(language)][name]
  if (entry === undefined) throw new Error(`There is no text ${name}.`)
  if (typeof entry === 'string') return filled(entry, values)
  return filled(entry[new Intl.PluralRules(known(language)).select(values.count)] ?? entry.other, values)
}

/** What happened and what to do, of an error of the API; the API's own sentence where there is no other. */
export function errorText({ code, message }, language = browser()) {
  return TEXTS[known(language)][ERRORS]?.[code] ?? message
}

/** A sentence that the API stores in English, phrase by phrase; a phrase that has no other words stays as it is. */
export function phrase(sentence, language = browser()) {
  const decimal = value => (/^\d+\.\d+$/.test(value) ? number(Number(value), value.split('.')[1].length, language) : value)
  return (TEXTS[known(language)][PHRASES] ?? []).reduce(
    (current, [pattern, words]) => current.replace(pattern, (...parts) => words.replace(/\{(\d)\}/g, (_, i) => decimal(parts[i]))),
    sentence,
  )
}

/** A number with that many decimals; nothing for null. */
export const number = (value, decimals, language = browser()) =>
  value?.toLocaleString(locale(language), { minimumFractionDigits: decimals, maximumFractionDigits: decimals, useGrouping: false })

/** A time of ISO 8601 as the day and the minute here. */
export const moment = (iso, language = browser()) =>
  new Date(iso).toLocaleString(locale(language), { dateStyle: 'medium', timeStyle: 'short' })

/** A DICOM date as the day; nothing where there is none. */
export function day(date, language = browser()) {
  const [, year, month, ofMonth] = /^(\d{4})(\d\d)(\d\d)$/.exec(date ?? '') ?? []
  if (!year) return ''
  return new Date(Date.UTC(year, month - 1, ofMonth)).toLocaleDateString(locale(language), { dateStyle: 'medium', timeZone: 'UTC' })
}

export { ERRORS, PHRASES, TEXTS }
