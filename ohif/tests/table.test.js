import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'

import { changesOf, confidenceOf, csv, csvName, lesionsOf, measurableHint, nameOf, problemOf, stageText, totals } from '../table.js'

const lesion = (number, volume_ml, more = {}) => ({
  number, name: `Metastasis ${number}`, volume_ml, long_axis_mm: 10 * volume_ml, short_axis_mm: 4, measurable: volume_ml > 1,
  mean_probability: null, confidence: null, tracking_uid: `1.2.${number}`, ...more,
})
const document = {
  study_instance_uid: '1.2', series_instance_uid: '1.2.3', model: { id: 'unetr' }, total_volume_ml: 4.5,
  lesions: [lesion(1, 0.5), lesion(2, 3), lesion(3, 1)],
}
const numbers = order => lesionsOf(document, order).map(({ number }) => number)

test('the table is sorted by any column in both directions without changing the document', () => {
  assert.deepEqual(numbers({ key: 'volume_ml', descending: true }), [2, 3, 1])
  assert.deepEqual(numbers({ key: 'long_axis_mm', descending: false }), [1, 3, 2])
  assert.deepEqual(numbers({ key: 'measurable', descending: true }), [2, 1, 3])
  assert.deepEqual(document.lesions.map(({ number }) => number), [1, 2, 3])
})

test('the confidence is the calibrated one, or the mean probability without calibration', () => {
  const lesions = [
    lesion(1, 1, { mean_probability: 0.9, confidence: 0.2 }), lesion(2, 1, { mean_probability: 0.6 }),
    lesion(3, 1, { mean_probability: 0.1, confidence: 0.7 }),
  ]
  assert.deepEqual(lesions.map(confidenceOf), [0.2, 0.6, 0.7])
  const sorted = descending => lesionsOf({ lesions }, { key: 'confidence', descending }).map(({ number }) => number)
  assert.deepEqual([sorted(false), sorted(true)], [[1, 2, 3], [3, 2, 1]])
  assert.equal(confidenceOf(lesion(4, 1)), null)
})

test('the filter selects lesions by part of the name and by measurability', () => {
  const order = { key: 'number', descending: false }
  const shown = filter => lesionsOf(document, order, filter).map(({ number }) => number)
  assert.deepEqual(shown({ words: 'STASIS 3' }), [3])
  assert.deepEqual(shown({ measurable: true }), [2])
  assert.deepEqual(shown({ words: '1', measurable: true }), [])
})

test('a correction is described by one line for each lesion', () => {
  const change = { name: 'pons', previous_name: 'Metastasis 1', volume_ml: 1.5, previous_volume_ml: 0.25 }
  const changes = ['drawn', 'redrawn', 'renamed', 'deleted'].map(kind => ({ ...change, change: kind }))
  assert.deepEqual(changesOf({ changes }), [
    'pons drawn, 1.500 ml', 'pons redrawn, 0.250 to 1.500 ml', 'Metastasis 1 renamed to pons', 'Metastasis 1 deleted, 0.250 ml',
  ])
})

test('the totals count the visible lesions', () => {
  assert.equal(totals(document, document.lesions), '3 lesions, 4.500 ml in total')
  assert.equal(totals(document, document.lesions.slice(0, 1)), '1 of 3 lesions shown, 0.500 ml')
})

test('a lesion measured on a resampled plane says so', () => {
  const measurable_reason = 'Measurable: 12.00 x 9.00 mm on 4 slices.'
  assert.equal(measurableHint({ measurable_reason, plane: null }), measurable_reason)
  assert.equal(
    measurableHint({ measurable_reason, plane: { origin_lps_mm: [0, 0, 0], normal_lps: [0, 0, 1], spacing_mm: 0.9 } }),
    `${measurable_reason}\nThe diameters were measured on a resampled axial plane, not on a slice of the series.`,
  )
})

test('a lesion name must be unique and not empty', () => {
  const rename = name => problemOf(name, document.lesions[0], document)
  assert.deepEqual(['pons', 'Metastasis 1', ' ', 'metastasis 2 '].map(rename), [null, null, 'name_empty', 'name_taken'])
})

test('a lesion name shows something and nothing beside it', () => {
  const rename = name => problemOf(name, document.lesions[0], document)
  const empty = ['\u200b', '\u202e', '\u3164', '\ufe0f']
  assert.deepEqual(empty.map(rename), empty.map(() => 'name_empty'))
  const refused = ['a\\b', 'a\x85b', '\x9b31m', 'a\u2028b', 'a\u202eb', 'a\u2066b']
  assert.deepEqual(refused.map(rename), refused.map(() => 'name_refused'))
  const accepted = ['جبهي أيمن', 'מצח ימין\u200f', 'می\u200cشود', '左前頭葉', '?', '1', 'é', '👩\u200d⚕️']
  assert.deepEqual(accepted.map(rename), accepted.map(() => null))
})

test('a name given by a user is displayed unchanged', () => {
  assert.equal(nameOf({ name: 'pons' }), 'pons')
  assert.equal(nameOf({ name: 'Metastasis 2' }), 'Metastasis 2')
})

test('a spreadsheet reads each lesion with its origin and does not run its name as a formula', () => {
  const shown = {
    ...document, study_date: '2025-03-14', model: { id: 'unetr', version: '1.0' }, version: 3, corrected_by: 'dr',
    created_at: '2026-11-29T15:30:00Z',
    lesions: [lesion(1, 0.5, {
      name: '=1+1, "left"', mean_probability: 0.75, confidence: 0.5, tracking_id: 'BM-1', voxel_count: 7, feret_mm: 6,
      slices_spanned: 2, measurable_reason: 'Not measurable.', centroid_lps_mm: [-1.5, 2, 30], slice: { index: 12, sop_instance_uid: '1.9', frame: null },
    })],
  }
  const [head, line, ...rest] = csv(shown).split('\r\n')
  assert.deepEqual(rest, [''])
  const names = head.split(',')
  const cells = line.replace(`"'=1+1, ""left""\"`, 'NAME').split(',')
  const row = Object.fromEntries(names.map((name, i) => [name, cells[i]]))
  assert.equal(cells.length, names.length)
  assert.deepEqual(row, {
    study_instance_uid: '1.2', study_date: '2025-03-14', series_instance_uid: '1.2.3', model: 'unetr', model_version: '1.0',
    version: '3', corrected_by: 'dr', created_at: '2026-11-29T15:30:00Z', number: '1', name: 'NAME', tracking_id: 'BM-1',
    volume_ml: '0.5', voxel_count: '7', long_axis_mm: '5', short_axis_mm: '4', feret_mm: '6', slices_spanned: '2',
    mean_probability: '0.75', confidence: '0.5', measurable: 'false', measurable_reason: 'Not measurable.',
    centroid_l_mm: '-1.5', centroid_p_mm: '2', centroid_s_mm: '30', slice_index: '12', slice_sop_instance_uid: '1.9',
    tracking_uid: '1.2.1',
  })
  assert.equal(csvName(shown), 'lesions-2025-03-14-unetr-v3.csv')
  assert.equal(csvName({ ...shown, study_date: null }), 'lesions-unetr-v3.csv')
})

test('the CSV file has all columns of the command line', () => {
  const source = readFileSync(new URL('../../reports/tables.py', import.meta.url), 'utf8')
  const columns = [...source.slice(0, source.indexOf('def ')).matchAll(/"(\w+)"/g)].map(match => match[1])
  assert.ok(columns.length > 10)
  const shown = { ...document, lesions: [lesion(1, 1, { centroid_lps_mm: [1, 2, 3], slice: {} })] }
  const [head] = csv({ ...shown, model: { id: 'unetr', version: '1.0' } }).split('\r\n')
  for (const column of columns) assert.ok(head.split(',').includes(column), column)
})

test('the stage includes the remaining seconds if they are known', () => {
  assert.equal(stageText({ stage: 'predict', estimate_s: 4.2 }), 'Searching for lesions, about 5 s remaining')
  assert.equal(stageText({ stage: null, estimate_s: null }), 'Waiting')
})
