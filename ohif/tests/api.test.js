import assert from 'node:assert/strict'
import { afterEach, beforeEach, test } from 'node:test'

import * as api from '../api.js'

const json = (content, status = 200) =>
  new Response(JSON.stringify(content), { status, headers: { 'Content-Type': 'application/json' } })
let requests, answers, page

beforeEach(() => {
  requests = []
  answers = []
  page = Object.assign(new EventTarget(), { hidden: false })
  globalThis.document = page
  globalThis.fetch = async (path, options) => {
    requests.push([options.method, path, options.body])
    const next = answers.shift()
    if (next === undefined) throw new TypeError('fetch failed')
    return next
  }
})

afterEach(() => {
  delete globalThis.document
})

test('a request contains series and model, or null to let the server choose', async () => {
  answers.push(json({ id: 'a', state: 'queued' }, 202), json({ id: 'a', state: 'queued' }, 202))
  await api.requestSegmentation('1.2.3')
  await api.requestSegmentation('1.2.3', { series: '1.2.3.4', model: 'unetr', force: true })
  assert.deepEqual(requests, [
    ['POST', '/segmentation/1.2.3', '{"series_instance_uid":null,"model":null,"force":false}'],
    ['POST', '/segmentation/1.2.3', '{"series_instance_uid":"1.2.3.4","model":"unetr","force":true}'],
  ])
})

test("an error has the API's code, or 'unreachable' if only a proxy or no server answers", async () => {
  answers.push(json({ error: { code: 'study_not_found', message: 'Not there.', details: {} } }, 404))
  await assert.rejects(api.segmentations('1.2'), { code: 'study_not_found', message: 'Not there.' })
  answers.push(new Response('<html>Bad Gateway</html>', { status: 502 }))
  await assert.rejects(api.models(), { code: 'unreachable' })
  await assert.rejects(api.models(), { code: 'unreachable' })
})

test('a job is polled until it ends, but not while the page is hidden', async () => {
  const states = []
  answers.push(json({ id: 'a', state: 'running' }), json({ id: 'a', state: 'done', result: '/segmentations/1' }))
  page.hidden = true
  const end = api.follow({ id: 'a', state: 'queued' }, job => states.push(job.state))
  await new Promise(resolve => setTimeout(resolve, 2 * api.POLL_MS))
  assert.equal(requests.length, 0)
  page.hidden = false
  page.dispatchEvent(new Event('visibilitychange'))
  assert.equal((await end).result, '/segmentations/1')
  assert.deepEqual(states, ['queued', 'running', 'done'])
  assert.equal(requests.length, 2)
})

test('polling continues after a transient error and stops when the session has expired', async () => {
  answers.push(new Response('', { status: 502 }), json({ id: 'a', state: 'cancelled' }))
  assert.equal((await api.follow({ id: 'a', state: 'running' }, () => {})).state, 'cancelled')
  answers.push(json({ error: { code: 'unauthorized', message: '', details: {} } }, 401))
  await assert.rejects(api.follow({ id: 'a', state: 'running' }, () => {}), { code: 'unauthorized' })
})

test('a cancelled poll sends no request and no update', async () => {
  let closed = false
  const states = []
  const end = api.follow({ id: 'a', state: 'running' }, job => states.push(job.state), () => closed)
  closed = true
  assert.equal(await end, null)
  assert.deepEqual([states, requests], [['running'], []])
})
