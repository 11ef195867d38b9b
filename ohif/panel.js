// The panel: choice of series and model, progress, lesions, corrections and versions.
import * as api from './api.js'
import { drawAxes } from './axes.js'
import { make } from './dom.js'
import * as editing from './editing.js'
import { LesionTable } from './lesions.js'
import * as overlay from './overlay.js'
import { isLost, modelOf, resultText, resultsOf, versionText, versionsOf } from './results.js'
import { STYLE } from './style.js'
import { changesOf, csv, csvName, stageText } from './table.js'
import { day, errorText, moment, phrase, text } from './texts.js'

// User name when the server has no login.
const ANONYMOUS = 'anonymous'
// Job kinds that store a companion object and leave the segmentation unchanged.
const COMPANION_JOBS = new Set(['rtstruct', 'uncertainty'])

// The overlay of each study: { document: id of the document, id: the viewer's segmentation id }. It outlives panels. The
// viewer creates a new panel when the tab is opened again, and each study has its own panel.
const overlayByStudy = new Map()

/** Return whether a job failed and is newer than the newest result. */
const isNewFailure = (job, document) =>
  job.state === 'failed' && (!document || new Date(document.created_at) < new Date(job.created_at))

/** Keep these keys for the panel's buttons. The viewer would handle them itself. */
const keepKeyEvents = event => { if (event.key === ' ' || event.key === 'Enter') event.stopPropagation() }

/** Return the reasons for a series, and the reason why it cannot be used. */
const seriesHint = ({ reasons, refused, message }) =>
  [...reasons.map(reason => phrase(reason)), refused && errorText({ code: refused, message })].filter(Boolean).join('\n')

/** Return the name of a series in the series selection. */
function seriesText({ description, series_instance_uid: uid, refused, selectable }) {
  const series = description || uid
  return refused && selectable ? text('unfit', { series }) : series
}

/** Return the label of the viewer's tab with the drawing tools. */
const drawingTabLabel = ({ servicesManager }) =>
  servicesManager.services.panelService.getPanelData(editing.PANEL_WITH_TOOLS).label

export class Panel {
  /** app: the viewer's servicesManager, commandsManager and extensionManager. */
  constructor(app, element) {
    this.app = app
    this.study = overlay.activeStudy(app)
    this.isClosed = false
    this.isBusy = false
    this.mayWrite = false
    this.document = null
    // The results in the result selection.
    this.choices = []
    // All versions of all results of the study, and the models of the server.
    this.documents = []
    this.models = []
    // The viewer's id of the document's segmentation: once it is loaded, and while it is on the images.
    this.loadedId = null
    this.shownId = null
    // The document to show, and the promise of the last queued change of the images.
    this.requestedDocument = null
    this.lastChange = Promise.resolve()
    this.title = make('p', { className: 'title' })
    this.source = make('p', { className: 'note' })
    this.seriesSelect = make('select', { ariaLabel: text('series') })
    this.modelSelect = make('select', { ariaLabel: text('model') })
    this.startButton = make('button', { className: 'first', disabled: true, onclick: () => this.segment() }, text('segment'))
    this.alertArea = make('div')
    this.progressArea = make('div')
    // Says which series the result is of while no viewport shows it.
    this.viewNotice = make('div', { role: 'status' })
    this.resultArea = make('div', {}, make('p', { className: 'note' }, text('loading')))
    this.userForm = make('form', { method: 'post', action: '/logout', className: 'who note' })
    this.root = make(
      'section', { className: 'metscope', ariaLabel: text('panel'), tabIndex: -1 }, make('style', {}, STYLE), this.title,
      make('label', {}, text('series'), this.seriesSelect), make('label', {}, text('model'), this.modelSelect),
      make('div', { className: 'buttons' }, this.startButton), this.alertArea, this.progressArea, this.viewNotice,
      this.resultArea,
      make('div', { className: 'note' }, text('research')), this.userForm,
    )
    this.root.onkeydown = keepKeyEvents
    element.replaceChildren(this.root)
    // The viewer has no link to skip its buttons with the keyboard.
    this.skipButton = make(
      'button', { className: 'metscope-leap', onclick: () => this.root.focus(), onkeydown: keepKeyEvents }, text('to_panel'),
    )
    document.body.prepend(this.skipButton)
    this.unsubscribers = [
      editing.onEdit(() => this.document && this.draw()),
      overlay.onNewImages(app, () => { this.updateTitles(); this.refreshOverlay() }),
      overlay.onNewSeries(app, () => this.updateTitles()),
      // A viewport may also be closed.
      overlay.onActiveViewport(app, () => setTimeout(() => this.updateViewNotice())),
      overlay.onLesionClick(app, (id, number) => this.markClicked(id, number)),
    ]
    this.opening = this.open().catch(error => this.showError(error))
  }

  close() {
    this.isClosed = true
    for (const unsubscribe of this.unsubscribers) unsubscribe()
    this.root.remove()
    this.skipButton.remove()
  }

  async open() {
    editing.deactivateTools(this.app)
    const { name, role, version } = await api.session()
    this.updateTitles()
    const operations = make('a', { href: '/operations', target: '_blank' }, text('operations'))
    this.userForm.replaceChildren(...(name === ANONYMOUS
      ? [operations]
      : [make('span', {}, text('logged_in', { name })), operations, make('button', {}, text('log_out'))]))
    if (version !== api.VERSION) {
      this.showAlert(text('other_version', { ours: api.VERSION, theirs: version }))
      return
    }
    this.mayWrite = role !== 'reader'
    this.startButton.title = this.mayWrite ? '' : text('may_not')
    // Fetch the job before the results. If it ends in between, the results contain its own.
    const job = await api.newestJob(this.study)
    const [models, documents] = await Promise.all([api.models(), api.segmentations(this.study)])
    if (this.isClosed) return
    // Do not delay the results for the PACS, which may be slow or unavailable.
    this.seriesSelect.replaceChildren(make('option', { value: '' }, text('automatic')))
    api.candidates(this.study).then(candidates => this.offerSeries(candidates), error => this.showAlert(errorText(error)))
    this.models = models
    this.documents = documents
    this.modelSelect.replaceChildren(
      ...models.map(model => make('option', { value: model.id, selected: model.default }, modelOf({ model }, models))),
    )
    const [newest] = resultsOf(documents)
    const isFirstPanel = !overlayByStudy.has(this.study)
    if (newest) {
      await this.present(newest)
      // A user who returns to the tab finds the images unchanged.
      if (isFirstPanel && this.shownId && newest.lesions.length) this.table.selectFirst()
    } else this.resultArea.replaceChildren(make('p', { className: 'note' }, text('none_yet')))
    // Follow an active job, and report a job that failed while the panel was closed.
    if (job && (!api.FINAL_STATES.has(job.state) || isNewFailure(job, documents[0]))) this.runJob(() => job)
    else this.setBusy(false)
  }

  /** Update the titles of the study, the images and the results. The viewer knows these a moment after it creates the panel. */
  updateTitles() {
    // The viewer's page does not mark its main region.
    document.querySelector('[data-cy=viewport-grid]')?.setAttribute('role', 'main')
    this.title.textContent = overlay.studyTitle(this.app, this.study)
    if (this.document) {
      const key = this.document.corrected_by ? 'made_of_corrected' : 'made_of'
      this.source.textContent = text(key, { ...this.imageNames(), when: moment(this.document.created_at) })
      this.nameResults()
    }
    this.updateViewNotice()
  }

  /** Show which series the result is of, and a button to open it, while no viewport shows it. */
  updateViewNotice() {
    const { app, document } = this
    if (this.isClosed || !document || !overlay.isOutOfView(app, document)) {
      this.viewNotice.replaceChildren()
      return
    }
    const words = text(document.lesions.length ? 'not_in_view' : 'none_not_in_view', this.imageNames())
    const open = overlay.hasImages(app, document)
      ? [' ', make('button', { onclick: () => this.openImages() }, text('open_series'))] : []
    const notice = make('div', { className: 'told' }, words, ...open)
    // Replacing the button would remove the keyboard focus.
    if (this.viewNotice.textContent !== notice.textContent) this.viewNotice.replaceChildren(notice)
  }

  /** Show the images of the result in the active viewport, at the selected lesion. */
  async openImages() {
    try {
      await overlay.openImages(this.app, this.document)
    } catch (error) {
      this.showAlert(text('not_on_screen', { reason: error.message }))
      return
    }
    await this.refreshOverlay()
    const lesion = this.document.lesions.length ? this.table.selectedLesion() : undefined
    if (lesion) await this.goTo(lesion)
  }

  /** Add the study's series to the series selection. */
  offerSeries(candidates) {
    this.seriesSelect.append(...candidates.filter(({ modality }) => modality === 'MR').map(candidate =>
      make('option', { value: candidate.series_instance_uid, disabled: !candidate.selectable, title: seriesHint(candidate) },
        seriesText(candidate))))
  }

  /** Set whether a job is running. No other job can be started during that time. */
  setBusy(isBusy) {
    this.isBusy = isBusy
    this.startButton.disabled = isBusy || !this.mayWrite
    for (const button of this.resultArea.querySelectorAll('[data-job]')) button.disabled = isBusy || !this.mayWrite
    if (this.document) this.draw()
  }

  /** Start a segmentation. force: segment again even if there is a result. */
  async segment(force = false) {
    await this.opening
    if (this.startButton.disabled) return
    if (this.isEdited()) {
      this.showAlert(text('unsaved'))
      return
    }
    const options = { series: this.seriesSelect.value || null, model: this.modelSelect.value || null, force }
    await this.runJob(() => api.requestSegmentation(this.study, options))
  }

  /** Follow the job from startJob() to its end. */
  async runJob(startJob) {
    this.setBusy(true)
    this.alertArea.replaceChildren()
    try {
      await this.followJob(await startJob())
    } catch (error) {
      this.showError(error)
    } finally {
      this.setBusy(false)
    }
  }

  async followJob(startedJob) {
    const endedJob = await api.follow(startedJob, job => this.showProgress(job), () => this.isClosed)
    if (endedJob === null) return
    this.progressArea.replaceChildren()
    if (endedJob.kind === 'measurement' && endedJob.state !== 'done') editing.markUnsaved(this.loadedId)
    if (endedJob.state === 'failed') throw new api.ApiError(endedJob.error.code, endedJob.error.message)
    if (endedJob.state === 'cancelled') {
      this.showStatus(text('cancelled'))
      return
    }
    const document = await api.segmentation(endedJob.result)
    this.documents = await api.segmentations(this.study)
    if (!await this.present(document)) return
    // Make the viewer list the companion objects. The panel does not need them and does not wait for them.
    Promise.all(document.companions.map(companion => overlay.displaySetOf(this.app, this.study, companion)))
      .catch(error => console.warn(error.message))
    if (endedJob.kind === 'segmentation' && this.shownId) this.table.selectFirst()
    if (COMPANION_JOBS.has(endedJob.kind)) this.showStatus(text('added'))
    else if (new Date(document.created_at) >= new Date(endedJob.created_at)) return
    else if (endedJob.kind === 'segmentation') {
      this.showStatus(
        text('nothing_new', { when: moment(document.created_at) }), ' ',
        make('button', { onclick: () => this.segment(true) }, text('segment_again')),
      )
    } else this.showStatus(text('no_change'))
  }

  showProgress(job) {
    const bar = make('progress', { max: 1, value: job.progress })
    const cancel = make('button', { onclick: () => this.cancel(job) }, text('cancel'))
    if (!this.document) this.resultArea.replaceChildren()
    this.progressArea.replaceChildren(
      make('div', { role: 'status' }, stageText(job)), bar, make('div', { className: 'buttons' }, cancel),
    )
  }

  async cancel(job) {
    try {
      await api.cancel(job.id)
    } catch (error) {
      // The result is recorded already and arrives in a moment.
      if (error.code !== 'job_not_cancellable') this.showError(error)
    }
  }

  /** Run changes of the images one after another. Interleaved changes could show the lesions of another result. */
  enqueue(change) {
    const result = this.lastChange.then(change)
    this.lastChange = result.catch(() => {})
    return result
  }

  /** Show the table and the overlay of a segmentation. Return false if unsaved edits would be lost, or another segmentation
   * was requested in the meantime. */
  present(document, discardsEdits = false) {
    this.requestedDocument = document
    return this.enqueue(() => this.replace(document, discardsEdits))
  }

  async replace(document, discardsEdits) {
    if (this.isClosed || this.requestedDocument !== document) return false
    const previous = overlayByStudy.get(this.study)
    if (previous && previous.document !== document.id) {
      if (editing.isEdited(previous.id) && !discardsEdits) {
        this.showAlert(text('newer'), ' ', make('button', { onclick: () => this.present(document, true) }, text('show_newest')))
        if (this.resultSelect) this.resultSelect.value = this.document.id
        return false
      }
      if (editing.isEdited(previous.id)) await this.forget(previous.id)
      else await this.hideOverlay()
      this.loadedId = null
    } else if (previous) this.loadedId = previous.id
    // A hidden segmentation may have unsaved edits.
    else if (this.document?.id !== document.id) this.loadedId = null
    this.alertArea.replaceChildren()
    this.document = document
    // Select the model of the result. A drawing by hand has no model.
    for (const option of this.modelSelect.options) if (option.value === document.model.id) option.selected = true
    this.buildResult()
    if (this.shownId) this.draw()
    else await this.showOverlay()
    return true
  }

  async showOverlay() {
    if (!this.document.segmentation.sop_instance_uid) return
    try {
      this.shownId = await overlay.show(this.app, this.document, () => this.isClosed)
      this.loadedId = this.shownId ?? this.loadedId
      if (this.shownId) overlayByStudy.set(this.study, { document: this.document.id, id: this.shownId })
      this.activateSelected()
      // The viewports may have changed in the meantime.
      if (this.isOverlayOutdated) this.refreshOverlay()
    } catch (error) {
      this.showAlert(text('not_on_screen', { reason: error.message }))
    }
    this.draw()
  }

  async hideOverlay() {
    const { id } = overlayByStudy.get(this.study)
    overlayByStudy.delete(this.study)
    this.shownId = null
    if (this.document) this.draw()
    // Wait for a running refresh, so that its overlay is also removed.
    await this.refreshing
    await overlay.hide(this.app, id)
  }

  /** Discard the edits of a segmentation. */
  async forget(id) {
    if (overlayByStudy.has(this.study)) await this.hideOverlay()
    await overlay.forget(this.app, id)
    editing.discard(id)
  }

  /** Replace the edited segmentation by the stored one, after confirmation. */
  async discardEdits() {
    if (!window.confirm(text('discard_really'))) return
    await this.enqueue(async () => {
      await this.forget(this.loadedId)
      this.loadedId = null
      await this.showOverlay()
    })
    this.draw()
  }

  isEdited() {
    return editing.isEdited(this.loadedId)
  }

  /** Refresh the overlay after a change of layout or images, which may have no overlay or a wrong one. */
  refreshOverlay() {
    this.isOverlayOutdated = true
    if (!this.shownId) return null
    this.refreshing ??= this.renderOverlay().finally(() => { this.refreshing = null })
    return this.refreshing
  }

  async renderOverlay() {
    try {
      while (this.isOverlayOutdated) {
        this.isOverlayOutdated = false
        await overlay.show(this.app, this.document, () => this.isClosed || !this.shownId)
      }
    } catch {
      // A viewport was removed before it was ready.
    }
    if (this.isClosed) return
    this.activateSelected()
    this.draw()
  }

  /** Make the selected lesion the one that the brush and the eraser edit. */
  activateSelected() {
    const selected = this.document.lesions.find(lesion => lesion.tracking_uid === this.table.selected)
    if (this.shownId && selected) overlay.setActiveLesion(this.app, this.shownId, selected)
  }

  /** Build the result area: result selection, buttons, table and versions. */
  buildResult() {
    const { document } = this
    const jobButton = (label, startJob, { values, ...properties } = {}) => {
      const button = make(
        'button', { disabled: this.isBusy || !this.mayWrite, onclick: () => this.runJob(startJob), ...properties },
        text(label, values),
      )
      button.dataset.job = label
      return button
    }
    const notes = [
      ...(document.corrected_by ? [text('corrected', { version: document.version, who: document.corrected_by })] : []),
      ...changesOf(document),
    ].map(line => make('p', { className: 'note' }, line))
    notes.push(...this.versionHistory(jobButton))
    const warnings = document.warnings.map(warning => make('p', { className: 'warning' }, phrase(warning)))
    const choice = [...this.resultChoice(), ...warnings]
    const lacksCompanion = modality => !document.companions.some(companion => companion.modality === modality)
    const isModelAvailable = [...this.modelSelect.options].some(option => option.value === document.model.id)
    const uncertainty = lacksCompanion('OT') && isModelAvailable
      ? [jobButton('uncertainty', () => api.uncertaintyMap(document.id), { title: text('uncertainty_hint') })]
      : []
    this.editNotice = make(
      'div', { role: 'status', className: 'acts', hidden: true }, make('div', {}, text('edited')),
      make('div', { className: 'buttons' }, jobButton('measure', () => this.measure(), { className: 'first' }),
        make('button', { onclick: () => this.discardEdits() }, text('discard'))),
    )
    const drawButton = make(
      'button', { onclick: () => this.openDrawing(), title: text('draw_hint', { tab: drawingTabLabel(this.app) }) }, text('draw'),
    )
    if (!document.lesions.length) {
      const noLesion = make('p', { className: 'note' }, text('no_lesion'))
      this.resultArea.replaceChildren(
        ...choice, this.editNotice, noLesion, make('div', { className: 'buttons' }, drawButton, ...uncertainty), ...notes,
      )
      this.draw()
      return
    }
    this.toggleButton = make('button', { onclick: () => this.toggleOverlay() }, text(this.shownId ? 'hide' : 'show'))
    this.toggleButton.dataset.toggle = ''
    const buttons = make(
      'div', { className: 'buttons' }, this.toggleButton,
      drawButton, this.outlinesButton(), make('button', { onclick: () => this.downloadCsv() }, text('csv')),
      ...(lacksCompanion('RTSTRUCT')
        ? [jobButton('structure_set', () => api.structureSet(document.id), { title: text('structure_set_hint') })]
        : []),
      ...uncertainty,
    )
    const tableElement = make('div')
    this.table = new LesionTable(tableElement, {
      onSelect: lesion => this.goTo(lesion),
      onMark: () => this.activateSelected(),
      onRename: (lesion, name) => this.correct({ rename: [{ number: lesion.number, name }] }),
      onErase: lesion => this.correct({ erase: [lesion.number] }),
    }, this.table)
    this.table.show(document)
    this.resultArea.replaceChildren(...choice, this.editNotice, buttons, tableElement, ...notes)
  }

  /** Return the elements of the result selection. */
  resultChoice() {
    const newestVersions = resultsOf(this.documents)
    // The current document may be an older version.
    const choices = newestVersions.some(({ id }) => id === this.document.id) ? newestVersions : [this.document, ...newestVersions]
    this.resultSelect = make('select', { ariaLabel: text('result_label') }, ...choices.map(document =>
      make('option', { value: document.id, selected: document.id === this.document.id })))
    this.choices = choices
    this.resultSelect.onchange = () => this.present(choices.find(({ id }) => id === this.resultSelect.value))
    this.updateTitles()
    return [
      make('label', {}, text('result_label'), this.resultSelect), this.source,
      ...(isLost(this.document) ? [make('p', { className: 'note' }, text('lost'))] : []),
    ]
  }

  /** Name the results in the result selection, with their series if there are several. */
  nameResults() {
    const { choices, resultSelect } = this
    const areOfOneSeries = new Set(choices.map(document => document.series_instance_uid)).size === 1
    for (const [i, document] of choices.entries()) {
      const result = resultText(document, this.models)
      const name = areOfOneSeries ? result : text('result_of', { series: this.seriesName(document), result })
      if (resultSelect.options[i].text !== name) resultSelect.options[i].text = name
    }
    // The selection is narrower than a long name.
    resultSelect.title = resultSelect.selectedOptions[0].text
  }

  /** Return the list of versions of the current result. jobButton(label, startJob, properties) creates a job's button. */
  versionHistory(jobButton) {
    const [head, ...older] = versionsOf(this.documents, this.document)
    if (!older.length) return []
    const { open } = this.resultArea.querySelector('details') ?? { open: false }
    const versions = [head, ...older].map(version => make(
      'li', {}, versionText(version, this.models),
      // The changes of the current version are shown above.
      ...(version.id === this.document.id ? [] : changesOf(version)).map(line => make('div', { className: 'note' }, line)),
      ...(version === head || isLost(version) ? [] : [jobButton('back_to', () => api.restore(version.id), {
        title: text('back_to_hint'), values: { version: version.version },
      })]),
    ))
    return [make('details', { open }, make('summary', {}, text('history', { count: versions.length })), make('ul', {}, ...versions))]
  }

  draw() {
    const { document, shownId, table } = this
    if (shownId) drawAxes(this.app, shownId, document.lesions)
    const isEdited = this.isEdited()
    this.editNotice.hidden = !isEdited
    if (!document.lesions.length) return
    // A correction starts from the stored version and would lose unsaved edits. Another job may change that version.
    table.mayCorrect = this.mayWrite && !isEdited && !this.isBusy
    this.toggleButton.replaceChildren(text(shownId ? 'hide' : 'show'))
    table.draw(lesion => (shownId ? overlay.colourOf(this.app, shownId, lesion) : lesion.colour))
  }

  /** Return the series name and the date of the segmented images. */
  imageNames() {
    const { StudyDate: date } = overlay.attributesOf(this.app, this.document)
    return { series: this.seriesName(this.document), day: day(date) }
  }

  seriesName(document) {
    return overlay.attributesOf(this.app, document).SeriesDescription || document.series_instance_uid
  }

  /** Move the viewports to the lesion, or point to the notice that says why this is impossible. */
  async goTo(lesion) {
    this.alertArea.replaceChildren()
    // A viewport returns to its previous slice when it gets the overlay.
    await Promise.all([this.lastChange, this.refreshing])
    await overlay.untilDrawn(this.app, this.document)
    if (!overlay.jump(this.app, this.document, lesion)) this.viewNotice.scrollIntoView({ block: 'nearest' })
  }

  /** Mark the row of a lesion that was clicked on an image. */
  markClicked(id, number) {
    const lesion = id === this.shownId && !this.isEdited() && this.document.lesions.find(other => other.number === number)
    if (lesion) this.table.mark(lesion)
  }

  outlinesButton() {
    const button = make(
      'button', { ariaPressed: String(overlay.showsOutlinesOnly()), title: text('outlines_hint') }, text('outlines'),
    )
    button.onclick = () => {
      overlay.setOutlinesOnly(this.app, !overlay.showsOutlinesOnly())
      button.ariaPressed = String(overlay.showsOutlinesOnly())
    }
    return button
  }

  correct(changes) {
    return this.runJob(() => api.correct(this.document.id, changes))
  }

  /** Save the edits and start the job that measures them. */
  async measure() {
    this.documents = await api.segmentations(this.study)
    const [newest] = versionsOf(this.documents, this.document)
    if (newest?.id !== this.document.id) throw new api.ApiError('segmentation_superseded', text('superseded'))
    // The viewer saves only segmentations on the screen.
    if (!this.shownId) await this.enqueue(() => this.showOverlay())
    const uid = await editing.save(this.app, this.loadedId)
    try {
      return await api.measure(this.study, uid, this.document.id)
    } catch (error) {
      editing.markUnsaved(this.loadedId)
      throw error
    }
  }

  async toggleOverlay() {
    this.toggleButton.disabled = true
    await this.enqueue(() => (this.shownId ? this.hideOverlay() : this.showOverlay()))
    this.toggleButton.disabled = false
  }

  downloadCsv() {
    const url = URL.createObjectURL(new Blob([csv(this.document)], { type: 'text/csv' }))
    make('a', { href: url, download: csvName(this.document) }).click()
    URL.revokeObjectURL(url)
  }

  showAlert(...content) {
    this.alertArea.replaceChildren(make('div', { role: 'alert' }, ...content))
  }

  /** Show a message that is not an error. */
  showStatus(...content) {
    this.alertArea.replaceChildren(make('div', { role: 'status', className: 'told' }, ...content))
  }

  showError(error) {
    this.progressArea.replaceChildren()
    if (error.code === 'unauthorized') {
      const next = location.pathname + location.search
      this.showAlert(text('log_in'), ' ', make('a', { href: `/login?next=${next}` }, text('log_in_again')))
    } else if (error.code === 'unreachable') this.showAlert(text('unreachable'))
    else if (error.code === 'segmentation_superseded') {
      this.showAlert(text('superseded'), ' ', make('button', { onclick: () => this.showNewest() }, text('show_version')))
    } else this.showAlert(`${text('failed')}: ${errorText(error)}`)
  }

  /** Show the newest version of the current result. */
  async showNewest() {
    try {
      this.documents = await api.segmentations(this.study)
      await this.present(versionsOf(this.documents, this.document)[0])
    } catch (error) {
      this.showError(error)
    }
  }

  /** Open the viewer's tab with the drawing tools. Create a segmentation first if there is nothing to edit. */
  async openDrawing() {
    try {
      await this.enqueue(() => this.prepareDrawing())
    } catch (error) {
      this.showAlert(text('not_on_screen', { reason: error.message }))
      return
    }
    this.app.servicesManager.services.panelService.activatePanel(editing.PANEL_WITH_TOOLS, true)
  }

  async prepareDrawing() {
    if (this.document.lesions.length || this.loadedId) return
    this.loadedId = await overlay.createEmpty(this.app, this.document, text('edited_series'))
    overlayByStudy.set(this.study, { document: this.document.id, id: this.loadedId })
  }
}
