// The panel's texts on a segmentation's lesions, and their CSV file. This module needs no browser.
import { number, phrase, text } from './texts.js'

// The columns that the command line writes.
const COLUMNS = [
  'number', 'name', 'tracking_id', 'volume_ml', 'voxel_count', 'long_axis_mm', 'short_axis_mm', 'feret_mm', 'slices_spanned',
  'mean_probability', 'confidence', 'measurable', 'measurable_reason',
]
const CENTROID_COLUMNS = ['centroid_l_mm', 'centroid_p_mm', 'centroid_s_mm']

// As in names.py: something that shows, and what no name may hold.
const VISIBLE = /(?![\u115f\u1160\u2800\u3164\uffa0])[\p{L}\p{N}\p{P}\p{S}]/u
const REFUSED = /[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\\]/

/** Return the model's confidence in the lesion, 0 to 1: the probability that it is a lesion, or the mean probability of its
 * voxels; null if the model gives neither. */
export const confidenceOf = lesion => lesion.confidence ?? lesion.mean_probability

const valueOf = (lesion, key) => (key === 'confidence' ? confidenceOf(lesion) : lesion[key])
const compareNames = (a, b) => nameOf(a).localeCompare(nameOf(b), undefined, { numeric: true, sensitivity: 'base' })

/** Return the lesions that match the filter in the given order, equal ones by number. words: part of the name. */
export function lesionsOf(document, { key, descending }, { words = '', measurable = false } = {}) {
  const sign = descending ? -1 : 1
  return document.lesions
    .filter(lesion => nameOf(lesion).toLowerCase().includes(words.toLowerCase()) && (lesion.measurable || !measurable))
    .sort((a, b) => sign * (key === 'name' ? compareNames(a, b) : valueOf(a, key) - valueOf(b, key)) || a.number - b.number)
}

/** Return one line of text for each lesion changed by a correction. */
export const changesOf = document =>
  document.changes.map(({ change, name, previous_name, volume_ml, previous_volume_ml }) =>
    text(`change_${change}`, {
      name: name && nameOf({ name }), was: previous_name && nameOf({ name: previous_name }),
      ml: number(volume_ml, 3), was_ml: number(previous_volume_ml, 3),
    }))

/** Return why the lesion is measurable or not, and whether its diameters lie on no slice of the series. */
export const measurableHint = ({ measurable_reason, plane }) =>
  [phrase(measurable_reason), ...(plane ? [text('resampled')] : [])].join('\n')

/** Return the number and the total volume of the visible lesions as text. */
export function totals(document, visibleLesions) {
  const all = document.lesions.length
  const volume = number(visibleLesions.reduce((sum, lesion) => sum + lesion.volume_ml, 0), 3)
  return visibleLesions.length === all
    ? text('total', { count: all, volume })
    : text('total_of', { count: visibleLesions.length, all, volume })
}

// Most letters of a name on an image.
const MAX_LABEL_LETTERS = 24
// The English names that MetScope generates for lesions.
const GENERATED_NAME = /^(Metastasis|Finding) (\d+)$/

/** Return the displayed name of the lesion. A generated name is translated; a user's name is unchanged. */
export const nameOf = ({ name }) => {
  const [, kind, count] = GENERATED_NAME.exec(name) ?? []
  return kind ? text(`name_${kind.toLowerCase()}`, { number: count }) : name
}

/** Return the short name for an image: the number of a generated name, or the beginning of a user's name. */
export const labelOf = lesion => {
  const [, , count] = GENERATED_NAME.exec(lesion.name) ?? []
  return count ?? (lesion.name.length > MAX_LABEL_LETTERS ? `${lesion.name.slice(0, MAX_LABEL_LETTERS).trimEnd()}…` : lesion.name)
}

/** Return the key of the text that says why a lesion cannot have the name; null if it can. */
export function problemOf(name, lesion, document) {
  if (!VISIBLE.test(name)) return 'name_empty'
  if (REFUSED.test(name.trim())) return 'name_refused'
  const hasName = other => [other.name, nameOf(other)].some(otherName => otherName.toLowerCase() === name.trim().toLowerCase())
  return document.lesions.some(other => other.number !== lesion.number && hasName(other)) ? 'name_taken' : null
}

/** Return the job's stage as text, with the remaining time if it is known. */
export function stageText(job) {
  const stage = text(`stage_${job.stage ?? 'queued'}`)
  // A job that takes longer than earlier ones has no remaining time.
  if (!job.estimate_s) return stage
  return text('remaining', { stage, seconds: Math.ceil(job.estimate_s) })
}

/** Return the lesions as CSV with the columns of the command line, and study, series, model, version and slice. It contains
 * no patient data. The decimal separator is always a point. */
export function csv(document) {
  const { study_instance_uid, study_date, series_instance_uid, model, version, corrected_by, created_at } = document
  const result = {
    study_instance_uid, study_date, series_instance_uid, model: model.id, model_version: model.version, version,
    corrected_by, created_at,
  }
  const rows = document.lesions.map(lesion => ({
    ...result,
    ...Object.fromEntries(COLUMNS.map(name => [name, lesion[name]])),
    ...Object.fromEntries(CENTROID_COLUMNS.map((name, axis) => [name, lesion.centroid_lps_mm[axis]])),
    slice_index: lesion.slice.index, slice_sop_instance_uid: lesion.slice.sop_instance_uid, tracking_uid: lesion.tracking_uid,
  }))
  const lines = [Object.keys(rows[0]), ...rows.map(row => Object.values(row))]
  return lines.map(line => line.map(quoteCell).join(',')).join('\r\n') + '\r\n'
}

/** Return a file name with the date of the images, the model and the version. It contains no patient data. */
export const csvName = ({ study_date, model, version }) =>
  `${['lesions', study_date, model.id, `v${version}`].filter(Boolean).join('-')}.csv`

function quoteCell(value) {
  const content = value === null ? '' : String(value)
  // A spreadsheet would take a cell with this beginning for a formula.
  const safe = typeof value === 'string' && /^[=+\-@\t\r]/.test(content) ? `'${content}` : content
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe
}
