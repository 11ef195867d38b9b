// A SEG of the PACS on the viewer's images, without a reload of the page.
const LIMIT_MS = 30000
const STEP_MS = 100
const PATIENCE_MS = 2000

/** The display set of a stored object, loaded from the PACS where the viewer does not know it yet.
 *
 * Of the versions in a series the viewer shows the last one, and at each further look another that it does not know. */
export async function displaySetOf(app, study, { series_instance_uid: series, sop_instance_uid: object }) {
  const { displaySetService } = app.servicesManager.services
  const ofSeries = () => displaySetService.getDisplaySetsForSeries(series) ?? []
  const known = () => ofSeries().find(one => one.SOPInstanceUID === object)
  while (!known()) {
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

/** Lay the SEG over the images of every viewport that can take it.
 *
 * Returns the viewer's id of the segmentation; null where over() says that nobody waits for it any more. */
export async function show(app, study, stored, over) {
  const { cornerstoneViewportService, viewportGridService, segmentationService } = app.servicesManager.services
  const displaySet = await displaySetOf(app, study, stored)
  const id = displaySet.displaySetInstanceUID
  let trouble = new Error('no image is on the screen')
  for (const [viewportId, viewport] of viewportGridService.getState().viewports) {
    if (over()) return null
    if (!viewport.displaySetInstanceUIDs?.length || isOn(segmentationService, viewportId, id)) continue
    // After a reload of the page the viewer lists a viewport before it has made it.
    const made = () => over() || cornerstoneViewportService.getViewportInfo(viewportId)
    await until(made, 'the viewer does not show the images')
    const goBack = placeOf(app, viewportId)
    app.commandsManager.runCommand('addDisplaySetAsLayer', { viewportId, displaySetInstanceUID: id })
    const drawn = () => over() || isOn(segmentationService, viewportId, id)
    await until(drawn, 'the viewer does not draw it').catch(error => { trouble = error })
    if (!over()) goBack()
  }
  if (over()) return null
  if (!segmentationService.getViewportIdsWithSegmentation(id).length) throw trouble
  return id
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
    const goBack = placeOf(app, viewportId)
    const changed = new Promise(done => {
      const end = onNewImages(app, event => event.viewportId === viewportId && done(end()))
      setTimeout(() => done(end()), PATIENCE_MS)
    })
    app.commandsManager.runCommand('removeDisplaySetLayer', { viewportId, displaySetInstanceUID: id })
    await changed
    goBack()
  }
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

/** Every viewport that shows the segmentation goes to the lesion's centre. */
export function jump(app, id, lesion) {
  const { segmentationService } = app.servicesManager.services
  for (const viewportId of segmentationService.getViewportIdsWithSegmentation(id)) {
    segmentationService.jumpToSegmentCenter(id, lesion.number, viewportId)
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
