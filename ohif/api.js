// Client of MetScope's web API (docs/api.md), on the viewer's own origin.
export const VERSION = '0.1.0'
export const POLL_MS = 500
export const RETRY_LIMIT_MS = 60000
export const FINAL_STATES = new Set(['done', 'failed', 'cancelled'])

/** An HTTP status of 400 or above, or a missing answer. code: the API's, or 'unreachable' without one. isTransient: a retry
 * may succeed. */
export class ApiError extends Error {
  constructor(code, message, status = 503) {
    super(message)
    this.code = code
    this.isTransient = status >= 500 || status === 429
  }
}

async function send(method, path, body) {
  let answer
  try {
    answer = await fetch(path, {
      method,
      headers: body === undefined ? {} : { 'Content-Type': 'application/json' },
      body: body === undefined ? undefined : JSON.stringify(body),
    })
  } catch {
    throw new ApiError('unreachable', path)
  }
  if (answer.ok) return answer.status === 204 ? null : answer.json()
  // A proxy's own errors are not JSON.
  const error = await answer.json().then(content => content.error, () => null)
  throw new ApiError(error?.code ?? 'unreachable', error?.message ?? path, answer.status)
}

const pathOf = (...parts) => '/' + parts.map(encodeURIComponent).join('/')

export const session = () => send('GET', '/session')
export const candidates = study => send('GET', pathOf('studies', study, 'candidates')).then(content => content.candidates)
export const models = () => send('GET', '/models').then(content => content.models)
export const segmentations = study =>
  send('GET', pathOf('studies', study, 'segmentations')).then(content => content.segmentations)
export const segmentation = result => send('GET', result)
/** Return the newest job of the study, from any user; undefined if the study has none. */
export const newestJob = study =>
  send('GET', `/jobs?limit=1&study_instance_uid=${encodeURIComponent(study)}`).then(content => content.jobs[0])
export const job = id => send('GET', pathOf('jobs', id))
export const cancel = id => send('POST', pathOf('jobs', id, 'cancel'))

/** Start a segmentation of the study; return the new job, or the active job of an equal request. series, model: null lets
 * MetScope choose. force: segment again even if there is a result. */
export const requestSegmentation = (study, { series = null, model = null, force = false } = {}) =>
  send('POST', pathOf('segmentation', study), { series_instance_uid: series, model, force })

/** Start a job that creates the next version of the segmentation. rename: { number, name } each; erase: lesion numbers. */
export const correct = (id, { rename = [], erase = [] }) =>
  send('POST', pathOf('segmentations', id, 'corrections'), { rename, delete: erase })

/** Start a job that stores an earlier version of a segmentation as the newest. */
export const restore = id => send('POST', pathOf('segmentations', id, 'restore'), {})

/** Start a job that measures a drawing in the PACS. corrects: id of the segmentation that the user edited. */
export const measure = (study, sopInstanceUid, corrects) =>
  send('POST', pathOf('measurements', study), { sop_instance_uid: sopInstanceUid, corrects })

/** Start a job that also stores the segmentation as an RT Structure Set. */
export const structureSet = id => send('POST', pathOf('segmentations', id, 'rtstruct'), {})

/** Start a job that stores a map of the model's uncertainty in each voxel. */
export const uncertaintyMap = id => send('POST', pathOf('segmentations', id, 'uncertainty'), {})

/** Poll the job until it ends and return it; resolves to null once isCancelled() is true.
 *
 * onUpdate: called with the job at the start and after every poll. Polling pauses while the page is hidden. Transient errors
 * are retried for RETRY_LIMIT_MS. */
export async function follow(startedJob, onUpdate, isCancelled = () => false) {
  let currentJob = startedJob
  let answeredAt = Date.now()
  for (;;) {
    if (isCancelled()) return null
    onUpdate(currentJob)
    if (FINAL_STATES.has(currentJob.state)) return currentJob
    await pause(POLL_MS)
    await untilVisible()
    if (isCancelled()) return null
    try {
      currentJob = await job(currentJob.id)
      answeredAt = Date.now()
    } catch (error) {
      if (!error.isTransient || Date.now() - answeredAt > RETRY_LIMIT_MS) throw error
    }
  }
}

const pause = ms => new Promise(resolve => setTimeout(resolve, ms))

function untilVisible() {
  if (!document.hidden) return null
  return new Promise(resolve => {
    const onChange = () => {
      if (document.hidden) return
      document.removeEventListener('visibilitychange', onChange)
      resolve()
    }
    document.addEventListener('visibilitychange', onChange)
  })
}
