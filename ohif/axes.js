// The two diameters of every lesion as lines on the images, where the database says they lie.
import { TOOL_GROUPS, librariesOf } from './host.js'
import { labelOf } from './table.js'
import { number } from './texts.js'

const NAME = 'MetScopeAxes'
const PARALLEL = 0.99
const COLOUR = '#ffffff'
// Of the words from the lesion, and of a letter at most, in pixels of the screen.
const AWAY = 6, LETTER = 8

const minus = (a, b) => a.map((value, i) => value - b[i])
const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0)
const cross = ([a, b, c], [d, e, f]) => [b * f - c * e, c * d - a * f, a * e - b * d]
const unit = a => a.map(value => value / Math.hypot(...a))

/** The lines of a segmentation's lesions: ends and normal in LPS, mm; where they lie, by slice or by plane. The long one bears
 * the lesion's label and both lengths in mm. */
export function linesOf(lesions) {
  return lesions.flatMap(lesion => {
    const across = minus(...lesion.long_axis_lps), along = minus(...lesion.short_axis_lps)
    const normal = lesion.plane?.normal_lps ?? unit(cross(across, along))
    // A lesion of one row of voxels has no plane of its own.
    if (!normal.every(Number.isFinite)) return []
    return ['long', 'short'].map(axis => ({
      id: `metscope-${lesion.tracking_uid}`,
      axis,
      words: axis === 'long' ? `${labelOf(lesion)}: ${number(lesion.long_axis_mm, 1)} × ${number(lesion.short_axis_mm, 1)} mm` : '',
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

/** Where words begin that stand at the right end of a line, or at its left end where they would not fit; (x, y), pixels. */
export function placeOfWords(words, from, to, width) {
  const [left, right] = from[0] < to[0] ? [from, to] : [to, from]
  const length = words.length * LETTER
  return right[0] + AWAY + length <= width ? [right[0] + AWAY, right[1]] : [Math.max(0, left[0] - AWAY - length), left[1]]
}

function placeOf(viewport) {
  const { viewPlaneNormal, focalPoint } = viewport.getCamera()
  // Its current image may not have arrived yet.
  if (viewport.type === 'stack') return { viewPlaneNormal, focalPoint, imageId: viewport.getCornerstoneImage()?.imageId }
  const { spacing, direction } = viewport.getImageData() ?? { spacing: [0, 0, 0], direction: [] }
  // Of the volume's three steps the one that the view looks along.
  const along = [0, 3, 6].map(first => Math.abs(dot(direction.slice(first, first + 3), viewPlaneNormal)))
  return { viewPlaneNormal, focalPoint, spacing_mm: spacing[along.indexOf(Math.max(...along))] }
}

// What the tool draws, by the viewer's id of the segmentation; the viewer keeps the tool, however often a mode is entered.
const drawn = new Map()
let layersOf = () => []
let known = false

/** Lets the viewports of the mode that is being entered draw lines. */
export function enterAxes(app) {
  const { cornerstoneTools } = librariesOf(app)
  if (!known) cornerstoneTools.addTool(toolOf(cornerstoneTools))
  known = true
  drawn.clear()
  for (const group of TOOL_GROUPS) {
    app.servicesManager.services.toolGroupService.addToolsToToolGroup(group, { enabled: [{ toolName: NAME }] })
  }
}

/** Draw the lesions' lines over every image that shows the segmentation with that id of the viewer's. */
export function drawAxes(app, id, lesions) {
  const { segmentationService, viewportGridService } = app.servicesManager.services
  drawn.set(id, linesOf(lesions))
  layersOf = viewportId => segmentationService.getSegmentationRepresentations(viewportId).map(({ segmentationId }) => segmentationId)
  const viewports = viewportGridService.getState().viewports.keys()
  librariesOf(app).cornerstoneTools.utilities.triggerAnnotationRenderForViewportIds([...viewports])
}

function toolOf(cornerstoneTools) {
  return class extends cornerstoneTools.AnnotationDisplayTool {
    static toolName = NAME

    constructor(properties = {}, defaults = { supportedInteractionTypes: [], configuration: {} }) {
      super(properties, defaults)
    }

    renderAnnotation = ({ viewport }, svg) => {
      const lines = layersOf(viewport.id).flatMap(id => drawn.get(id) ?? [])
      if (!lines.length) return false
      const place = placeOf(viewport)
      const here = lines.filter(line => isShown(line, place))
      for (const { id, axis, ends, words } of here) {
        const [from, to] = ends.map(end => viewport.worldToCanvas(end))
        cornerstoneTools.drawing.drawLine(svg, id, axis, from, to, { color: COLOUR, width: 1.5, shadow: true })
        if (!words) continue
        const at = placeOfWords(words, from, to, viewport.canvas.clientWidth)
        cornerstoneTools.drawing.drawTextBox(svg, id, 'words', [words], at, { color: COLOUR, padding: 0 })
      }
      return here.length > 0
    }
  }
}
