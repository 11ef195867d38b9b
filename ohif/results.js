// A study's results: which of them are to be chosen from, and the versions of each. No browser is needed for it.
import { moment, text } from './texts.js'

/** Whether the archive does not have the version any more. */
export const isLost = document => document.segmentation.missing_since !== null
const isOfOne = (a, b) => a.series_instance_uid === b.series_instance_uid && a.model.id === b.model.id
const newestFirst = (a, b) => new Date(b.created_at) - new Date(a.created_at) || b.version - a.version

/** The versions of the result that a document is one of, the newest first; those that the archive has lost last. */
export const versionsOf = (documents, document) =>
  documents.filter(other => isOfOne(other, document)).sort((a, b) => isLost(a) - isLost(b) || b.version - a.version)

/** Of each series and model the newest version; those first that a person corrected, then the newest. */
export function resultsOf(documents) {
  const results = new Set(documents.map(document => versionsOf(documents, document)[0]))
  return [...results].sort((a, b) =>
    isLost(a) - isLost(b) || Boolean(b.corrected_by) - Boolean(a.corrected_by) || newestFirst(a, b))
}

/** The model as it is called where it is chosen; drawn by hand, it is no model's. models: as the API lists them. */
export function modelOf(document, models) {
  const { id, version } = document.model
  if (id === 'by-hand') return text('by_hand')
  const title = models.find(model => model.id === id)?.title
  // Several models may bear one title.
  const isPlain = title && models.filter(model => model.title === title).length === 1
  return `${isPlain ? title : id} ${version}`
}

/** What a result is called among others. */
export const resultText = (document, models) => text(document.corrected_by ? 'result_corrected' : 'result', {
  model: modelOf(document, models), version: document.version, who: document.corrected_by,
})

/** Who made a version, and when. */
export const versionText = (document, models) => text('version', {
  version: document.version, who: document.corrected_by ?? modelOf(document, models), when: moment(document.created_at),
})
