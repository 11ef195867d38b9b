// The two diameters of every lesion as lines on the images, where the database says they lie.
import { TOOL_GROUPS, librariesOf } from './host.js'

const NAME = 'MetScopeAxes'
const PARALLEL = 0.99
const COLOUR = '#ffffff'

const minus = (a, b) => a.map((value, i) => value - b[i])
const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0)
const cross = ([a, b, c], [d, e, f]) => [b * f - c * e, c * d - a * f, a * e - b * d]
const unit = a => a.map(value => value / Math.hypot(...a))

/** The lines of a segmentation's lesions: ends and normal in LPS, mm; where they lie, by slice or by plane. */
export function linesOf(lesions) {
  return lesions.flatMap(lesion => {
    const across = minus(...lesion.long_axis_lps), along = minus(...lesion.short_axis_lps)
    const normal = lesion.plane?.normal_lps ?? unit(cross(across, along))
    // A lesion of one row of voxels has no plane of its own.
    if (!normal.every(Number.isFinite)) return []
    return ['long', 'short'].map(axis => ({
      id: `metscope-${lesion.tracking_uid}`,
      axis,
      ends: lesion[`${axis}_axis_lps`],
      normal,
      slice: lesion.slice,
      half_mm: lesion.plane && lesion.plane.spacing_mm / 2,
    }))
  })
}

/** Whether a viewport shows the plane of the line. place: its camera's viewPlaneNormal and focalPoint; its imageId, of
 * a stack; its spacing_mm, of a volume. */
export function isShown(line, place) {
  if (Math.abs(dot(place.viewPlaneNormal, line.normal)) < PARALLEL) return false
  const { sop_instance_uid: uid, frame } = line.slice
  if (place.imageId && uid) {
    return place.imageId.includes(`/${uid}/`) && (frame === null || place.imageId.endsWith(`/frames/${frame}`))
  }
  const half = line.half_mm ?? place.spacing_mm / 2
  return line.ends.every(end => Math.abs(dot(minus(end, place.focalPoint), line.normal)) <= half)
}

function placeOf(viewport) {
  const { viewPlaneNormal, focalPoint } = viewport.getCamera()
  if (viewport.type === 'stack') return { viewPlaneNormal, focalPoint, imageId: viewport.getCurrentImageId() }
  const { spacing, direction } = viewport.getImageData() ?? { spacing: [0, 0, 0], direction: [] }
  // Of the volume's three steps the one that the view looks along.
  const along = [0, 3, 6].map(first => Math.abs(dot(direction.slice(first, first + 3), viewPlaneNormal)))
  return { viewPlaneNormal, focalPoint, spacing_mm: spacing[along.indexOf(Math.max(...along))] }
}

// What the tool draws; the viewer keeps the tool, however often a mode is entered.
let lines = []
let isOver = () => false
let known = false

/** Lets the viewports of the mode that is being entered draw lines. */
export function enterAxes(app) {
  const { cornerstoneTools } = librariesOf(app)
  if (!known) cornerstoneTools.addTool(toolOf(cornerstoneTools))
  known = true
  lines = []
  for (const group of TOOL_GROUPS) {
    app.servicesManager.services.toolGroupService.addToolsToToolGroup(group, { enabled: [{ toolName: NAME }] })
  }
}

/** The lesions' lines instead of those that were drawn before, over the images that show the segmentation with that id of
 * the viewer's; null: none. */
export function drawAxes(app, id, lesions) {
  const { segmentationService } = app.servicesManager.services
  lines = id === null ? [] : linesOf(lesions)
  isOver = viewportId => segmentationService.getViewportIdsWithSegmentation(id).includes(viewportId)
  const viewports = app.servicesManager.services.viewportGridService.getState().viewports.keys()
  librariesOf(app).cornerstoneTools.utilities.triggerAnnotationRenderForViewportIds([...viewports])
}

function toolOf(cornerstoneTools) {
  return class extends cornerstoneTools.AnnotationDisplayTool {
    static toolName = NAME

    constructor(properties = {}, defaults = { supportedInteractionTypes: [], configuration: {} }) {
      super(properties, defaults)
    }

    renderAnnotation = ({ viewport }, svg) => {
      if (!lines.length || !isOver(viewport.id)) return false
      const place = placeOf(viewport)
      const here = lines.filter(line => isShown(line, place))
      for (const { id, axis, ends } of here) {
        const [from, to] = ends.map(end => viewport.worldToCanvas(end))
        cornerstoneTools.drawing.drawLine(svg, id, axis, from, to, { color: COLOUR, width: 1.5, shadow: true })
      }
      return here.length > 0
    }
  }
}
