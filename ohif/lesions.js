// The list of lesions: sorted, filtered, one of them selected to be renamed or deleted.
import { make } from './dom.js'
import { lesionsOf, nameOf, problemOf, sureness, totals } from './table.js'
import { number, phrase, text } from './texts.js'

const COLUMNS = [
  ['name', 'lesion'], ['volume_ml', 'volume'], ['long_axis_mm', 'axes'], ['measurable', 'measurable'],
  ['confidence', 'confidence'],
]
// Which of the two probabilities the confidence is.
const hintOf = ({ confidence, mean_probability: mean }) =>
  (confidence !== null ? 'calibrated' : mean !== null ? 'not_calibrated' : 'not_by_a_model')

export class Lesions {
  /** element: to be filled. on: what the user's acts call: go(lesion), mark(lesion), rename(lesion, name), erase(lesion).
   * before: the list that this one replaces; the user's order, filter and selection remain. */
  constructor(element, on, before) {
    this.on = on
    this.document = null
    // As MetScope numbers them: by volume, the largest first, what was drawn later after that.
    this.order = before?.order ?? { key: 'number', descending: false }
    this.filter = before?.filter ?? { words: '', measurable: false }
    this.selected = before?.selected ?? null
    // Whether lesions may be renamed and deleted.
    this.mayCorrect = false
    // The lesion that the buttons below the table act on.
    this.actedOn = undefined
    this.body = make('tbody')
    this.acts = make('div', { className: 'acts' })
    const words = make('input', {
      type: 'search', placeholder: text('filter'), ariaLabel: text('filter'), value: this.filter.words,
      oninput: () => this.sift({ words: words.value }),
    })
    const measurable = make('input', {
      type: 'checkbox', checked: this.filter.measurable, onchange: () => this.sift({ measurable: measurable.checked }),
    })
    this.heads = COLUMNS.map(([key, name]) => make(
      'th', { scope: 'col' }, make('button', { onclick: () => this.sort(key), title: text(`${name}_hint`) }, text(name)),
    ))
    this.total = make('p', { className: 'note', ariaLive: 'polite' })
    element.replaceChildren(
      make('div', { className: 'sieve' }, words, make('label', {}, measurable, ' ', text('only_measurable'))),
      make('table', {}, make('thead', {}, make('tr', {}, ...this.heads)), this.body), this.acts, this.total,
    )
  }

  /** Another segmentation. */
  show(document) {
    this.document = document
    this.draw(() => '')
  }

  /** colour(lesion): as CSS has it, empty where it is on no image. */
  draw(colour) {
    this.colour = colour
    const shown = lesionsOf(this.document, this.order, this.filter)
    const rows = shown.map(lesion => this.row(lesion))
    const focused = this.body.contains(document.activeElement) && document.activeElement.value
    this.body.replaceChildren(...rows)
    // A row that is replaced takes the keyboard's focus with it.
    if (focused) this.body.querySelector(`button[value="${focused}"]`)?.focus()
    for (const [i, [key]] of COLUMNS.entries()) {
      this.heads[i].ariaSort = this.order.key !== key ? 'none' : this.order.descending ? 'descending' : 'ascending'
    }
    this.total.textContent = totals(this.document, shown)
    const lesion = this.mayCorrect ? this.selectedLesion() : undefined
    // A name that is being typed outlives a change of the images.
    if (lesion !== this.actedOn) this.offerActs(lesion)
  }

  /** The buttons that rename and delete the lesion; none without one. */
  offerActs(lesion) {
    this.actedOn = lesion
    this.acts.replaceChildren(...(lesion ? this.actsOn(lesion) : []))
  }

  /** undefined where nothing is selected, or what was selected is not among the lesions shown. */
  selectedLesion() {
    return this.document.lesions.find(lesion => lesion.tracking_uid === this.selected)
  }

  sort(key) {
    this.order = { key, descending: this.order.key === key && !this.order.descending }
    this.draw(this.colour)
  }

  sift(changed) {
    this.filter = { ...this.filter, ...changed }
    this.draw(this.colour)
  }

  /** Select the first lesion, unless the user has selected one while the result was being loaded. */
  selectFirst() {
    if (!this.selectedLesion()) this.select(this.document.lesions[0])
  }

  /** Select the lesion and bring it onto the screen. */
  select(lesion) {
    this.mark(lesion)
    this.on.go(lesion)
  }

  mark(lesion) {
    this.selected = lesion.tracking_uid
    this.on.mark(lesion)
    this.draw(this.colour)
  }

  row(lesion) {
    const swatch = make('span', { className: 'swatch' })
    swatch.style.background = this.colour(lesion)
    const isSelected = lesion.tracking_uid === this.selected
    const name = make(
      'button', { value: lesion.tracking_uid, title: nameOf(lesion), ariaPressed: String(isSelected) }, swatch, nameOf(lesion),
    )
    // A click on the button reaches the row too.
    return make(
      'tr', { onclick: () => this.select(lesion), className: isSelected ? 'selected' : '' },
      make('td', {}, name), make('td', {}, number(lesion.volume_ml, 3)),
      make('td', {}, `${number(lesion.long_axis_mm, 1)} × ${number(lesion.short_axis_mm, 1)}`),
      make('td', { title: phrase(lesion.measurable_reason) }, text(lesion.measurable ? 'yes' : 'no')),
      make('td', { title: text(hintOf(lesion)) }, sureness(lesion) === null ? '' : number(sureness(lesion), 2)),
    )
  }

  actsOn(lesion) {
    const shown = { name: nameOf(lesion) }
    const ask = (question, ...content) => {
      this.acts.replaceChildren(
        make('div', {}, question), make('div', { className: 'buttons' }, ...content,
          make('button', { onclick: () => this.offerActs(lesion) }, text('keep'))),
      )
      this.acts.querySelector('input, button').focus()
    }
    const rename = () => {
      const name = make('input', { value: shown.name, maxLength: 64, ariaLabel: text('name') })
      const form = make('form', { className: 'buttons' }, name, make('button', { className: 'first' }, text('rename')))
      name.oninput = () => {
        const problem = problemOf(name.value, lesion, this.document)
        name.setCustomValidity(problem ? text(problem) : '')
      }
      form.onsubmit = event => {
        event.preventDefault()
        if (name.value.trim() !== shown.name) this.on.rename(lesion, name.value.trim())
        else this.offerActs(lesion)
      }
      ask(text('rename_to', shown), form)
    }
    const erase = () => {
      ask(text('delete_really', shown), make('button', { className: 'first', onclick: () => this.on.erase(lesion) }, text('delete')))
    }
    return [
      make('div', { className: 'buttons' },
        make('button', { onclick: rename }, text('rename')), make('button', { onclick: erase }, text('delete'))),
    ]
  }
}
