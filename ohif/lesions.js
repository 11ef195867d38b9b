// The table of lesions: sorting, filter, and the selected lesion with its buttons to rename and delete it.
import { make } from './dom.js'
import { confidenceOf, lesionsOf, measurableHint, nameOf, problemOf, totals } from './table.js'
import { number, text } from './texts.js'

// Return the key of the text that says which probability is shown as the confidence.
const confidenceHint = ({ confidence, mean_probability: mean }) =>
  (confidence !== null ? 'calibrated' : mean !== null ? 'not_calibrated' : 'not_by_a_model')

// The columns after the lesion's name. key: what they are sorted by. name: the heading's text; `${name}_hint` is its tooltip.
// content, hint: of a lesion's cell.
const COLUMNS = [
  { key: 'volume_ml', name: 'volume', content: lesion => number(lesion.volume_ml, 3) },
  {
    key: 'long_axis_mm', name: 'axes',
    content: lesion => `${number(lesion.long_axis_mm, 1)} × ${number(lesion.short_axis_mm, 1)}`,
  },
  {
    key: 'measurable', name: 'measurable',
    content: lesion => text(lesion.measurable ? 'yes' : 'no'), hint: measurableHint,
  },
  {
    key: 'confidence', name: 'confidence',
    content: lesion => (confidenceOf(lesion) === null ? '' : number(confidenceOf(lesion), 2)),
    hint: lesion => text(confidenceHint(lesion)),
  },
]
const HEADINGS = [{ key: 'name', name: 'lesion' }, ...COLUMNS]

export class LesionTable {
  /** element: the container. handlers: onSelect(lesion), onMark(lesion), onRename(lesion, name), onErase(lesion).
   * previous: the table that this one replaces; its order, filter and selection are kept. */
  constructor(element, handlers, previous) {
    this.handlers = handlers
    this.document = null
    // MetScope numbers lesions by volume, the largest first. Lesions drawn later follow.
    this.order = previous?.order ?? { key: 'number', descending: false }
    this.filter = previous?.filter ?? { words: '', measurable: false }
    this.selected = previous?.selected ?? null
    // Whether the user may rename and delete lesions.
    this.mayCorrect = false
    // The lesion of the buttons below the table.
    this.actionLesion = undefined
    this.tableBody = make('tbody')
    this.actionArea = make('div', { className: 'acts' })
    const wordsInput = make('input', {
      type: 'search', placeholder: text('filter'), ariaLabel: text('filter'), value: this.filter.words,
      oninput: () => this.setFilter({ words: wordsInput.value }),
    })
    const measurableInput = make('input', {
      type: 'checkbox', checked: this.filter.measurable, onchange: () => this.setFilter({ measurable: measurableInput.checked }),
    })
    this.headers = HEADINGS.map(({ key, name }) => make(
      'th', { scope: 'col' }, make('button', { onclick: () => this.sort(key), title: text(`${name}_hint`) }, text(name)),
    ))
    this.total = make('p', { className: 'note', ariaLive: 'polite' })
    element.replaceChildren(
      make('div', { className: 'sieve' }, wordsInput, make('label', {}, measurableInput, ' ', text('only_measurable'))),
      make('table', {}, make('thead', {}, make('tr', {}, ...this.headers)), this.tableBody), this.actionArea, this.total,
    )
  }

  /** Show the lesions of another segmentation. */
  show(document) {
    this.document = document
    this.draw(lesion => lesion.colour)
  }

  /** Draw the table. colourOf(lesion): its CSS colour. */
  draw(colourOf) {
    this.colourOf = colourOf
    const visibleLesions = lesionsOf(this.document, this.order, this.filter)
    const rows = visibleLesions.map(lesion => this.row(lesion))
    const focusedUid = this.tableBody.contains(document.activeElement) && document.activeElement.value
    this.tableBody.replaceChildren(...rows)
    // Replacing a row removes the keyboard focus. Restore it.
    if (focusedUid) this.tableBody.querySelector(`button[value="${focusedUid}"]`)?.focus()
    for (const [i, { key }] of HEADINGS.entries()) {
      this.headers[i].ariaSort = this.order.key !== key ? 'none' : this.order.descending ? 'descending' : 'ascending'
    }
    this.total.textContent = totals(this.document, visibleLesions)
    const lesion = this.mayCorrect ? this.selectedLesion() : undefined
    // Keep a name that is being typed when the images change.
    if (lesion !== this.actionLesion) this.showActions(lesion)
  }

  /** Show the buttons to rename and delete the lesion; clear them if it is undefined. */
  showActions(lesion) {
    this.actionLesion = lesion
    this.actionArea.replaceChildren(...(lesion ? this.actionsFor(lesion) : []))
  }

  /** Return the selected lesion; undefined if none of the document's lesions is selected. */
  selectedLesion() {
    return this.document.lesions.find(lesion => lesion.tracking_uid === this.selected)
  }

  sort(key) {
    this.order = { key, descending: this.order.key === key && !this.order.descending }
    this.draw(this.colourOf)
  }

  setFilter(changes) {
    this.filter = { ...this.filter, ...changes }
    this.draw(this.colourOf)
  }

  /** Select the first lesion, unless the user selected one while the result was loading. */
  selectFirst() {
    if (!this.selectedLesion()) this.select(this.document.lesions[0])
  }

  /** Select the lesion and show it in the viewports. */
  select(lesion) {
    this.mark(lesion)
    this.handlers.onSelect(lesion)
  }

  mark(lesion) {
    this.selected = lesion.tracking_uid
    this.handlers.onMark(lesion)
    this.draw(this.colourOf)
  }

  row(lesion) {
    const swatch = make('span', { className: 'swatch' })
    swatch.style.background = this.colourOf(lesion)
    const isSelected = lesion.tracking_uid === this.selected
    const name = make(
      'button', { value: lesion.tracking_uid, title: nameOf(lesion), ariaPressed: String(isSelected) }, swatch, nameOf(lesion),
    )
    // A click on the button also reaches the row.
    return make(
      'tr', { onclick: () => this.select(lesion), className: isSelected ? 'selected' : '' },
      make('td', {}, name),
      ...COLUMNS.map(({ content, hint }) => make('td', hint ? { title: hint(lesion) } : {}, content(lesion))),
    )
  }

  actionsFor(lesion) {
    const values = { name: nameOf(lesion) }
    const showQuestion = (question, ...content) => {
      this.actionArea.replaceChildren(
        make('div', {}, question), make('div', { className: 'buttons' }, ...content,
          make('button', { onclick: () => this.showActions(lesion) }, text('keep'))),
      )
      this.actionArea.querySelector('input, button').focus()
    }
    const rename = () => {
      const name = make('input', { value: values.name, maxLength: 64, ariaLabel: text('name') })
      const form = make('form', { className: 'buttons' }, name, make('button', { className: 'first' }, text('rename')))
      name.oninput = () => {
        const problem = problemOf(name.value, lesion, this.document)
        name.setCustomValidity(problem ? text(problem) : '')
      }
      form.onsubmit = event => {
        event.preventDefault()
        if (name.value.trim() !== values.name) this.handlers.onRename(lesion, name.value.trim())
        else this.showActions(lesion)
      }
      showQuestion(text('rename_to', values), form)
    }
    const erase = () => {
      showQuestion(
        text('delete_really', values),
        make('button', { className: 'first', onclick: () => this.handlers.onErase(lesion) }, text('delete')),
      )
    }
    return [
      make('div', { className: 'buttons' },
        make('button', { onclick: rename }, text('rename')), make('button', { onclick: erase }, text('delete'))),
    ]
  }
}
