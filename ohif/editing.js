// The viewer's own brush and eraser on MetScope's segmentations, and what they made of one as an object in the PACS.
import { TOOL_GROUPS, librariesOf } from './host.js'
import { text } from './texts.js'

const SMALLEST_MM = 0.5, LARGEST_MM = 50, USUAL_MM = 3
const SHAPES = ['Circular', 'Sphere']
const USUAL_TOOL = 'WindowLevel'
// The viewer's button that leads back to the list of studies.
const WAY_OUT = '[data-cy=return-to-work-list]'

/** A segmentation's panel with tools. */
export const PANEL = '@ohif/extension-cornerstone.panelModule.panelSegmentationWithToolsLabelMap'
export const PANEL_WITHOUT = '@ohif/extension-cornerstone.panelModule.panelSegmentation'

const tool = (toolName, activeStrategy) => ({
  toolName,
  parentTool: 'Brush',
  configuration: { activeStrategy, minRadius: SMALLEST_MM, maxRadius: LARGEST_MM, brushSize: USUAL_MM },
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
          name: text('radius'), id: radius, type: 'range', explicitRunOnly: true, min: SMALLEST_MM, max: LARGEST_MM,
          step: 0.5, value: USUAL_MM, commands: { commandName: 'setBrushSize', commandOptions: { toolNames } },
        },
        {
          name: text('shape'), id: `${id}-shape`, type: 'radio', value: toolNames[0], commands: 'setToolActiveToolbar',
          values: toolNames.map((value, i) => ({ value, label: text(SHAPES[i]) })),
        },
      ],
    },
  }
}

/** The tools in the mode that is being entered. */
export function enterTools({ toolGroupService, toolbarService }) {
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
/** Whether what was drawn is on its way into the PACS. */
export const isSaving = () => saving

// What was drawn in since it was loaded, and who wants to know of it.
const edited = new Set()
const asLoaded = new Map()
const listeners = new Set()

const segmentsOf = (segmentationService, id) => {
  const { segments } = segmentationService.getSegmentation(id) ?? {}
  return segments && JSON.stringify(Object.values(segments).map(one => [one.segmentIndex, one.label]))
}

/** Whether the segmentation, by the viewer's id, is not any more what was loaded. */
export const isEdited = id => edited.has(id)

/** Call whenever a segmentation is edited for the first time; returns what ends that. */
export function onEdit(call) {
  listeners.add(call)
  return () => listeners.delete(call)
}

/** The segmentation is not any more what is stored. */
export function markEdited(id) {
  if (edited.has(id)) return
  edited.add(id)
  for (const call of listeners) call()
}

// What this page saved to be measured.
const saved = new Set()

/** Forget what was drawn: the segmentation is what is stored, or is gone. */
export function discard(id) {
  edited.delete(id)
  saved.delete(id)
  asLoaded.delete(id)
}

/** Give the mouse back to the viewer's usual tool, where the brush or the eraser has it. */
export function putToolsDown(app) {
  const { toolGroupService } = app.servicesManager.services
  const isOurs = name => SHAPES.some(shape => [`${shape}Brush`, `${shape}Eraser`].includes(name))
  if (!TOOL_GROUPS.some(group => isOurs(toolGroupService.getActivePrimaryMouseButtonTool(group)))) return
  app.commandsManager.run('setToolActiveToolbar', { toolName: USUAL_TOOL, toolGroupIds: TOOL_GROUPS })
}

/** Ask before an unsaved drawing is left by the viewer's own ways, which load no page; returns what ends that. */
function guardWayOut() {
  const mayLeave = () => !edited.size || window.confirm(text('leave_really'))
  const stay = event => { event.preventDefault(); event.stopImmediatePropagation() }
  const onClick = event => {
    if (event.target.closest?.(WAY_OUT) && !mayLeave()) stay(event)
  }
  // The viewer numbers the entries of the browser's history.
  let at = window.history.state?.idx
  let isGoingBack = false
  const onHistory = event => {
    const to = event.state?.idx
    if (isGoingBack) {
      isGoingBack = false
      stay(event)
    } else if (mayLeave()) at = to
    else {
      stay(event)
      isGoingBack = true
      window.history.go(at > to ? at - to : -1)
    }
  }
  window.addEventListener('click', onClick, true)
  window.addEventListener('popstate', onHistory, true)
  return () => {
    window.removeEventListener('click', onClick, true)
    window.removeEventListener('popstate', onHistory, true)
  }
}

/** What was drawn and saved here is on the screen alone again, because it was not measured. */
export function takeBack(id) {
  if (saved.delete(id)) markEdited(id)
}

/** Listen, whichever panel is open, until what this returns is called. */
export function watch(app) {
  const { segmentationService } = app.servicesManager.services
  const { cornerstone, cornerstoneTools } = librariesOf(app)
  const drawn = cornerstoneTools.Enums.Events.SEGMENTATION_DATA_MODIFIED
  // A segmentation that is only shown otherwise, in another layout say, is modified in no slice.
  const onDrawn = ({ detail }) => detail.modifiedSlicesToUse?.length && markEdited(detail.segmentationId)
  cornerstone.eventTarget.addEventListener(drawn, onDrawn)
  const { unsubscribe } = segmentationService.subscribe(segmentationService.EVENTS.SEGMENTATION_MODIFIED, ({ segmentationId: id }) => {
    const now = segmentsOf(segmentationService, id)
    if (!asLoaded.has(id)) asLoaded.set(id, now)
    else if (now && asLoaded.get(id) !== now) markEdited(id)
  })
  // The browser asks whether the page is to be left.
  const onLeave = event => edited.size && event.preventDefault()
  window.addEventListener('beforeunload', onLeave)
  const endGuard = guardWayOut()
  return () => {
    endGuard()
    window.removeEventListener('beforeunload', onLeave)
    cornerstone.eventTarget.removeEventListener(drawn, onDrawn)
    unsubscribe()
    edited.clear()
    saved.clear()
    asLoaded.clear()
  }
}

/** Store a segmentation as it is drawn now; the SOP Instance UID of the new object in the PACS. What is drawn from here
 * on is another edit. */
export async function save(app, id) {
  const [source] = app.extensionManager.getActiveDataSource()
  const options = { SeriesDescription: text('edited_series') }
  const { dataset } = app.commandsManager.runCommand('generateSegmentation', { segmentationId: id, options }, 'SEGMENTATION')
  // By this MetScope knows that it may delete the object when it has measured it.
  dataset.ContentLabel = 'METSCOPE_DRAWING'
  // What the viewer writes where the images have none, and no archive takes.
  if (dataset.StudyID === 'No Study ID') dataset.StudyID = ''
  edited.delete(id)
  // The viewer goes on telling of segments that were drawn before.
  asLoaded.set(id, segmentsOf(app.servicesManager.services.segmentationService, id))
  saving = true
  try {
    await source.store.dicom(dataset)
  } catch (error) {
    markEdited(id)
    throw error
  } finally {
    saving = false
  }
  saved.add(id)
  return dataset.SOPInstanceUID
}
