import assert from 'node:assert/strict'
import { afterEach, beforeEach, test } from 'node:test'

import * as service from '../service.js'

const json = (content, status = 200) =>
  new Response(JSON.stringify(content), { status, headers: { 'Content-Type': 'application/json' } })
let asked, answers, page

beforeEach(() => {
  asked = []
  answers = []
  page = Object.assign(new EventTarget(), { hidden: false })
  globalThis.document = page
  globalThis.fetch = async (path, options) => {
    asked.push([options.method, path, options.body])
    const next = answers.shift()
    if (next === undefined) throw new TypeError('fetch failed')
    return next
  }
})

afterEach(() => {
  delete globalThis.document
})

test('a request names series and model, and leaves the choice where there is none', async () => {
  answers.push(json({ id: 'a', state: 'queued' }, 202), json({ id: 'a', state: 'queued' }, 202))
  await service.request('1.2.3')
  await service.request('1.2.3', { series: '1.2.3.4', model: 'unetr', force: true })
  assert.deepEqual(asked, [
    ['POST', '/segmentation/1.2.3', '{"series_instance_uid":null,"model":null,"force":false}'],
    ['POST', '/segmentation/1.2.3', '{"series_instance_uid":"1.2.3.4","model":"unetr","force":true}'],
  ])
})

test("an error is the API's own, and 'unreachable' where a proxy or nobody answers", async () => {
  answers.push(json({ error: { code: 'study_not_found', message: 'Not there.', details: {} } }, 404))
  await assert.rejects(service.segmentations('1.2'), { code: 'study_not_found', message: 'Not there.' })
  answers.push(new Response('<html>Bad Gateway</html>', { status: 502 }))
  await assert.rejects(service.models(), { code: 'unreachable' })
  await assert.rejects(service.models(), { code: 'unreachable' })
})

test('a job is looked at until it ends, each time once, and never while the page is hidden', async () => {
  const told = []
  answers.push(json({ id: 'a', state: 'running' }), json({ id: 'a', state: 'done', result: '/segmentations/1' }))
  page.hidden = true
  const end = service.follow({ id: 'a', state: 'queued' }, job => told.push(job.state))
  await new Promise(resolve => setTimeout(resolve, 2 * service.POLL_MS))
  assert.equal(asked.length, 0)
  page.hidden = false
  page.dispatchEvent(new Event('visibilitychange'))
  assert.equal((await end).result, '/segmentations/1')
  assert.deepEqual(told, ['queued', 'running', 'done'])
  assert.equal(asked.length, 2)
})

test('a service that is away for a moment does not end the wait, a login that has ended does', async () => {
  answers.push(new Response('', { status: 502 }), json({ id: 'a', state: 'cancelled' }))
  assert.equal((await service.follow({ id: 'a', state: 'running' }, () => {})).state, 'cancelled')
  answers.push(json({ error: { code: 'unauthorized', message: '', details: {} } }, 401))
  await assert.rejects(service.follow({ id: 'a', state: 'running' }, () => {}), { code: 'unauthorized' })
})

test('nobody is told of a job for which nobody waits any more', async () => {
  let closed = false
  const told = []
  const end = service.follow({ id: 'a', state: 'running' }, job => told.push(job.state), () => closed)
  closed = true
  assert.equal(await end, null)
  assert.deepEqual([told, asked], [['running'], []])
})
