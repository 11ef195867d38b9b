import assert from 'node:assert/strict'
import { test } from 'node:test'

import { modelOf, resultText, resultsOf, versionsOf } from '../results.js'

const models = [
  { id: 'unet', title: 'U-Net', version: '1' }, { id: 'tiny', title: 'Compact', version: '1' }, { id: 'small', title: 'Compact', version: '2' },
]
const result = (id, model, version, minute, more = {}) => ({
  id, series_instance_uid: '1.2', model: { id: model, version: '1' }, version, corrected_by: null,
  created_at: `2026-11-29T15:${minute}:00Z`, segmentation: { missing_since: null }, ...more,
})
const byPerson = { corrected_by: 'dr' }
const idsOf = documents => documents.map(({ id }) => id)

test('a corrected result comes before a newer model result', () => {
  const documents = [
    result('b1', 'tiny', 1, '40'), result('a3', 'unet', 3, '30', byPerson), result('a2', 'unet', 2, '20', byPerson),
    result('a1', 'unet', 1, '10'),
  ]
  assert.deepEqual(idsOf(resultsOf(documents)), ['a3', 'b1'])
  assert.deepEqual(idsOf(versionsOf(documents, documents[3])), ['a3', 'a2', 'a1'])
})

test('the newest model result comes first, and a forced run replaces a corrected version', () => {
  const documents = [result('b1', 'tiny', 1, '20'), result('a2', 'unet', 2, '30'), result('a1', 'unet', 1, '10', byPerson)]
  assert.deepEqual(idsOf(resultsOf(documents)), ['a2', 'b1'])
})

test('results of different series are different results', () => {
  const documents = [result('a', 'unet', 1, '10'), result('b', 'unet', 1, '20', { series_instance_uid: '1.3' })]
  assert.deepEqual(idsOf(resultsOf(documents)), ['b', 'a'])
})

test('results that the archive has lost come last', () => {
  const lost = { segmentation: { missing_since: '2026-11-29T16:00:00Z' } }
  const documents = [result('a2', 'unet', 2, '30', { ...byPerson, ...lost }), result('a1', 'unet', 1, '10'), result('b1', 'tiny', 1, '40', lost)]
  assert.deepEqual(idsOf(resultsOf(documents)), ['a1', 'b1'])
})

test('a result is named by its model, its version and the person who corrected it', () => {
  assert.equal(resultText(result('a', 'unet', 1, '10'), models), 'U-Net 1, version 1')
  assert.equal(resultText(result('a', 'unet', 3, '10', byPerson), models), 'U-Net 1, version 3, corrected by dr')
  assert.equal(modelOf(result('a', 'tiny', 1, '10'), models), 'tiny 1')
  assert.equal(modelOf(result('a', 'gone', 1, '10'), models), 'gone 1')
  assert.equal(modelOf(result('a', 'by-hand', 1, '10'), models), 'Drawn by hand')
})
