// The panel: what to segment, how far it is, the lesions that were found and what is made of them.
import { drawAxes } from './axes.js'
import { make } from './dom.js'
import * as editing from './editing.js'
import { Lesions } from './lesions.js'
import * as overlay from './overlay.js'
import { isLost, modelOf, resultText, resultsOf, versionText, versionsOf } from './results.js'
import * as service from './service.js'
import { STYLE } from './style.js'
import { changesOf, csv, csvName, stageText } from './table.js'
import { day, errorText, moment, phrase, text } from './texts.js'

// Who asks where the service lets everybody in.
const NOBODY = 'anonymous'
// Of jobs that store something beside a segmentation, and change nothing.
const ADDING = new Set(['rtstruct', 'uncertainty'])

// What lies over the images of each study: { document: its id, id: the viewer's }. The viewer takes a panel away and brings
// another when its tab is left and opened again, and there is another for each study that is looked at.
const laid = new Map()

/** Whether a job failed after the newest result was there. */
const isNews = (job, document) =>
  job.state === 'failed' && (!document || new Date(document.created_at) < new Date(job.created_at))

/** The viewer takes these keys for its own and would not let a button have them. */
const keepKeys = event => { if (event.key === ' ' || event.key === 'Enter') event.stopPropagation() }

/** What speaks for a series, and why it cannot be used. */
const hintOf = ({ reasons, refused, message }) =>
  [...reasons.map(reason => phrase(reason)), refused && errorText({ code: refused, message })].filter(Boolean).join('\n')

/** What a series is called among those to choose from. */
function seriesText({ description, series_instance_uid: uid, refused, selectable }) {
  const series = description || uid
  return refused && selectable ? text('unfit', { series }) : series
}

/** What the viewer calls its tab with the tools to draw. */
const drawingTab = ({ servicesManager }) =>
  servicesManager.services.panelService.getPanelData(editing.PANEL).label

export class Panel {
  /** app: the viewer's servicesManager, commandsManager and extensionManager. */
  constructor(app, element) {
    this.app = app
    this.study = overlay.activeStudy(app)
    this.closed = false
    this.busy = false
    this.may = false
    this.document = null
    // Every version of every result of the study, and the models that the service has.
    this.documents = []
    this.models = []
    // The viewer's id of the document's segmentation, once it was loaded, and while it is on the images.
    this.loadedId = null
    this.shownId = null
    // What shall be shown, and the end of what brings it about.
    this.wanted = null
    this.turn = Promise.resolve()
    this.title = make('p', { className: 'title' })
    this.madeOf = make('p', { className: 'note' })
    // Whether the panel complains that no viewport shows the images of a lesion.
    this.isOutOfView = false
    this.series = make('select', { ariaLabel: text('series') })
    this.model = make('select', { ariaLabel: text('model') })
    this.start = make('button', { className: 'first', disabled: true, onclick: () => this.segment() }, text('segment'))
    this.trouble = make('div')
    this.progress = make('div')
    this.result = make('div', {}, make('p', { className: 'note' }, text('loading')))
    this.who = make('form', { method: 'post', action: '/logout', className: 'who note' })
    this.root = make(
      'section', { className: 'metscope', ariaLabel: text('panel'), tabIndex: -1 }, make('style', {}, STYLE), this.title, make('label', {}, text('series'), this.series),
      make('label', {}, text('model'), this.model), make('div', { className: 'buttons' }, this.start),
      this.trouble, this.progress, this.result, make('div', { className: 'note' }, text('research')), this.who,
    )
    this.root.onkeydown = keepKeys
    element.replaceChildren(this.root)
    // The viewer's own page does not let the keyboard leap over its buttons.
    this.leap = make('button', { className: 'metscope-leap', onclick: () => this.root.focus(), onkeydown: keepKeys }, text('to_panel'))
    document.body.prepend(this.leap)
    this.listening = [
      editing.onEdit(() => this.document && this.draw()),
      overlay.onNewImages(app, () => { this.entitle(); this.again() }),
      overlay.onLesionClick(app, (id, number) => this.mark(id, number)),
    ]
    this.opened = this.open().catch(error => this.fail(error))
  }

  close() {
    this.closed = true
    for (const end of this.listening) end()
    this.root.remove()
    this.leap.remove()
  }

  async open() {
    editing.putToolsDown(this.app)
    const { name, role, version } = await service.session()
    this.entitle()
    const operations = make('a', { href: '/operations', target: '_blank' }, text('operations'))
    this.who.replaceChildren(...(name === NOBODY
      ? [operations]
      : [make('span', {}, text('logged_in', { name })), operations, make('button', {}, text('log_out'))]))
    if (version !== service.VERSION) {
      this.complain(text('other_version', { ours: service.VERSION, theirs: version }))
      return
    }
    this.may = role !== 'reader'
    this.start.title = this.may ? '' : text('may_not')
    // Before the results: one that ends meanwhile has its own among them.
    const job = await service.newestJob(this.study)
    const [known, done] = await Promise.all([service.models(), service.segmentations(this.study)])
    if (this.closed) return
    // The results do not wait for the PACS, which takes its time or is away.
    this.series.replaceChildren(make('option', { value: '' }, text('automatic')))
    service.candidates(this.study).then(candidates => this.offer(candidates), error => this.complain(errorText(error)))
    this.models = known
    this.documents = done
    this.model.replaceChildren(
      ...known.map(one => make('option', { value: one.id, selected: one.default }, modelOf({ model: one }, known))),
    )
    const [shown] = resultsOf(done)
    const isNew = !laid.has(this.study)
    if (shown) {
      await this.present(shown)
      // Whoever comes back to the tab finds the images as they were.
      if (isNew && this.shownId && shown.lesions.length) this.list.selectFirst()
    } else this.result.replaceChildren(make('p', { className: 'note' }, text('none_yet')))
    // One that goes on, or failed while nobody looked.
    if (job && (!service.ENDED.has(job.state) || isNews(job, done[0]))) this.wait(() => job)
    else this.set(false)
  }

  /** Name the study and the images; the viewer makes them, and knows them, a moment after it has made the panel. */
  entitle() {
    // Its own page does not say which is its main part.
    document.querySelector('[data-cy=viewport-grid]')?.setAttribute('role', 'main')
    this.title.textContent = overlay.studyTitle(this.app, this.study)
    if (this.document) {
      const made = this.document.corrected_by ? 'made_of_corrected' : 'made_of'
      this.madeOf.textContent = text(made, { ...this.images(), when: moment(this.document.created_at) })
    }
    if (this.isOutOfView && overlay.isInView(this.app, this.document)) this.trouble.replaceChildren()
  }

  /** The study's series, to choose from. */
  offer(candidates) {
    this.series.append(...candidates.filter(({ modality }) => modality === 'MR').map(candidate =>
      make('option', { value: candidate.series_instance_uid, disabled: !candidate.selectable, title: hintOf(candidate) },
        seriesText(candidate))))
  }

  /** Whether something runs; nothing else can be started meanwhile. */
  set(busy) {
    this.busy = busy
    this.start.disabled = busy || !this.may
    for (const button of this.result.querySelectorAll('[data-job]')) button.disabled = busy || !this.may
    if (this.document) this.draw()
  }

  /** The button. */
  async segment(force = false) {
    await this.opened
    if (this.start.disabled) return
    if (this.isEdited()) {
      this.complain(text('unsaved'))
      return
    }
    const wanted = { series: this.series.value || null, model: this.model.value || null, force }
    await this.wait(() => service.request(this.study, wanted))
  }

  /** The job that ask() gives, to its end. */
  async wait(ask) {
    this.set(true)
    this.trouble.replaceChildren()
    try {
      await this.follow(await ask())
    } catch (error) {
      this.fail(error)
    } finally {
      this.set(false)
    }
  }

  async follow(started) {
    const ended = await service.follow(started, job => this.tell(job), () => this.closed)
    if (ended === null) return
    this.progress.replaceChildren()
    if (ended.kind === 'measurement' && ended.state !== 'done') editing.takeBack(this.loadedId)
    if (ended.state === 'failed') throw new service.ServiceError(ended.error.code, ended.error.message)
    if (ended.state === 'cancelled') {
      this.tellAside(text('cancelled'))
      return
    }
    const found = await service.segmentation(ended.result)
    this.documents = await service.segmentations(this.study)
    if (!await this.present(found)) return
    // The viewer lists what was stored beside it.
    await Promise.all(found.companions.map(one => overlay.displaySetOf(this.app, this.study, one)))
      .catch(error => console.warn(error.message))
    if (ended.kind === 'segmentation' && this.shownId) this.list.selectFirst()
    if (ADDING.has(ended.kind)) this.tellAside(text('added'))
    else if (new Date(found.created_at) >= new Date(ended.created_at)) return
    else if (ended.kind === 'segmentation') {
      this.tellAside(
        text('nothing_new', { when: moment(found.created_at) }), ' ',
        make('button', { onclick: () => this.segment(true) }, text('segment_again')),
      )
    } else this.tellAside(text('no_change'))
  }

  tell(job) {
    const bar = make('progress', { max: 1, value: job.progress })
    const cancel = make('button', { onclick: () => this.cancel(job) }, text('cancel'))
    if (!this.document) this.result.replaceChildren()
    this.progress.replaceChildren(make('div', { role: 'status' }, stageText(job)), bar, make('div', { className: 'buttons' }, cancel))
  }

  async cancel(job) {
    try {
      await service.cancel(job.id)
    } catch (error) {
      // Its result is recorded already, and comes in a moment.
      if (error.code !== 'job_not_cancellable') this.fail(error)
    }
  }

  /** What changes the images goes one after the other: half of one and half of the next would show one's lesions as the other's. */
  inTurn(act) {
    const turn = this.turn.then(act)
    this.turn = turn.catch(() => {})
    return turn
  }

  /** A finished segmentation: its table, and the overlay. False: what is drawn on another one would be lost, or another one was
   * asked for meanwhile. */
  present(document, whatever = false) {
    this.wanted = document
    return this.inTurn(() => this.replace(document, whatever))
  }

  async replace(document, whatever) {
    if (this.closed || this.wanted !== document) return false
    const before = laid.get(this.study)
    if (before && before.document !== document.id) {
      if (editing.isEdited(before.id) && !whatever) {
        this.complain(text('newer'), ' ', make('button', { onclick: () => this.present(document, true) }, text('show_newest')))
        if (this.results) this.results.value = this.document.id
        return false
      }
      if (editing.isEdited(before.id)) await this.forget(before.id)
      else await this.hide()
      this.loadedId = null
    } else if (before) this.loadedId = before.id
    // What is hidden may have been drawn on.
    else if (this.document?.id !== document.id) this.loadedId = null
    this.trouble.replaceChildren()
    this.document = document
    // What is shown says whose it is; drawn by hand, it is no model's.
    for (const option of this.model.options) if (option.value === document.model.id) option.selected = true
    this.build()
    if (this.shownId) this.draw()
    else await this.show()
    return true
  }

  async show() {
    if (!this.document.segmentation.sop_instance_uid) return
    try {
      this.shownId = await overlay.show(this.app, this.document, () => this.closed)
      this.loadedId = this.shownId ?? this.loadedId
      if (this.shownId) laid.set(this.study, { document: this.document.id, id: this.shownId })
      this.activate()
      // What changed meanwhile.
      if (this.changed) this.again()
    } catch (error) {
      this.complain(text('not_on_screen', { reason: error.message }))
    }
    this.draw()
  }

  async hide() {
    const { id } = laid.get(this.study)
    laid.delete(this.study)
    this.shownId = null
    if (this.document) this.draw()
    // What is being laid is taken off as well.
    await this.laying
    await overlay.hide(this.app, id)
  }

  /** Give up what was drawn on a segmentation. */
  async forget(id) {
    if (laid.has(this.study)) await this.hide()
    await overlay.forget(this.app, id)
    editing.discard(id)
  }

  /** The segmentation as it is stored, without what was drawn. */
  async discard() {
    if (!window.confirm(text('discard_really'))) return
    await this.inTurn(async () => {
      await this.forget(this.loadedId)
      this.loadedId = null
      await this.show()
    })
    this.draw()
  }

  isEdited() {
    return editing.isEdited(this.loadedId)
  }

  /** After a change of layout or images, which come without the overlay, or with one that is not theirs. */
  again() {
    this.changed = true
    if (!this.shownId) return null
    this.laying ??= this.lay().finally(() => { this.laying = null })
    return this.laying
  }

  async lay() {
    try {
      while (this.changed) {
        this.changed = false
        await overlay.show(this.app, this.document, () => this.closed || !this.shownId)
      }
    } catch {
      // A viewport that went before it was there.
    }
    if (this.closed) return
    this.activate()
    this.draw()
  }

  /** The brush and the eraser draw the lesion that is selected. */
  activate() {
    const selected = this.document.lesions.find(lesion => lesion.tracking_uid === this.list.selected)
    if (this.shownId && selected) overlay.activate(this.app, this.shownId, selected)
  }

  /** What is there to be done with the segmentation, and its lesions. */
  build() {
    const { document } = this
    const job = (label, ask, { values, ...properties } = {}) => {
      const button = make('button', { disabled: this.busy || !this.may, onclick: () => this.wait(ask), ...properties }, text(label, values))
      button.dataset.job = label
      return button
    }
    const notes = [
      ...(document.corrected_by ? [text('corrected', { version: document.version, who: document.corrected_by })] : []),
      ...changesOf(document),
    ].map(line => make('p', { className: 'note' }, line))
    notes.push(...this.history(job))
    const warnings = document.warnings.map(warning => make('p', { className: 'warning' }, phrase(warning)))
    const choice = [...this.choice(), ...warnings]
    const lacks = modality => !document.companions.some(one => one.modality === modality)
    const isServed = [...this.model.options].some(option => option.value === document.model.id)
    const uncertainty = lacks('OT') && isServed
      ? [job('uncertainty', () => service.uncertaintyMap(document.id), { title: text('uncertainty_hint') })]
      : []
    this.notice = make(
      'div', { role: 'status', className: 'acts', hidden: true }, make('div', {}, text('edited')),
      make('div', { className: 'buttons' }, job('measure', () => this.measure(), { className: 'first' }),
        make('button', { onclick: () => this.discard() }, text('discard'))),
    )
    const draw = make('button', { onclick: () => this.openDrawing(), title: text('draw_hint', { tab: drawingTab(this.app) }) }, text('draw'))
    if (!document.lesions.length) {
      const none = make('p', { className: 'note' }, text('no_lesion'))
      this.result.replaceChildren(...choice, this.notice, none, make('div', { className: 'buttons' }, draw, ...uncertainty), ...notes)
      this.draw()
      return
    }
    this.toggleButton = make('button', { onclick: () => this.toggle() }, text(this.shownId ? 'hide' : 'show'))
    this.toggleButton.dataset.toggle = ''
    const buttons = make(
      'div', { className: 'buttons' }, this.toggleButton,
      draw, this.outlinesButton(), make('button', { onclick: () => this.save() }, text('csv')),
      ...(lacks('RTSTRUCT')
        ? [job('structure_set', () => service.structureSet(document.id), { title: text('structure_set_hint') })]
        : []),
      ...uncertainty,
    )
    const table = make('div')
    this.list = new Lesions(table, {
      go: lesion => this.go(lesion),
      mark: () => this.activate(),
      rename: (lesion, name) => this.correct({ rename: [{ number: lesion.number, name }] }),
      erase: lesion => this.correct({ erase: [lesion.number] }),
    }, this.list)
    this.list.show(document)
    this.result.replaceChildren(...choice, this.notice, buttons, table, ...notes)
  }

  /** The study's results, of which one is shown. */
  choice() {
    const heads = resultsOf(this.documents)
    // An older version may be what is shown.
    const shown = heads.some(({ id }) => id === this.document.id) ? heads : [this.document, ...heads]
    const areOfOneSeries = new Set(shown.map(document => document.series_instance_uid)).size === 1
    const nameOf = document => {
      const result = resultText(document, this.models)
      return areOfOneSeries ? result : text('result_of', { result, series: this.seriesOf(document) })
    }
    this.results = make('select', { ariaLabel: text('result_label') }, ...shown.map(document =>
      make('option', { value: document.id, selected: document.id === this.document.id }, nameOf(document))))
    this.results.onchange = () => this.present(shown.find(({ id }) => id === this.results.value))
    this.entitle()
    return [
      make('label', {}, text('result_label'), this.results), this.madeOf,
      ...(isLost(this.document) ? [make('p', { className: 'note' }, text('lost'))] : []),
    ]
  }

  /** The versions of the result that is shown. job(label, ask, properties): a button that starts one. */
  history(job) {
    const [head, ...older] = versionsOf(this.documents, this.document)
    if (!older.length) return []
    const { open } = this.result.querySelector('details') ?? { open: false }
    const versions = [head, ...older].map(version => make(
      'li', {}, versionText(version, this.models),
      // Those of what is shown stand above.
      ...(version.id === this.document.id ? [] : changesOf(version)).map(line => make('div', { className: 'note' }, line)),
      ...(version === head || isLost(version) ? [] : [job('back_to', () => service.restore(version.id), {
        title: text('back_to_hint'), values: { version: version.version },
      })]),
    ))
    return [make('details', { open }, make('summary', {}, text('history', { count: versions.length })), make('ul', {}, ...versions))]
  }

  draw() {
    const { document, shownId, list } = this
    if (shownId) drawAxes(this.app, shownId, document.lesions)
    const edited = this.isEdited()
    this.notice.hidden = !edited
    if (!document.lesions.length) return
    // A correction begins with what is stored: what is only drawn would be lost. Another job may change what is stored.
    list.mayCorrect = this.may && !edited && !this.busy
    this.toggleButton.replaceChildren(text(shownId ? 'hide' : 'show'))
    list.draw(lesion => (shownId ? overlay.colour(this.app, shownId, lesion) : ''))
  }

  /** What the series and its day are called, of the images that were segmented. */
  images() {
    const { StudyDate: date } = overlay.attributesOf(this.app, this.document)
    return { series: this.seriesOf(this.document), day: day(date) }
  }

  seriesOf(document) {
    return overlay.attributesOf(this.app, document).SeriesDescription || document.series_instance_uid
  }

  /** Bring the lesion onto the screen, or say why it does not come. */
  async go(lesion) {
    this.trouble.replaceChildren()
    // A viewport that gets the overlay goes back to the slice that it showed.
    await Promise.all([this.turn, this.laying])
    if (overlay.jump(this.app, this.document, lesion)) return
    const open = async () => {
      await overlay.open(this.app, this.document)
      await this.again()
      await this.go(lesion)
    }
    this.complain(text('not_in_view', this.images()), ' ', make('button', { onclick: open }, text('open_series')))
    this.isOutOfView = true
  }

  /** Select the row of a lesion that was clicked on an image. */
  mark(id, number) {
    const lesion = id === this.shownId && !this.isEdited() && this.document.lesions.find(other => other.number === number)
    if (lesion) this.list.mark(lesion)
  }

  outlinesButton() {
    const button = make('button', { ariaPressed: String(overlay.isOutlined()), title: text('outlines_hint') }, text('outlines'))
    button.onclick = () => {
      overlay.outline(this.app, !overlay.isOutlined())
      button.ariaPressed = String(overlay.isOutlined())
    }
    return button
  }

  correct(changes) {
    return this.wait(() => service.correct(this.document.id, changes))
  }

  /** The job that measures what was drawn. */
  async measure() {
    this.documents = await service.segmentations(this.study)
    const [newest] = versionsOf(this.documents, this.document)
    if (newest?.id !== this.document.id) throw new service.ServiceError('segmentation_superseded', text('superseded'))
    // The viewer saves only what is on the screen.
    if (!this.shownId) await this.inTurn(() => this.show())
    const uid = await editing.save(this.app, this.loadedId)
    try {
      return await service.measure(this.study, uid, this.document.id)
    } catch (error) {
      editing.takeBack(this.loadedId)
      throw error
    }
  }

  async toggle() {
    this.toggleButton.disabled = true
    await this.inTurn(() => (this.shownId ? this.hide() : this.show()))
    this.toggleButton.disabled = false
  }

  save() {
    const url = URL.createObjectURL(new Blob([csv(this.document)], { type: 'text/csv' }))
    make('a', { href: url, download: csvName(this.document) }).click()
    URL.revokeObjectURL(url)
  }

  complain(...content) {
    this.isOutOfView = false
    this.trouble.replaceChildren(make('div', { role: 'alert' }, ...content))
  }

  /** Say what is no fault. */
  tellAside(...content) {
    this.isOutOfView = false
    this.trouble.replaceChildren(make('div', { role: 'status', className: 'told' }, ...content))
  }

  fail(error) {
    this.progress.replaceChildren()
    if (error.code === 'unauthorized') {
      const next = location.pathname + location.search
      this.complain(text('log_in'), ' ', make('a', { href: `/login?next=${next}` }, text('log_in_again')))
    } else if (error.code === 'unreachable') this.complain(text('unreachable'))
    else if (error.code === 'segmentation_superseded') {
      this.complain(text('superseded'), ' ', make('button', { onclick: () => this.renew() }, text('show_version')))
    } else this.complain(`${text('failed')}: ${errorText(error)}`)
  }

  /** The newest version of the result that is shown. */
  async renew() {
    try {
      this.documents = await service.segmentations(this.study)
      await this.present(versionsOf(this.documents, this.document)[0])
    } catch (error) {
      this.fail(error)
    }
  }

  /** Open the viewer's tab with the tools to draw; where there is nothing to be drawn on, with a new segmentation. */
  async openDrawing() {
    try {
      await this.inTurn(() => this.makeDrawable())
    } catch (error) {
      this.complain(text('not_on_screen', { reason: error.message }))
      return
    }
    this.app.servicesManager.services.panelService.activatePanel(editing.PANEL, true)
  }

  async makeDrawable() {
    if (this.document.lesions.length || this.loadedId) return
    this.loadedId = await overlay.blank(this.app, this.document, text('edited_series'))
    laid.set(this.study, { document: this.document.id, id: this.loadedId })
  }
}
