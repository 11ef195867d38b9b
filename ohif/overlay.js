// Overlay of a stored SEG on the viewer's images, without reloading the page.
import { librariesOf } from './host.js'
import { day } from './texts.js'

const TIMEOUT_MS = 30000
const POLL_MS = 100
const LAYER_TIMEOUT_MS = 2000
// A longer way between pressing and releasing the mouse button is a drag. Screen pixels.
const MAX_CLICK_PX = 3
// Highlight of the lesion that is jumped to: opacity, duration in ms, whether other lesions are hidden.
const HIGHLIGHT = [0.9, 750, false]

/** Return the display set of a stored object; load it from the PACS if the viewer does not know it yet.
 *
 * Of several versions in a series, the viewer first adds the last one. Each further query adds another unknown version. */
export async function displaySetOf(app, study, { series_instance_uid: series, sop_instance_uid: sopInstanceUid }) {
  const { displaySetService } = app.servicesManager.services
  const seriesDisplaySets = () => displaySetService.getDisplaySetsForSeries(series) ?? []
  // A later report joins the display set of the first one in its series, which keeps its UID. A display set of an unsupported
  // object has no UID.
  const objectsOf = displaySet => [displaySet, ...displaySet.instances ?? []]
  const findObject = () => seriesDisplaySets()
    .find(displaySet => objectsOf(displaySet).some(({ SOPInstanceUID }) => SOPInstanceUID === sopInstanceUid))
  const deadline = Date.now() + TIMEOUT_MS
  while (!findObject()) {
    if (Date.now() > deadline) throw new Error('the viewer does not find the stored object')
    const count = seriesDisplaySets().length
    const [source] = app.extensionManager.getActiveDataSource()
    // The viewer queries a study's metadata once and caches the answer under this key.
    const cacheKey = `${source.getConfig().name}:${study}`
    source.deleteStudyMetadataPromise(cacheKey)
    await source.retrieve.series.metadata({ StudyInstanceUID: study, filters: { seriesInstanceUID: [series] } })
    source.deleteStudyMetadataPromise(cacheKey)
    await waitUntil(() => findObject() || seriesDisplaySets().length > count, 'the viewer does not find the stored object')
  }
  return findObject()
}

/** Return the display set of the images in the active viewport, without overlays. */
export function activeImages(app) {
  const { displaySetService, viewportGridService } = app.servicesManager.services
  const { activeViewportId, viewports } = viewportGridService.getState()
  const [uid] = viewports.get(activeViewportId)?.displaySetInstanceUIDs ?? []
  return uid && displaySetService.getDisplaySetByUID(uid)
}

/** Return the study of the active viewport, or the first study to be opened before there is a viewport. */
export function activeStudy(app) {
  const [first] = app.servicesManager.services.displaySetService.getActiveDisplaySets()
  return (activeImages(app) ?? first)?.StudyInstanceUID
    ?? new URLSearchParams(location.search).get('StudyInstanceUIDs')?.split(',')[0]
}

/** Return the study's date and description as text, as far as the viewer knows them. */
export function studyTitle(app, study) {
  const images = app.servicesManager.services.displaySetService.getActiveDisplaySets()
    .find(({ StudyInstanceUID, instances }) => StudyInstanceUID === study && instances?.length)
  const { StudyDate: date, StudyDescription: description } = images?.instances[0] ?? {}
  return [day(date), description].filter(Boolean).join(', ')
}

const imagesDisplaySet = (app, { series_instance_uid: series }) =>
  app.servicesManager.services.displaySetService.getDisplaySetsForSeries(series)?.[0]

/** Return the DICOM attributes of the segmented images; empty if the viewer does not have them. */
export const attributesOf = (app, document) => imagesDisplaySet(app, document)?.instances?.[0] ?? {}

/** Show the segmented images in the active viewport. */
export async function openImages(app, document) {
  const viewportId = app.servicesManager.services.viewportGridService.getActiveViewportId()
  const { displaySetInstanceUID } = imagesDisplaySet(app, document)
  await app.commandsManager.run('setDisplaySetsForViewports', {
    viewportsToUpdate: [{ viewportId, displaySetInstanceUIDs: [displaySetInstanceUID] }],
  })
  await waitUntil(() => showsImagesOf(app, viewportId, document), 'the viewer does not show the images')
}

/** Call listener when the active viewport or its content may have changed; return an unsubscribe function. */
export function onActiveViewport(app, listener) {
  const { viewportGridService } = app.servicesManager.services
  const { ACTIVE_VIEWPORT_ID_CHANGED, GRID_STATE_CHANGED } = viewportGridService.EVENTS
  const subscriptions = [ACTIVE_VIEWPORT_ID_CHANGED, GRID_STATE_CHANGED]
    .map(event => viewportGridService.subscribe(event, listener))
  // The viewer announces a change of its grid before making it.
  const unsubscribers = [...subscriptions.map(({ unsubscribe }) => unsubscribe), onNewImages(app, listener)]
  return () => unsubscribers.forEach(unsubscribe => unsubscribe())
}

/** Return the SEG's display set; undefined before it is loaded. */
const segDisplaySet = (app, { series_instance_uid: series, sop_instance_uid: sopInstanceUid }) =>
  app.servicesManager.services.displaySetService.getDisplaySetsForSeries(series)
    ?.find(displaySet => displaySet.SOPInstanceUID === sopInstanceUid)

/** Return whether a viewport shows the segmented images. This is the only rule for everything drawn on images.
 *
 * Other series have other pixels, and other frames of reference have other positions, even within a study. Return undefined
 * if the viewport is empty or shows only a segmentation. */
function showsImagesOf(app, viewportId, { study_instance_uid: study, series_instance_uid: series, segmentation }) {
  const { displaySetService, viewportGridService } = app.servicesManager.services
  const frameOf = ({ instance, instances }) => (instances?.[0] ?? instance)?.FrameOfReferenceUID
  const seg = segDisplaySet(app, segmentation)
  const images = viewportGridService.getState().viewports.get(viewportId)?.displaySetInstanceUIDs
    ?.map(uid => displaySetService.getDisplaySetByUID(uid)).filter(displaySet => displaySet && !displaySet.isDerivedDisplaySet)
  if (!images?.length) return undefined
  return images.some(displaySet => displaySet.StudyInstanceUID === study && displaySet.SeriesInstanceUID === series
    && (!seg || frameOf(seg) === frameOf(displaySet)))
}

const viewportIds = app => [...app.servicesManager.services.viewportGridService.getState().viewports.keys()]

/** Show the document's SEG in every viewport with the segmented images, and remove it from all others.
 *
 * Return the viewer's id of the segmentation; resolves to null once isCancelled() is true. */
export async function show(app, document, isCancelled) {
  const { cornerstoneViewportService, segmentationService } = app.servicesManager.services
  const displaySet = await displaySetOf(app, document.study_instance_uid, document.segmentation)
  const id = displaySet.displaySetInstanceUID
  // After a reload of the page, viewports exist before their content. That may be another object than images.
  await waitUntil(() => isCancelled() || hasContent(app), 'the viewer does not show the images')
  for (const viewportId of viewportIds(app)) {
    if (isCancelled()) return null
    const shouldShow = showsImagesOf(app, viewportId, document)
    if (shouldShow === undefined || shouldShow === hasSegmentation(segmentationService, viewportId, id)) continue
    // After a reload of the page, the viewer lists a viewport before creating it.
    const isReady = () => isCancelled() || cornerstoneViewportService.getViewportInfo(viewportId)
    await waitUntil(isReady, 'the viewer does not show the images')
    if (shouldShow) await addLayer(app, viewportId, id, isCancelled)
    else await removeLayer(app, viewportId, id)
  }
  return isCancelled() ? null : id
}

/** Create an empty segmentation on the document's images and return the viewer's id of it. Show the images first if no
 * viewport shows them. */
export async function createEmpty(app, document, label) {
  if (!isInView(app, document)) await openImages(app, document)
  const viewportId = viewportIds(app).find(id => showsImagesOf(app, id, document))
  const { displaySetInstanceUID } = imagesDisplaySet(app, document)
  const options = { displaySetInstanceUID, label, createInitialSegment: true }
  return app.commandsManager.run('createLabelmapForViewport', { viewportId, options })
}

async function addLayer(app, viewportId, id, isCancelled) {
  const { segmentationService } = app.servicesManager.services
  const restoreSlice = rememberSlice(app, viewportId)
  app.commandsManager.runCommand('addDisplaySetAsLayer', { viewportId, displaySetInstanceUID: id })
  await waitUntil(() => isCancelled() || hasSegmentation(segmentationService, viewportId, id), 'the viewer does not draw it')
  if (!isCancelled()) restoreSlice()
}

/** Call listener when a viewport gets other images, which remove its overlay; return an unsubscribe function. */
export function onNewImages(app, listener) {
  const { cornerstoneViewportService } = app.servicesManager.services
  const { unsubscribe } = cornerstoneViewportService.subscribe(
    cornerstoneViewportService.EVENTS.VIEWPORT_DATA_CHANGED, listener,
  )
  return unsubscribe
}

/** Call listener when the viewer lists other series; return an unsubscribe function. */
export function onNewSeries(app, listener) {
  const { displaySetService } = app.servicesManager.services
  const { unsubscribe } = displaySetService.subscribe(displaySetService.EVENTS.DISPLAY_SETS_ADDED, listener)
  return unsubscribe
}

/** Remove the segmentation from the images. It stays in the PACS. */
export async function hide(app, id) {
  for (const viewportId of app.servicesManager.services.segmentationService.getViewportIdsWithSegmentation(id)) {
    await removeLayer(app, viewportId, id)
  }
}

/** Remove the segmentation and its edits from the viewer. When shown again, it is loaded from the PACS. */
export async function forget(app, id) {
  await hide(app, id)
  const { displaySetService, segmentationService } = app.servicesManager.services
  segmentationService.remove(id)
  // The viewer would otherwise consider it loaded.
  const displaySet = displaySetService.getDisplaySetByUID(id)
  if (displaySet) displaySet.segments = {}
}

/** Make this the lesion that the brush and the eraser edit, if the viewer has the segmentation. */
export function setActiveLesion(app, id, { number }) {
  const { segmentationService } = app.servicesManager.services
  if (segmentationService.getSegmentation(id)) segmentationService.setActiveSegment(id, number)
}

async function removeLayer(app, viewportId, id) {
  const restoreSlice = rememberSlice(app, viewportId)
  const dataChange = new Promise(resolve => {
    const unsubscribe = onNewImages(app, event => event.viewportId === viewportId && resolve(unsubscribe()))
    setTimeout(() => resolve(unsubscribe()), LAYER_TIMEOUT_MS)
  })
  app.commandsManager.runCommand('removeDisplaySetLayer', { viewportId, displaySetInstanceUID: id })
  await dataChange
  // The viewer may restore a layer from an earlier view of these images. Its own service names the removal differently in
  // each version.
  librariesOf(app).cornerstoneTools.segmentation.removeSegmentationRepresentations(viewportId, { segmentationId: id })
  restoreSlice()
}

/** Return a function that restores the viewport's current slice. A change of layers resets it to the first slice. */
function rememberSlice(app, viewportId) {
  const viewport = () => app.servicesManager.services.cornerstoneViewportService.getCornerstoneViewport(viewportId)
  const sliceReference = viewport()?.getViewReference()
  return () => {
    if (!sliceReference || !viewport()?.isReferenceViewable(sliceReference, { withNavigation: true })) return
    viewport().setViewReference(sliceReference)
    viewport().render()
  }
}

/** Return whether any viewport shows the segmented images. */
const isInView = (app, document) => viewportIds(app).some(viewportId => showsImagesOf(app, viewportId, document))

/** Return whether the viewports show something, but not the segmented images. */
export const isOutOfView = (app, document) => hasContent(app) && !isInView(app, document)

/** Return whether the viewer has the segmented images. */
export const hasImages = (app, document) => imagesDisplaySet(app, document) !== undefined

/** Return whether any viewport shows something. */
const hasContent = app => [...app.servicesManager.services.viewportGridService.getState().viewports.values()]
  .some(({ displaySetInstanceUIDs }) => displaySetInstanceUIDs?.length)

/** Wait until the volume viewports have drawn the segmentation they list, at most a moment. When the viewer adds its volume, it
 * resets the planes and moves them to the nearest slice. */
export async function untilDrawn(app, document) {
  const { cornerstoneViewportService, segmentationService } = app.servicesManager.services
  const id = segDisplaySet(app, document.segmentation)?.displaySetInstanceUID
  const isDrawn = viewportId => {
    const viewport = cornerstoneViewportService.getCornerstoneViewport(viewportId)
    return !viewport?.getAllVolumeIds || !hasSegmentation(segmentationService, viewportId, id)
      || viewport.getActors().some(({ representationUID }) => representationUID?.startsWith(`${id}-Labelmap`))
  }
  const deadline = Date.now() + LAYER_TIMEOUT_MS
  await waitUntil(() => Date.now() > deadline || !id || viewportIds(app).every(isDrawn), '')
}

/** Move every viewport with the document's images to the lesion's measured slice; return false if there is no viewport. */
export function jump(app, document, lesion) {
  const { cornerstoneViewportService, segmentationService } = app.servicesManager.services
  const [from, to] = lesion.long_axis_lps
  const middle = from.map((value, i) => (value + to[i]) / 2)
  const matchingIds = viewportIds(app).filter(viewportId => showsImagesOf(app, viewportId, document))
  for (const viewportId of matchingIds) {
    cornerstoneViewportService.getCornerstoneViewport(viewportId)?.jumpToWorld(middle)
    const id = segDisplaySet(app, document.segmentation)?.displaySetInstanceUID
    if (id && hasSegmentation(segmentationService, viewportId, id)) {
      segmentationService.highlightSegment(id, lesion.number, viewportId, ...HIGHLIGHT)
    }
  }
  return matchingIds.length > 0
}

let outlinesOnly = false
/** Return whether lesions are drawn as outlines without fill. */
export const showsOutlinesOnly = () => outlinesOnly

export function setOutlinesOnly(app, isOn) {
  outlinesOnly = isOn
  const style = { renderFill: !isOn, renderFillInactive: !isOn }
  app.servicesManager.services.segmentationService.setStyle({ type: 'Labelmap' }, style)
}

/** Call listener(segmentation id, segment number) when a segment is clicked on an image; return an unsubscribe function. The
 * id is the viewer's. */
export function onLesionClick(app, listener) {
  const { cornerstoneViewportService, segmentationService } = app.servicesManager.services
  let start = [NaN, NaN]
  const onDown = ({ clientX, clientY }) => { start = [clientX, clientY] }
  const onUp = ({ target, clientX, clientY }) => {
    if (!(Math.hypot(clientX - start[0], clientY - start[1]) <= MAX_CLICK_PX)) return
    const viewport = viewportIds(app).map(id => cornerstoneViewportService.getCornerstoneViewport(id))
      .find(candidate => candidate?.element?.contains(target))
    if (!viewport) return
    const { left, top } = viewport.canvas.getBoundingClientRect()
    const point = viewport.canvasToWorld([clientX - left, clientY - top])
    for (const { segmentationId } of segmentationService.getSegmentationRepresentations(viewport.id)) {
      const number = segmentAt(app, viewport, segmentationId, point)
      if (number) listener(segmentationId, number)
    }
  }
  // The viewer stops these events while they bubble. Listen in the capture phase.
  window.addEventListener('pointerdown', onDown, true)
  window.addEventListener('pointerup', onUp, true)
  return () => {
    window.removeEventListener('pointerdown', onDown, true)
    window.removeEventListener('pointerup', onUp, true)
  }
}

/** Return the number of the segment at a point of the patient; 0 or undefined if there is none. */
function segmentAt(app, viewport, id, point) {
  const { cornerstone, cornerstoneTools } = librariesOf(app)
  const { volumeId } = cornerstoneTools.segmentation.state.getSegmentation(id).representationData.Labelmap ?? {}
  const volume = viewport.getAllVolumeIds && volumeId && cornerstone.cache.getVolume(volumeId)
  // The function of OHIF 3.12 fails on volumes.
  return volume
    ? volume.voxelManager.getAtIJKPoint(cornerstone.utilities.transformWorldToIndex(volume.imageData, point))
    : cornerstoneTools.utilities.segmentation.getSegmentIndexAtWorldPoint(id, point, { viewport })
}

/** Return the CSS colour of the lesion on the images, where the user may have changed it. id: the viewer's. */
export function colourOf(app, id, lesion) {
  const { segmentationService } = app.servicesManager.services
  const [viewportId] = segmentationService.getViewportIdsWithSegmentation(id)
  // The user may have removed it with the viewer's own controls.
  if (viewportId === undefined) return lesion.colour
  const [red, green, blue] = segmentationService.getSegmentColor(viewportId, id, lesion.number)
  return `rgb(${red} ${green} ${blue})`
}

const hasSegmentation = (service, viewportId, id) =>
  service.getSegmentationRepresentations(viewportId, { segmentationId: id }).length > 0

async function waitUntil(condition, message) {
  const deadline = Date.now() + TIMEOUT_MS
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(message)
    await new Promise(resolve => setTimeout(resolve, POLL_MS))
  }
}
