// The texts in the browser's language, English where there is no other; numbers and dates as that language writes them.
import english from './english.js'
import french from './french.js'

const TEXTS = { en: english, fr: french }
// An error that the API gives in English only, in other languages by its code.
const ERRORS = 'errors'

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

/** A number with that many decimals; nothing for null. */
export const number = (value, decimals, language = browser()) =>
  value?.toLocaleString(locale(language), { minimumFractionDigits: decimals, maximumFractionDigits: decimals, useGrouping: false })

/** A time of ISO 8601 as the day and the minute here. */
export const moment = (iso, language = browser()) =>
  new Date(iso).toLocaleString(locale(language), { dateStyle: 'medium', timeStyle: 'short' })

export { ERRORS, TEXTS }
