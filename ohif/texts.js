// Texts, numbers and dates in the browser's language, or in English if there is no translation.
import english from './english.js'
import french from './french.js'

const TEXTS = { en: english, fr: french }
// The API answers in English only. Its errors are translated by code. The sentences that it stores with a result or gives
// for a series are translated phrase by phrase.
const ERRORS = 'errors', PHRASES = 'phrases'

const browserLanguage = () => globalThis.navigator?.language ?? 'en'
/** Return the language of the texts. */
const textLanguage = language => (Object.hasOwn(TEXTS, language.slice(0, 2)) ? language.slice(0, 2) : 'en')
/** Return the locale of numbers and dates: the browser's, if the texts are in its language. */
const localeOf = language => (textLanguage(language) === language.slice(0, 2) ? language : 'en')

const fillIn = (sentence, values) => sentence.replace(/\{(\w+)\}/g, (_, key) => values[key])

/** Return the text of that name. If it has plural forms, values.count selects one. */
export function text(name, values = {}, language = browserLanguage()) {
  const entry = TEXTS[textLanguage(language)][name]
  if (entry === undefined) throw new Error(`There is no text ${name}.`)
  if (typeof entry === 'string') return fillIn(entry, values)
  return fillIn(entry[new Intl.PluralRules(textLanguage(language)).select(values.count)] ?? entry.other, values)
}

/** Return the translated message of an API error, or the API's own message if there is no translation. */
export function errorText({ code, message }, language = browserLanguage()) {
  return TEXTS[textLanguage(language)][ERRORS]?.[code] ?? message
}

/** Translate an English sentence of the API phrase by phrase. Phrases without a translation are unchanged. */
export function phrase(sentence, language = browserLanguage()) {
  const localize = value => (/^\d+\.\d+$/.test(value) ? number(Number(value), value.split('.')[1].length, language) : value)
  return (TEXTS[textLanguage(language)][PHRASES] ?? []).reduce(
    (current, [pattern, words]) => current.replace(pattern, (...parts) => words.replace(/\{(\d)\}/g, (_, i) => localize(parts[i]))),
    sentence,
  )
}

/** Format a number with that many decimals; undefined for null. */
export const number = (value, decimals, language = browserLanguage()) =>
  value?.toLocaleString(localeOf(language), { minimumFractionDigits: decimals, maximumFractionDigits: decimals, useGrouping: false })

/** Format an ISO 8601 time as local date and time, to the minute. */
export const moment = (iso, language = browserLanguage()) =>
  new Date(iso).toLocaleString(localeOf(language), { dateStyle: 'medium', timeStyle: 'short' })

/** Format a DICOM date; empty if it is missing or invalid. */
export function day(date, language = browserLanguage()) {
  const [, year, month, dayOfMonth] = /^(\d{4})(\d\d)(\d\d)$/.exec(date ?? '') ?? []
  if (!year) return ''
  return new Date(Date.UTC(year, month - 1, dayOfMonth)).toLocaleDateString(localeOf(language), { dateStyle: 'medium', timeZone: 'UTC' })
}

export { ERRORS, PHRASES, TEXTS }
