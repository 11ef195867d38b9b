// The viewer's own brush and eraser for MetScope's segmentations, and the storage of an edited segmentation in the PACS.
import { TOOL_GROUPS, librariesOf } from './host.js'
import { text } from './texts.js'

const MIN_RADIUS_MM = 0.5, MAX_RADIUS_MM = 50, DEFAULT_RADIUS_MM = 3
const SHAPES = ['Circular', 'Sphere']
const DEFAULT_TOOL = 'WindowLevel'
// The viewer's button back to the study list.
const STUDY_LIST_BUTTON = '[data-cy=return-to-work-list]'

/** The viewer's segmentation panels with and without drawing tools. */
export const PANEL_WITH_TOOLS = '@ohif/extension-cornerstone.panelModule.panelSegmentationWithToolsLabelMap'
export const PANEL_WITHOUT_TOOLS = '@ohif/extension-cornerstone.panelModule.panelSegmentation'

const tool = (toolName, activeStrategy) => ({
  toolName,
  parentTool: 'Brush',
  configuration: { activeStrategy, minRadius: MIN_RADIUS_MM, maxRadius: MAX_RADIUS_MM, brushSize: DEFAULT_RADIUS_MM },
})

function button(id, kind, icon) {
  const toolNames = SHAPES.map(shape => shape + kind)
  const radius = `${id}-radius`
  const labelmap = { segmentationRepresentationType: 'Labelmap' }
  return {
    id,
    uiType: 'ohif.toolBoxButton',
    props: {
      icon,
      label: text(id),
      evaluate: [
        { name: 'evaluate.cornerstone.segmentation', toolNames },
        { name: 'evaluate.cornerstone.segmentation.synchronizeDrawingRadius', radiusOptionId: radius },
        { name: 'evaluate.cornerstone.hasSegmentationOfType', ...labelmap },
      ],
      commands: { commandName: 'activateSelectedSegmentationOfType', commandOptions: labelmap },
      options: [
        {
          name: text('radius'), id: radius, type: 'range', explicitRunOnly: true, min: MIN_RADIUS_MM, max: MAX_RADIUS_MM,
          step: 0.5, value: DEFAULT_RADIUS_MM, commands: { commandName: 'setBrushSize', commandOptions: { toolNames } },
        },
        {
          name: text('shape'), id: `${id}-shape`, type: 'radio', value: toolNames[0], commands: 'setToolActiveToolbar',
          values: toolNames.map((value, i) => ({ value, label: text(SHAPES[i]) })),
        },
      ],
    },
  }
}

/** Add the brush and the eraser to the mode that is being entered. */
export function addTools({ toolGroupService, toolbarService }) {
  for (const group of TOOL_GROUPS) {
    toolGroupService.addToolsToToolGroup(group, {
      passive: [
        tool('CircularBrush', 'FILL_INSIDE_CIRCLE'),
        tool('SphereBrush', 'FILL_INSIDE_SPHERE'),
        tool('CircularEraser', 'ERASE_INSIDE_CIRCLE'),
        tool('SphereEraser', 'ERASE_INSIDE_SPHERE'),
      ],
    })
  }
  toolbarService.register([
    { id: 'MetScopeTools', uiType: 'ohif.toolBoxButtonGroup', props: { buttonSection: true } },
    button('MetScopeBrush', 'Brush', 'icon-tool-brush'),
    button('MetScopeEraser', 'Eraser', 'icon-tool-eraser'),
  ])
  toolbarService.updateSection('labelMapSegmentationToolbox', ['MetScopeTools'])
  toolbarService.updateSection('MetScopeTools', ['MetScopeBrush', 'MetScopeEraser'])
}

let saving = false
/** Return whether an edited segmentation is being stored in the PACS. */
export const isSaving = () => saving

// Segmentations with unsaved edits, the segments of each as loaded, and the listeners to the first edit.
const editedIds = new Set()
const loadedSegments = new Map()
const listeners = new Set()

const segmentsOf = (segmentationService, id) => {
  const { segments } = segmentationService.getSegmentation(id) ?? {}
  return segments && JSON.stringify(Object.values(segments).map(segment => [segment.segmentIndex, segment.label]))
}

/** Return whether the segmentation has unsaved edits. id: the viewer's. */
export const isEdited = id => editedIds.has(id)

/** Call listener when a segmentation is first edited; return an unsubscribe function. */
export function onEdit(listener) {
  listeners.add(listener)
  return () => listeners.delete(listener)
}

/** Mark the segmentation as different from the stored one. */
export function markEdited(id) {
  if (editedIds.has(id)) return
  editedIds.add(id)
  for (const listener of listeners) listener()
}

// Segmentations that this page has saved for measurement.
const savedIds = new Set()

/** Discard the record of edits after the segmentation was reloaded or removed. */
export function discard(id) {
  editedIds.delete(id)
  savedIds.delete(id)
  loadedSegments.delete(id)
}

/** Activate the viewer's default tool if the brush or the eraser is active. */
export function deactivateTools(app) {
  const { toolGroupService } = app.servicesManager.services
  const isOurs = name => SHAPES.some(shape => [`${shape}Brush`, `${shape}Eraser`].includes(name))
  if (!TOOL_GROUPS.some(group => isOurs(toolGroupService.getActivePrimaryMouseButtonTool(group)))) return
  app.commandsManager.run('setToolActiveToolbar', { toolName: DEFAULT_TOOL, toolGroupIds: TOOL_GROUPS })
}

/** Ask for confirmation before the viewer's own navigation discards unsaved edits; return a function that removes the guard.
 * This navigation loads no page, so the browser does not ask. */
function guardNavigation() {
  const mayLeave = () => !editedIds.size || window.confirm(text('leave_really'))
  const block = event => { event.preventDefault(); event.stopImmediatePropagation() }
  const onClick = event => {
    if (event.target.closest?.(STUDY_LIST_BUTTON) && !mayLeave()) block(event)
  }
  // The viewer numbers the entries of the browser's history.
  let position = window.history.state?.idx
  let isGoingBack = false
  const onPopState = event => {
    const target = event.state?.idx
    if (isGoingBack) {
      isGoingBack = false
      block(event)
    } else if (mayLeave()) position = target
    else {
      block(event)
      isGoingBack = true
      window.history.go(position > target ? position - target : -1)
    }
  }
  window.addEventListener('click', onClick, true)
  window.addEventListener('popstate', onPopState, true)
  return () => {
    window.removeEventListener('click', onClick, true)
    window.removeEventListener('popstate', onPopState, true)
  }
}

/** Mark a drawing saved by this page as edited again, because it was not measured. */
export function markUnsaved(id) {
  if (savedIds.delete(id)) markEdited(id)
}

/** Watch for edits, whichever panel is open; return a function that stops watching. */
export function watch(app) {
  const { segmentationService } = app.servicesManager.services
  const { cornerstone, cornerstoneTools } = librariesOf(app)
  const modifiedEvent = cornerstoneTools.Enums.Events.SEGMENTATION_DATA_MODIFIED
  // A mere change of display, such as another layout, modifies no slice.
  const onModified = ({ detail }) => detail.modifiedSlicesToUse?.length && markEdited(detail.segmentationId)
  cornerstone.eventTarget.addEventListener(modifiedEvent, onModified)
  const { unsubscribe } = segmentationService.subscribe(segmentationService.EVENTS.SEGMENTATION_MODIFIED, ({ segmentationId: id }) => {
    const segments = segmentsOf(segmentationService, id)
    if (!loadedSegments.has(id)) loadedSegments.set(id, segments)
    else if (segments && loadedSegments.get(id) !== segments) markEdited(id)
  })
  // The browser then asks whether to leave the page.
  const onUnload = event => editedIds.size && event.preventDefault()
  window.addEventListener('beforeunload', onUnload)
  const stopGuard = guardNavigation()
  return () => {
    stopGuard()
    window.removeEventListener('beforeunload', onUnload)
    cornerstone.eventTarget.removeEventListener(modifiedEvent, onModified)
    unsubscribe()
    editedIds.clear()
    savedIds.clear()
    loadedSegments.clear()
  }
}

/** Store a segmentation with its edits in the PACS; return the SOP Instance UID of the new object. Any later stroke is a
 * new edit. */
export async function save(app, id) {
  const [source] = app.extensionManager.getActiveDataSource()
  const options = { SeriesDescription: text('edited_series') }
  const { dataset } = app.commandsManager.runCommand('generateSegmentation', { segmentationId: id, options }, 'SEGMENTATION')
  // This label tells MetScope that it may delete the object after measuring it.
  dataset.ContentLabel = 'METSCOPE_DRAWING'
  // The viewer writes this value for images without a study ID. Archives reject it.
  if (dataset.StudyID === 'No Study ID') dataset.StudyID = ''
  editedIds.delete(id)
  // The viewer still reports segments that were drawn earlier.
  loadedSegments.set(id, segmentsOf(app.servicesManager.services.segmentationService, id))
  saving = true
  try {
    await source.store.dicom(dataset)
  } catch (error) {
    markEdited(id)
    throw error
  } finally {
    saving = false
  }
  savedIds.add(id)
  return dataset.SOPInstanceUID
}
