// What the panel says of a segmentation's lesions; no browser is needed for it.
import { number, text } from './texts.js'

// As the command line writes them, and where the lesion was measured.
const COLUMNS = [
  'number', 'name', 'tracking_id', 'volume_ml', 'voxel_count', 'long_axis_mm', 'short_axis_mm', 'feret_mm', 'slices_spanned',
  'mean_probability', 'confidence', 'measurable', 'measurable_reason',
]
const CENTROID = ['centroid_l_mm', 'centroid_p_mm', 'centroid_s_mm']

/** How sure the model is of the lesion, 0 to 1: how probable it is that it is one, else its voxels' mean probability; null
 * where the model says neither. */
export const sureness = lesion => lesion.confidence ?? lesion.mean_probability

const valueOf = (lesion, key) => (key === 'confidence' ? sureness(lesion) : lesion[key])
const byName = (a, b) => nameOf(a).localeCompare(nameOf(b), undefined, { numeric: true, sensitivity: 'base' })

/** The lesions in that order, equal ones by their number; those whose names hold the words, and are measurable. */
export function lesionsOf(document, { key, descending }, { words = '', measurable = false } = {}) {
  const sign = descending ? -1 : 1
  return document.lesions
    .filter(lesion => nameOf(lesion).toLowerCase().includes(words.toLowerCase()) && (lesion.measurable || !measurable))
    .sort((a, b) => sign * (key === 'name' ? byName(a, b) : valueOf(a, key) - valueOf(b, key)) || a.number - b.number)
}

/** What a correction made of the lesions, a line for each. */
export const changesOf = document =>
  document.changes.map(({ change, name, previous_name, volume_ml, previous_volume_ml }) =>
    text(`change_${change}`, {
      name: name && nameOf({ name }), was: previous_name && nameOf({ name: previous_name }),
      ml: number(volume_ml, 3), was_ml: number(previous_volume_ml, 3),
    }))

/** How many lesions there are and their volume; where some are filtered out, of those that are shown. */
export function totals(document, shown) {
  const all = document.lesions.length
  const volume = number(shown.reduce((sum, lesion) => sum + lesion.volume_ml, 0), 3)
  return shown.length === all
    ? text('total', { count: all, volume })
    : text('total_of', { count: shown.length, all, volume })
}

// Letters of a name that are put on an image.
const LABEL = 24
// The names that MetScope gives lesions, by what it calls them in English.
const NUMBERED = /^(Metastasis|Finding) (\d+)$/

/** The lesion's name as it is displayed: MetScope's own in the reader's language, a person's as it is. */
export const nameOf = ({ name }) => {
  const [, kind, count] = NUMBERED.exec(name) ?? []
  return kind ? text(`name_${kind.toLowerCase()}`, { number: count }) : name
}

/** The lesion's name as there is room for it on an image: of MetScope's own the number, of a person's the beginning. */
export const labelOf = lesion => {
  const [, , count] = NUMBERED.exec(lesion.name) ?? []
  return count ?? (lesion.name.length > LABEL ? `${lesion.name.slice(0, LABEL).trimEnd()}…` : lesion.name)
}

/** Why a lesion cannot have that name, by the name of the text that says so; null: it can. */
export function problemOf(name, lesion, document) {
  if (!name.trim()) return 'name_empty'
  const same = other => [other.name, nameOf(other)].some(used => used.toLowerCase() === name.trim().toLowerCase())
  return document.lesions.some(other => other.number !== lesion.number && same(other)) ? 'name_taken' : null
}

/** The job's stage in words, with the time that is left where it is known. */
export function stageText(job) {
  const stage = text(`stage_${job.stage ?? 'queued'}`)
  // One that takes longer than those before it has none left.
  if (!job.estimate_s) return stage
  return text('remaining', { stage, seconds: Math.ceil(job.estimate_s) })
}

/** One line for each lesion, as the command line writes it; study, series, model, version and slice go along, no patient.
 * Points, never commas, in numbers. */
export function csv(document) {
  const { study_instance_uid, study_date, series_instance_uid, model, version, corrected_by, created_at } = document
  const result = {
    study_instance_uid, study_date, series_instance_uid, model: model.id, model_version: model.version, version,
    corrected_by, created_at,
  }
  const rows = document.lesions.map(lesion => ({
    ...result,
    ...Object.fromEntries(COLUMNS.map(name => [name, lesion[name]])),
    ...Object.fromEntries(CENTROID.map((name, axis) => [name, lesion.centroid_lps_mm[axis]])),
    slice_index: lesion.slice.index, slice_sop_instance_uid: lesion.slice.sop_instance_uid, tracking_uid: lesion.tracking_uid,
  }))
  const lines = [Object.keys(rows[0]), ...rows.map(row => Object.values(row))]
  return lines.map(line => line.map(quoted).join(',')).join('\r\n') + '\r\n'
}

/** A name for the file: the date of the images, the model and the version, no patient. */
export const csvName = ({ study_date, model, version }) =>
  `${['lesions', study_date, model.id, `v${version}`].filter(Boolean).join('-')}.csv`

function quoted(value) {
  const content = value === null ? '' : String(value)
  // A cell that begins like this is a formula to a spreadsheet.
  const safe = typeof value === 'string' && /^[=+\-@\t\r]/.test(content) ? `'${content}` : content
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe
}
