// Lines on the images for the two diameters of every lesion, at the positions from the database.
import { TOOL_GROUPS, librariesOf } from './host.js'
import { labelOf } from './table.js'
import { number } from './texts.js'

const NAME = 'MetScopeAxes'
const MIN_PARALLEL_COSINE = 0.99
const COLOUR = '#ffffff'
// Distance between line and words, and the largest width of a letter, in screen pixels.
const WORDS_GAP_PX = 6, LETTER_WIDTH_PX = 8

const minus = (a, b) => a.map((value, i) => value - b[i])
const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0)
const cross = ([a, b, c], [d, e, f]) => [b * f - c * e, c * d - a * f, a * e - b * d]
const unit = a => a.map(value => value / Math.hypot(...a))

/** Return the lines of a segmentation's lesions. Ends are in LPS mm. The slice or the plane gives the position. The long
 * axis bears the lesion's label and both lengths in mm. */
export function linesOf(lesions) {
  return lesions.flatMap(lesion => {
    const across = minus(...lesion.long_axis_lps), along = minus(...lesion.short_axis_lps)
    const normal = lesion.plane?.normal_lps ?? unit(cross(across, along))
    // The axes of a lesion with a single row of voxels span no plane.
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

/** Return whether a viewport shows the plane of the line. view: the camera's viewPlaneNormal and focalPoint, with imageId
 * for a stack and spacing_mm for a volume. */
export function isShown(line, view) {
  if (Math.abs(dot(view.viewPlaneNormal, line.normal)) < MIN_PARALLEL_COSINE) return false
  const { sop_instance_uid: uid, frame } = line.slice
  if (view.imageId && uid) {
    return view.imageId.includes(`/${uid}/`) && (frame === null || view.imageId.endsWith(`/frames/${frame}`))
  }
  const half = line.half_mm ?? view.spacing_mm / 2
  return line.ends.every(end => Math.abs(dot(minus(end, view.focalPoint), line.normal)) <= half)
}

/** Return the start (x, y) of a line's words in pixels: at its right end, or at its left end if they do not fit there. */
export function placeOfWords(words, from, to, width) {
  const [left, right] = from[0] < to[0] ? [from, to] : [to, from]
  const length = words.length * LETTER_WIDTH_PX
  return right[0] + WORDS_GAP_PX + length <= width
    ? [right[0] + WORDS_GAP_PX, right[1]]
    : [Math.max(0, left[0] - WORDS_GAP_PX - length), left[1]]
}

function viewOf(viewport) {
  const { viewPlaneNormal, focalPoint } = viewport.getCamera()
  // The current image may not have arrived yet.
  if (viewport.type === 'stack') return { viewPlaneNormal, focalPoint, imageId: viewport.getCornerstoneImage()?.imageId }
  const { spacing, direction } = viewport.getImageData() ?? { spacing: [0, 0, 0], direction: [] }
  // Use the spacing of the volume's axis closest to the view direction.
  const along = [0, 3, 6].map(first => Math.abs(dot(direction.slice(first, first + 3), viewPlaneNormal)))
  return { viewPlaneNormal, focalPoint, spacing_mm: spacing[along.indexOf(Math.max(...along))] }
}

// Lines to draw, by the viewer's segmentation id. The viewer keeps the tool when a mode is entered again.
const linesBySegmentation = new Map()
let segmentationIdsOf = () => []
let isToolAdded = false

/** Enable the lines in the viewports of the mode that is being entered. */
export function enableAxes(app) {
  const { cornerstoneTools } = librariesOf(app)
  if (!isToolAdded) cornerstoneTools.addTool(toolOf(cornerstoneTools))
  isToolAdded = true
  linesBySegmentation.clear()
  for (const group of TOOL_GROUPS) {
    app.servicesManager.services.toolGroupService.addToolsToToolGroup(group, { enabled: [{ toolName: NAME }] })
  }
}

/** Draw the lesions' lines on every image that shows the segmentation. id: the viewer's segmentation id. */
export function drawAxes(app, id, lesions) {
  const { segmentationService, viewportGridService } = app.servicesManager.services
  linesBySegmentation.set(id, linesOf(lesions))
  segmentationIdsOf = viewportId => segmentationService.getSegmentationRepresentations(viewportId)
    .map(({ segmentationId }) => segmentationId)
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
      const lines = segmentationIdsOf(viewport.id).flatMap(id => linesBySegmentation.get(id) ?? [])
      if (!lines.length) return false
      const view = viewOf(viewport)
      const visibleLines = lines.filter(line => isShown(line, view))
      for (const { id, axis, ends, words } of visibleLines) {
        const [from, to] = ends.map(end => viewport.worldToCanvas(end))
        cornerstoneTools.drawing.drawLine(svg, id, axis, from, to, { color: COLOUR, width: 1.5, shadow: true })
        if (!words) continue
        const start = placeOfWords(words, from, to, viewport.canvas.clientWidth)
        cornerstoneTools.drawing.drawTextBox(svg, id, 'words', [words], start, { color: COLOUR, padding: 0 })
      }
      return visibleLines.length > 0
    }
  }
}
