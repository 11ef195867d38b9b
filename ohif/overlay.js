// A SEG of the PACS on the viewer's images, without a reload of the page.
import { librariesOf } from './host.js'
import { day } from './texts.js'

const LIMIT_MS = 30000
const STEP_MS = 100
const PATIENCE_MS = 2000
// From pressing a mouse button to letting it go: further is a drag. Pixels of the screen.
const CLICK_PX = 3
// A lesion that is gone to: its opacity and for how many ms; the others stay.
const HIGHLIGHT = [0.9, 750, false]

/** The display set of a stored object, loaded from the PACS where the viewer does not know it yet.
 *
 * Of the versions in a series the viewer shows the last one, and at each further look another that it does not know. */
export async function displaySetOf(app, study, { series_instance_uid: series, sop_instance_uid: object }) {
  const { displaySetService } = app.servicesManager.services
  const ofSeries = () => displaySetService.getDisplaySetsForSeries(series) ?? []
  // What the viewer cannot show is listed without a UID of its own.
  const objectsOf = one => (one.SOPInstanceUID ? [one] : one.instances ?? [])
  const known = () => ofSeries().find(one => objectsOf(one).some(({ SOPInstanceUID }) => SOPInstanceUID === object))
  const end = Date.now() + LIMIT_MS
  while (!known()) {
    if (Date.now() > end) throw new Error('the viewer does not find the stored object')
    const count = ofSeries().length
    const [source] = app.extensionManager.getActiveDataSource()
    // The viewer asks a study's metadata once and keeps the answer under this name.
    const kept = `${source.getConfig().name}:${study}`
    source.deleteStudyMetadataPromise(kept)
    await source.retrieve.series.metadata({ StudyInstanceUID: study, filters: { seriesInstanceUID: [series] } })
    source.deleteStudyMetadataPromise(kept)
    await until(() => known() || ofSeries().length > count, 'the viewer does not find the stored object')
  }
  return known()
}

/** The display set that the active viewport shows, under whatever lies over it. */
export function activeImages(app) {
  const { displaySetService, viewportGridService } = app.servicesManager.services
  const { activeViewportId, viewports } = viewportGridService.getState()
  const [uid] = viewports.get(activeViewportId)?.displaySetInstanceUIDs ?? []
  return uid && displaySetService.getDisplaySetByUID(uid)
}

/** The study of the active viewport; before the viewer has one, the first that it opens. */
export function activeStudy(app) {
  const [first] = app.servicesManager.services.displaySetService.getActiveDisplaySets()
  return (activeImages(app) ?? first)?.StudyInstanceUID
    ?? new URLSearchParams(location.search).get('StudyInstanceUIDs')?.split(',')[0]
}

/** The study's day and description, as far as the viewer knows them. */
export function studyTitle(app, study) {
  const images = app.servicesManager.services.displaySetService.getActiveDisplaySets()
    .find(({ StudyInstanceUID, instances }) => StudyInstanceUID === study && instances?.length)
  const { StudyDate: date, StudyDescription: description } = images?.instances[0] ?? {}
  return [day(date), description].filter(Boolean).join(', ')
}

const imagesOf = (app, { series_instance_uid: series }) =>
  app.servicesManager.services.displaySetService.getDisplaySetsForSeries(series)?.[0]

/** DICOM attributes of the images that a segmentation was made of; none where the viewer does not have them. */
export const attributesOf = (app, document) => imagesOf(app, document)?.instances?.[0] ?? {}

/** Show the images that a segmentation was made of in the active viewport. */
export async function open(app, document) {
  const viewportId = app.servicesManager.services.viewportGridService.getActiveViewportId()
  const { displaySetInstanceUID } = imagesOf(app, document)
  await app.commandsManager.run('setDisplaySetsForViewports', {
    viewportsToUpdate: [{ viewportId, displaySetInstanceUIDs: [displaySetInstanceUID] }],
  })
  await until(() => shows(app, viewportId, document), 'the viewer does not show the images')
}

/** Call whenever another viewport may be the active one, or shows something else; returns what ends that. */
export function onActiveViewport(app, call) {
  const { viewportGridService } = app.servicesManager.services
  const { ACTIVE_VIEWPORT_ID_CHANGED, GRID_STATE_CHANGED } = viewportGridService.EVENTS
  const subscriptions = [ACTIVE_VIEWPORT_ID_CHANGED, GRID_STATE_CHANGED].map(event => viewportGridService.subscribe(event, call))
  // The viewer tells of a change of its grid before it has made it.
  const ends = [...subscriptions.map(({ unsubscribe }) => unsubscribe), onNewImages(app, call)]
  return () => ends.forEach(end => end())
}

/** The SEG as the viewer knows it; undefined before it has been loaded. */
const storedOf = (app, { series_instance_uid: series, sop_instance_uid: object }) =>
  app.servicesManager.services.displaySetService.getDisplaySetsForSeries(series)?.find(stored => stored.SOPInstanceUID === object)

/** Whether a viewport shows the images that a segmentation was made of: the one rule for all that is drawn on images.
 *
 * Another series has other pixels, another frame of reference other places, even within one study. undefined: it shows no
 * images but a segmentation by itself, or nothing. */
function shows(app, viewportId, { study_instance_uid: study, series_instance_uid: series, segmentation }) {
  const { displaySetService, viewportGridService } = app.servicesManager.services
  const frameOf = ({ instance, instances }) => (instances?.[0] ?? instance)?.FrameOfReferenceUID
  const stored = storedOf(app, segmentation)
  const images = viewportGridService.getState().viewports.get(viewportId)?.displaySetInstanceUIDs
    ?.map(uid => displaySetService.getDisplaySetByUID(uid)).filter(displaySet => displaySet && !displaySet.isDerivedDisplaySet)
  if (!images?.length) return undefined
  return images.some(displaySet => displaySet.StudyInstanceUID === study && displaySet.SeriesInstanceUID === series
    && (!stored || frameOf(stored) === frameOf(displaySet)))
}

const viewportIds = app => [...app.servicesManager.services.viewportGridService.getState().viewports.keys()]

/** Lay the document's SEG over the images of every viewport that shows what it was made of, and take it off all others.
 *
 * Returns the viewer's id of the segmentation; null where over() says that nobody waits for it any more. */
export async function show(app, document, over) {
  const { cornerstoneViewportService, segmentationService } = app.servicesManager.services
  const displaySet = await displaySetOf(app, document.study_instance_uid, document.segmentation)
  const id = displaySet.displaySetInstanceUID
  // After a reload of the page the viewports are there before their images.
  const hasImages = viewportId => shows(app, viewportId, document) !== undefined
  await until(() => over() || viewportIds(app).some(hasImages), 'the viewer does not show the images')
  for (const viewportId of viewportIds(app)) {
    if (over()) return null
    const isRight = shows(app, viewportId, document)
    if (isRight === undefined || isRight === isOn(segmentationService, viewportId, id)) continue
    // After a reload of the page the viewer lists a viewport before it has made it.
    const isMade = () => over() || cornerstoneViewportService.getViewportInfo(viewportId)
    await until(isMade, 'the viewer does not show the images')
    if (isRight) await lay(app, viewportId, id, over)
    else await takeOff(app, viewportId, id)
  }
  return over() ? null : id
}

/** Lay a new, empty segmentation over the document's images, and show these first where no viewport does; the viewer's id of
 * the segmentation. */
export async function blank(app, document, label) {
  if (!isInView(app, document)) await open(app, document)
  const viewportId = viewportIds(app).find(id => shows(app, id, document))
  const { displaySetInstanceUID } = imagesOf(app, document)
  const options = { displaySetInstanceUID, label, createInitialSegment: true }
  return app.commandsManager.run('createLabelmapForViewport', { viewportId, options })
}

async function lay(app, viewportId, id, over) {
  const { segmentationService } = app.servicesManager.services
  const goBack = placeOf(app, viewportId)
  app.commandsManager.runCommand('addDisplaySetAsLayer', { viewportId, displaySetInstanceUID: id })
  await until(() => over() || isOn(segmentationService, viewportId, id), 'the viewer does not draw it')
  if (!over()) goBack()
}

/** Call whenever a viewport has got other images, which take the segmentation off it; returns what ends that. */
export function onNewImages(app, call) {
  const { cornerstoneViewportService } = app.servicesManager.services
  const { unsubscribe } = cornerstoneViewportService.subscribe(
    cornerstoneViewportService.EVENTS.VIEWPORT_DATA_CHANGED, call,
  )
  return unsubscribe
}

/** Take it off the images; it stays in the PACS. */
export async function hide(app, id) {
  for (const viewportId of app.servicesManager.services.segmentationService.getViewportIdsWithSegmentation(id)) {
    await takeOff(app, viewportId, id)
  }
}

/** Take it off the images and forget what was drawn on it: shown again, it comes from the PACS. */
export async function forget(app, id) {
  await hide(app, id)
  const { displaySetService, segmentationService } = app.servicesManager.services
  segmentationService.remove(id)
  // By these the viewer takes it for read already.
  const displaySet = displaySetService.getDisplaySetByUID(id)
  if (displaySet) displaySet.segments = {}
}

/** The brush and the eraser draw this lesion, where the viewer has the segmentation. */
export function activate(app, id, { number }) {
  const { segmentationService } = app.servicesManager.services
  if (segmentationService.getSegmentation(id)) segmentationService.setActiveSegment(id, number)
}

async function takeOff(app, viewportId, id) {
  const goBack = placeOf(app, viewportId)
  const changed = new Promise(done => {
    const end = onNewImages(app, event => event.viewportId === viewportId && done(end()))
    setTimeout(() => done(end()), PATIENCE_MS)
  })
  app.commandsManager.runCommand('removeDisplaySetLayer', { viewportId, displaySetInstanceUID: id })
  await changed
  // The viewer may lay it again, as it lay there when these images were shown before. Its own service has another name for it
  // in each version.
  librariesOf(app).cornerstoneTools.segmentation.removeSegmentationRepresentations(viewportId, { segmentationId: id })
  goBack()
}

/** What brings a viewport back to the slice that it shows now: with other layers it begins at its first. */
function placeOf(app, viewportId) {
  const viewport = () => app.servicesManager.services.cornerstoneViewportService.getCornerstoneViewport(viewportId)
  const place = viewport()?.getViewReference()
  return () => {
    if (!place || !viewport()?.isReferenceViewable(place, { withNavigation: true })) return
    viewport().setViewReference(place)
    viewport().render()
  }
}

/** Whether a viewport shows the images that a segmentation was made of. */
export const isInView = (app, document) => viewportIds(app).some(viewportId => shows(app, viewportId, document))

/** Every viewport with the images of the document goes to the slice where the lesion was measured; false: there is none. */
export function jump(app, document, lesion) {
  const { cornerstoneViewportService, segmentationService } = app.servicesManager.services
  const [from, to] = lesion.long_axis_lps
  const middle = from.map((value, i) => (value + to[i]) / 2)
  const here = viewportIds(app).filter(viewportId => shows(app, viewportId, document))
  for (const viewportId of here) {
    cornerstoneViewportService.getCornerstoneViewport(viewportId)?.jumpToWorld(middle)
    const id = storedOf(app, document.segmentation)?.displaySetInstanceUID
    if (id && isOn(segmentationService, viewportId, id)) segmentationService.highlightSegment(id, lesion.number, viewportId, ...HIGHLIGHT)
  }
  return here.length > 0
}

let outlined = false
/** Whether the lesions' outlines are drawn alone, without the fill between them. */
export const isOutlined = () => outlined

export function outline(app, alone) {
  outlined = alone
  const style = { renderFill: !alone, renderFillInactive: !alone }
  app.servicesManager.services.segmentationService.setStyle({ type: 'Labelmap' }, style)
}

/** Call with the viewer's id of a segmentation and the number of a segment whenever that is clicked on an image; returns what
 * ends that. */
export function onLesionClick(app, call) {
  const { cornerstoneViewportService, segmentationService } = app.servicesManager.services
  const { getSegmentIndexAtWorldPoint } = librariesOf(app).cornerstoneTools.utilities.segmentation
  let start = [NaN, NaN]
  const onDown = ({ clientX, clientY }) => { start = [clientX, clientY] }
  const onUp = ({ target, clientX, clientY }) => {
    if (!(Math.hypot(clientX - start[0], clientY - start[1]) <= CLICK_PX)) return
    const viewport = viewportIds(app).map(id => cornerstoneViewportService.getCornerstoneViewport(id))
      .find(shown => shown?.element?.contains(target))
    if (!viewport) return
    const { left, top } = viewport.canvas.getBoundingClientRect()
    const point = viewport.canvasToWorld([clientX - left, clientY - top])
    for (const { segmentationId } of segmentationService.getSegmentationRepresentations(viewport.id)) {
      const number = getSegmentIndexAtWorldPoint(segmentationId, point, { viewport })
      if (number) call(segmentationId, number)
    }
  }
  // The viewer keeps these events to itself on their way back up.
  window.addEventListener('pointerdown', onDown, true)
  window.addEventListener('pointerup', onUp, true)
  return () => {
    window.removeEventListener('pointerdown', onDown, true)
    window.removeEventListener('pointerup', onUp, true)
  }
}

/** The lesion's colour on the images, as CSS has it; empty where it is on none. */
export function colour(app, id, lesion) {
  const { segmentationService } = app.servicesManager.services
  const [viewportId] = segmentationService.getViewportIdsWithSegmentation(id)
  // Somebody may have removed it by the viewer's own means.
  if (viewportId === undefined) return ''
  const [red, green, blue] = segmentationService.getSegmentColor(viewportId, id, lesion.number)
  return `rgb(${red} ${green} ${blue})`
}

const isOn = (service, viewportId, id) =>
  service.getSegmentationRepresentations(viewportId, { segmentationId: id }).length > 0

async function until(condition, trouble) {
  const end = Date.now() + LIMIT_MS
  while (!condition()) {
    if (Date.now() > end) throw new Error(trouble)
    await new Promise(resolve => setTimeout(resolve, STEP_MS))
  }
}
