import assert from 'node:assert/strict'
import { readFileSync, readdirSync } from 'node:fs'
import { test } from 'node:test'

import { ERRORS, PHRASES, TEXTS, errorText, number, phrase, text } from '../texts.js'

const sentencesOf = entry => (typeof entry === 'string' ? [entry] : Object.values(entry))
const placeholders = sentence => [...sentence.matchAll(/\{(\w+)\}/g)].map(match => match[1]).sort()
const namesOf = language => Object.keys(TEXTS[language]).filter(name => ![ERRORS, PHRASES].includes(name)).sort()

test('every language has all texts with the same placeholders', () => {
  for (const language of Object.keys(TEXTS)) {
    assert.deepEqual(namesOf(language), namesOf('en'))
    for (const name of namesOf(language)) {
      for (const sentence of sentencesOf(TEXTS[language][name])) {
        assert.deepEqual(placeholders(sentence), placeholders(sentencesOf(TEXTS.en[name])[0]), `${language}: ${name}`)
      }
    }
  }
})

test('a text is in the language of the browser, or in English without a translation', () => {
  assert.equal(text('cancel', {}, 'fr-CA'), 'Annuler')
  assert.equal(text('cancel', {}, 'de'), 'Cancel')
})

test('a count selects the plural form of the language', () => {
  const total = (count, language) => text('total', { count, volume: '0' }, language)
  assert.equal(total(1, 'en'), '1 lesion, 0 ml')
  assert.match(total(0, 'en'), /^0 lesions/)
  assert.match(total(2, 'en'), /^2 lesions/)
  assert.match(total(0, 'fr'), /^0 lésion,/)
  assert.match(total(2, 'fr'), /^2 lésions/)
})

test('numbers follow the language of the texts', () => {
  assert.equal(number(1.12, 3, 'en-GB'), '1.120')
  assert.equal(number(1.12, 3, 'fr'), '1,120')
  assert.equal(number(1234.5, 1, 'fr-FR'), '1234,5')
  assert.equal(number(1.12, 3, 'de'), '1.120')
})

test('an API error is translated, or shown as the API sends it', () => {
  const error = { code: 'missing_slices', message: 'Series 1.2: 10.0 mm between slices 14 and 15.' }
  assert.match(errorText(error, 'fr'), /coupes/)
  assert.equal(errorText(error, 'en'), error.message)
  assert.equal(errorText({ ...error, code: 'a_new_one' }, 'fr'), error.message)
})

test('stored English sentences are translated with their numbers', () => {
  const reason = 'Not measurable: the long axis of 7.54 mm is below 10 mm; it is visible on 1 slice, fewer than 2.'
  const french = 'Non mesurable : le grand axe de 7,54 mm est inférieur à 10 mm; visible sur 1 coupe, moins de 2.'
  assert.equal(phrase(reason, 'fr'), french)
  assert.equal(phrase(reason, 'en'), reason)
  assert.equal(phrase('176 slices, 0.9 mm apart', 'fr-FR'), '176 coupes, espacées de 0,9 mm')
  assert.equal(phrase('Something new.', 'fr'), 'Something new.')
})

test('every error code of the API is translated', () => {
  const folder = new URL('../../errors/', import.meta.url)
  const sources = readdirSync(folder).filter(name => name.endsWith('.py')).map(name => readFileSync(new URL(name, folder), 'utf8'))
  const codes = [...sources.join('\n').matchAll(/^    code\b.*= "(\w+)"$/gm)]
  assert.ok(codes.length > 50)
  for (const language of Object.keys(TEXTS).filter(name => name !== 'en')) {
    for (const [, code] of codes) assert.ok(TEXTS[language][ERRORS][code], `${language}: ${code}`)
  }
})

test('every text is used', () => {
  const folder = new URL('..', import.meta.url)
  const sources = readdirSync(folder).filter(name => name.endsWith('.js') && !['texts.js', 'english.js', 'french.js'].includes(name))
  const code = sources.map(name => readFileSync(new URL(name, folder), 'utf8')).join('\n')
  for (const name of namesOf('en')) {
    const built = ['stage_', 'change_', 'name_'].some(start => name.startsWith(start) && code.includes(`\`${start}\${`))
    const hint = name.endsWith('_hint') && code.includes(`'${name.slice(0, -5)}'`)
    assert.ok(built || hint || code.includes(`'${name}'`), name)
  }
})
