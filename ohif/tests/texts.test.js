import assert from 'node:assert/strict'
import { readFileSync, readdirSync } from 'node:fs'
import { test } from 'node:test'

import { TEXTS, text } from '../texts.js'

const holes = sentence => [...sentence.matchAll(/\{(\w+)\}/g)].map(match => match[1]).sort()

test('every language has every text, with the same holes', () => {
  for (const language of Object.keys(TEXTS)) {
    assert.deepEqual(Object.keys(TEXTS[language]).sort(), Object.keys(TEXTS.en).sort())
    for (const [name, sentence] of Object.entries(TEXTS[language])) {
      assert.deepEqual(holes(sentence), holes(TEXTS.en[name]), `${language}: ${name}`)
    }
  }
})

test('the sentence is in the language of the browser, and English where that is unknown', () => {
  assert.equal(text('cancel', {}, 'fr-CA'), 'Annuler')
  assert.equal(text('cancel', {}, 'de'), 'Cancel')
})

test('every text is used, and every one that is used is there', () => {
  const folder = new URL('..', import.meta.url)
  const sources = readdirSync(folder).filter(name => name.endsWith('.js') && name !== 'texts.js')
  const code = sources.map(name => readFileSync(new URL(name, folder), 'utf8')).join('\n')
  for (const name of Object.keys(TEXTS.en)) {
    const built = ['stage_', 'change_'].some(start => name.startsWith(start) && code.includes(`\`${start}\${`))
    const hint = name.endsWith('_hint') && code.includes(`'${name.slice(0, -5)}'`)
    assert.ok(built || hint || code.includes(`'${name}'`), name)
  }
})
