// A study's results: the ones to choose from, and the versions of each. This module needs no browser.
import { moment, text } from './texts.js'

/** Return whether the archive no longer has the version. */
export const isLost = document => document.segmentation.missing_since !== null
const isSameResult = (a, b) => a.series_instance_uid === b.series_instance_uid && a.model.id === b.model.id
const newestFirst = (a, b) => new Date(b.created_at) - new Date(a.created_at) || b.version - a.version

/** Return all versions of the document's result, the newest first, and those that the archive has lost last. */
export const versionsOf = (documents, document) =>
  documents.filter(other => isSameResult(other, document)).sort((a, b) => isLost(a) - isLost(b) || b.version - a.version)

/** Return the newest version for each series and model: corrected ones first, then newer ones. Lost ones come last. */
export function resultsOf(documents) {
  const results = new Set(documents.map(document => versionsOf(documents, document)[0]))
  return [...results].sort((a, b) =>
    isLost(a) - isLost(b) || Boolean(b.corrected_by) - Boolean(a.corrected_by) || newestFirst(a, b))
}

/** Return the name of the model as in the model selection, or the text for a drawing by hand. models: the API's list. */
export function modelOf(document, models) {
  const { id, version } = document.model
  if (id === 'by-hand') return text('by_hand')
  const title = models.find(model => model.id === id)?.title
  // Several models may have the same title.
  const isTitleUnique = title && models.filter(model => model.title === title).length === 1
  return `${isTitleUnique ? title : id} ${version}`
}

/** Return the name of a result in the list of results. */
export const resultText = (document, models) => text(document.corrected_by ? 'result_corrected' : 'result', {
  model: modelOf(document, models), version: document.version, who: document.corrected_by,
})

/** Return the author and the time of a version as text. */
export const versionText = (document, models) => text('version', {
  version: document.version, who: document.corrected_by ?? modelOf(document, models), when: moment(document.created_at),
})
