import assert from 'node:assert/strict'
import { afterEach, beforeEach, test } from 'node:test'

import * as editing from '../editing.js'

const DRAWN = 'drawn', MODIFIED = 'modified', ID = 'a segmentation'
let segments, stored, viewer, end, onModified

/** Send the viewer's event for a change of the segments or their properties. */
const modified = () => onModified({ segmentationId: ID })
const drawn = modifiedSlicesToUse =>
  viewer.dispatchEvent(Object.assign(new Event(DRAWN), { detail: { segmentationId: ID, modifiedSlicesToUse } }))

beforeEach(() => {
  segments = { 1: { segmentIndex: 1, label: 'Metastasis 1' } }
  stored = []
  viewer = new EventTarget()
  globalThis.window = Object.assign(new EventTarget(), { history: { state: { idx: 0 } } })
  const libraries = {
    cornerstone: { eventTarget: viewer },
    cornerstoneTools: { Enums: { Events: { SEGMENTATION_DATA_MODIFIED: DRAWN } } },
  }
  const app = {
    servicesManager: {
      services: {
        segmentationService: {
          EVENTS: { SEGMENTATION_MODIFIED: MODIFIED },
          getSegmentation: () => ({ segments }),
          subscribe: (_, call) => { onModified = call; return { unsubscribe: () => {} } },
        },
      },
    },
    extensionManager: {
      getModuleEntry: () => ({ exports: { getCornerstoneLibraries: () => libraries } }),
      getActiveDataSource: () => [{ store: { dicom: async dataset => { if (stored === null) throw new Error('away'); stored.push(dataset) } } }],
    },
    commandsManager: { runCommand: () => ({ dataset: { SOPInstanceUID: '1.2', StudyID: '' } }) },
  }
  const stop = editing.watch(app)
  end = { app, stop }
  modified()
})

afterEach(() => {
  end.stop()
  delete globalThis.window
})

/** Return whether the browser asks before leaving the page. */
const isAsked = () => !window.dispatchEvent(new Event('beforeunload', { cancelable: true }))

test('a stroke is an edit, a change of layout is not', () => {
  drawn([])
  modified()
  assert.equal(editing.isEdited(ID), false)
  assert.equal(isAsked(), false)
  drawn([3])
  assert.equal(editing.isEdited(ID), true)
  assert.equal(isAsked(), true)
})

test('a late event for a saved segment is not an edit', async () => {
  segments = { ...segments, 2: { segmentIndex: 2, label: 'Segment 2' } }
  modified()
  assert.equal(editing.isEdited(ID), true)
  assert.equal(await editing.save(end.app, ID), '1.2')
  assert.equal(stored.length, 1)
  // The viewer counts a segment's voxels in a worker and sends the event afterwards.
  modified()
  assert.equal(editing.isEdited(ID), false)
  segments = { ...segments, 3: { segmentIndex: 3, label: 'Segment 3' } }
  modified()
  assert.equal(editing.isEdited(ID), true)
})

test('a segmentation stays edited if the archive rejects it', async () => {
  drawn([3])
  stored = null
  await assert.rejects(editing.save(end.app, ID), /away/)
  assert.equal(editing.isEdited(ID), true)
})
