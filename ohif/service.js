// MetScope's web API, as docs/api.md describes it, on the viewer's own origin.
export const VERSION = '0.1.0'
export const POLL_MS = 500
export const PATIENCE_MS = 60000
export const ENDED = new Set(['done', 'failed', 'cancelled'])

/** An answer of 400 and above, or none at all. code: the API's, 'unreachable' where it gives none; passing: it may help
 * to ask again. */
export class ServiceError extends Error {
  constructor(code, message, status = 503) {
    super(message)
    this.code = code
    this.passing = status >= 500 || status === 429
  }
}

async function ask(method, path, body) {
  let answer
  try {
    answer = await fetch(path, {
      method,
      headers: body === undefined ? {} : { 'Content-Type': 'application/json' },
      body: body === undefined ? undefined : JSON.stringify(body),
    })
  } catch {
    throw new ServiceError('unreachable', path)
  }
  if (answer.ok) return answer.status === 204 ? null : answer.json()
  // A proxy's own errors are no JSON.
  const error = await answer.json().then(content => content.error, () => null)
  throw new ServiceError(error?.code ?? 'unreachable', error?.message ?? path, answer.status)
}

const address = (...parts) => '/' + parts.map(encodeURIComponent).join('/')

export const session = () => ask('GET', '/session')
export const candidates = study => ask('GET', address('studies', study, 'candidates')).then(found => found.candidates)
export const models = () => ask('GET', '/models').then(found => found.models)
export const segmentations = study =>
  ask('GET', address('studies', study, 'segmentations')).then(found => found.segmentations)
export const segmentation = result => ask('GET', result)
/** The newest job of the study, whoever asked for it; undefined: there was none. */
export const newestJob = study =>
  ask('GET', `/jobs?limit=1&study_instance_uid=${encodeURIComponent(study)}`).then(found => found.jobs[0])
export const job = id => ask('GET', address('jobs', id))
export const cancel = id => ask('POST', address('jobs', id, 'cancel'))

/** A job for the study; the active one where the same was asked for already. series, model: null lets MetScope choose.
 * force: even where there is a result already. */
export const request = (study, { series = null, model = null, force = false } = {}) =>
  ask('POST', address('segmentation', study), { series_instance_uid: series, model, force })

/** A job that makes the segmentation's next version: lesions called otherwise ({ number, name }), lesions left out. */
export const correct = (id, { rename = [], erase = [] }) =>
  ask('POST', address('segmentations', id, 'corrections'), { rename, delete: erase })

/** A job that stores an earlier version of a segmentation as the newest. */
export const restore = id => ask('POST', address('segmentations', id, 'restore'), {})

/** A job that measures an object of the PACS that was drawn on the segmentation corrects. */
export const measure = (study, sopInstanceUid, corrects) =>
  ask('POST', address('measurements', study), { sop_instance_uid: sopInstanceUid, corrects })

/** A job that stores the segmentation as an RT Structure Set too. */
export const structureSet = id => ask('POST', address('segmentations', id, 'rtstruct'), {})

/** A job that stores how sure the model was, voxel by voxel. */
export const uncertaintyMap = id => ask('POST', address('segmentations', id, 'uncertainty'), {})

/** The job when it has ended; null where over() says that nobody waits for it any more.
 *
 * tell: called with the job as it is, at every look. Nobody looks while the page is hidden. A service that is away for a
 * while is asked again, for PATIENCE_MS. */
export async function follow(started, tell, over = () => false) {
  let current = started
  let heard = Date.now()
  for (;;) {
    if (over()) return null
    tell(current)
    if (ENDED.has(current.state)) return current
    await pause(POLL_MS)
    await shown()
    if (over()) return null
    try {
      current = await job(current.id)
      heard = Date.now()
    } catch (error) {
      if (!error.passing || Date.now() - heard > PATIENCE_MS) throw error
    }
  }
}

const pause = ms => new Promise(resolve => setTimeout(resolve, ms))

function shown() {
  if (!document.hidden) return null
  return new Promise(resolve => {
    const look = () => {
      if (document.hidden) return
      document.removeEventListener('visibilitychange', look)
      resolve()
    }
    document.addEventListener('visibilitychange', look)
  })
}
