import assert from 'node:assert/strict'
import { test } from 'node:test'

import { isShown, linesOf, placeOfWords } from '../axes.js'

const acquired = {
  name: 'Metastasis 12', number: 2, long_axis_mm: 20, short_axis_mm: 9, tracking_uid: '1.2.3', plane: null, slice: { sop_instance_uid: '1.2.840.7', frame: null, index: 12 },
  long_axis_lps: [[-10, 5, 30], [10, 5, 30]], short_axis_lps: [[0, 0, 30], [0, 9, 30]],
}
const resampled = {
  ...acquired, slice: { sop_instance_uid: null, frame: null, index: null },
  plane: { origin_lps_mm: [0, 0, 30], normal_lps: [0, 0, 1], spacing_mm: 1 },
}
const axial = { viewPlaneNormal: [0, 0, -1], focalPoint: [40, 40, 30] }

test('each lesion has two axes in the plane that they span', () => {
  const [long, short] = linesOf([acquired])
  assert.deepEqual([long.ends, short.ends], [acquired.long_axis_lps, acquired.short_axis_lps])
  assert.deepEqual(long.normal.map(Math.abs), [0, 0, 1])
})

test('the long axis bears the lesion number and both lengths, the short axis nothing', () => {
  assert.deepEqual(linesOf([acquired]).map(({ words }) => words), ['12: 20.0 × 9.0 mm', ''])
})

test('a name given by a user is truncated on the image', () => {
  const words = name => linesOf([{ ...acquired, name }])[0].words
  assert.equal(words('Left frontal'), 'Left frontal: 20.0 × 9.0 mm')
  assert.equal(words('Left parieto-occipital metastasis beside the falx'), 'Left parieto-occipital m…: 20.0 × 9.0 mm')
})

test('a lesion of one voxel has no lines', () => {
  assert.deepEqual(linesOf([{ ...acquired, short_axis_lps: [[0, 0, 30], [0, 0, 30]] }]), [])
})

test('in a stack, the lines are only on the recorded slice', () => {
  const [line] = linesOf([acquired])
  const on = imageId => isShown(line, { ...axial, imageId })
  assert.equal(on('wadors:/dicom-web/studies/1/series/2/instances/1.2.840.7/frames/1'), true)
  assert.equal(on('wadors:/dicom-web/studies/1/series/2/instances/1.2.840.70/frames/1'), false)
})

test('in a multi-frame image, the lines are only on the recorded frame', () => {
  const [line] = linesOf([{ ...acquired, slice: { sop_instance_uid: '1.2.840.7', frame: 12, index: 11 } }])
  const on = frame => isShown(line, { ...axial, imageId: `wadors:/x/instances/1.2.840.7/frames/${frame}` })
  assert.deepEqual([on(12), on(1), on(120)], [true, false, false])
})

test('in a volume, the lines are on parallel planes within half a slice', () => {
  const [line] = linesOf([acquired])
  const at = z => isShown(line, { ...axial, focalPoint: [0, 0, z], spacing_mm: 2 })
  assert.deepEqual([at(30), at(30.9), at(31.1), at(28.9)], [true, true, false, false])
  assert.equal(isShown(line, { viewPlaneNormal: [1, 0, 0], focalPoint: [0, 0, 30], spacing_mm: 2 }), false)
})

test('on a resampled plane, the lines are visible within half its own spacing', () => {
  const [line] = linesOf([resampled])
  const at = z => isShown(line, { ...axial, focalPoint: [0, 0, z], spacing_mm: 5 })
  assert.deepEqual([at(30.4), at(30.6)], [true, false])
})

test('the words are right of the line, or left of it at the edge of the image', () => {
  const [x] = placeOfWords('1: 20.0 × 9.0 mm', [100, 40], [60, 50], 400)
  assert.ok(x > 100)
  const [left, y] = placeOfWords('1: 20.0 × 9.0 mm', [380, 40], [340, 50], 400)
  assert.ok(left >= 0 && left < 340 - 100)
  assert.equal(y, 50)
  assert.equal(placeOfWords('1: 20.0 × 9.0 mm', [80, 40], [40, 50], 100)[0], 0)
})
