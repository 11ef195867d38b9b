// The list of lesions: sorted, filtered, one of them selected to be renamed or deleted.
import { make } from './dom.js'
import { lesionsOf, sureness, totals } from './table.js'
import { text } from './texts.js'

const COLUMNS = [
  ['number', 'lesion'], ['volume_ml', 'volume'], ['long_axis_mm', 'axes'], ['measurable', 'measurable'],
  ['confidence', 'confidence'],
]
// Which of the two it is.
const hintOf = ({ confidence, mean_probability: mean }) =>
  (confidence !== null ? 'calibrated' : mean !== null ? 'not_calibrated' : 'not_by_a_model')
const onEnter = call => event => event.key === 'Enter' && call(event)

export class Lesions {
  /** element: to be filled. on: what the user's acts call: go(lesion), rename(lesion, name), erase(lesion). */
  constructor(element, on) {
    this.on = on
    this.document = null
    this.order = { key: 'number', descending: false }
    this.filter = { words: '', measurable: false }
    this.selected = null
    // Whether lesions may be renamed and deleted.
    this.mayCorrect = false
    this.body = make('tbody')
    this.acts = make('div', { className: 'acts' })
    const words = make('input', {
      type: 'search', placeholder: text('filter'), ariaLabel: text('filter'),
      oninput: () => this.sift({ words: words.value }),
    })
    const measurable = make('input', { type: 'checkbox', onchange: () => this.sift({ measurable: measurable.checked }) })
    const heads = COLUMNS.map(([key, name]) => {
      const sort = () => this.sort(key)
      return make('th', { onclick: sort, onkeydown: onEnter(sort), tabIndex: 0, title: text(`${name}_hint`) }, text(name))
    })
    this.total = make('p', { className: 'note' })
    element.replaceChildren(
      make('div', { className: 'sieve' }, words, make('label', {}, measurable, ' ', text('only_measurable'))),
      make('table', {}, make('thead', {}, make('tr', {}, ...heads)), this.body), this.acts, this.total,
    )
  }

  /** Another segmentation. */
  show(document) {
    this.document = document
    this.total.textContent = text('total', totals(document))
    this.draw(() => '')
  }

  /** colour(lesion): as CSS has it, empty where it is on no image. */
  draw(colour) {
    this.colour = colour
    this.body.replaceChildren(...lesionsOf(this.document, this.order, this.filter).map(lesion => this.row(lesion)))
    const lesion = this.document.lesions.find(one => one.tracking_uid === this.selected)
    this.acts.replaceChildren(...(lesion && this.mayCorrect ? this.actsOn(lesion) : []))
  }

  sort(key) {
    this.order = { key, descending: this.order.key === key && !this.order.descending }
    this.draw(this.colour)
  }

  sift(changed) {
    this.filter = { ...this.filter, ...changed }
    this.draw(this.colour)
  }

  select(lesion) {
    this.selected = lesion.tracking_uid
    this.draw(this.colour)
    this.on.go(lesion)
  }

  row(lesion) {
    const swatch = make('span', { className: 'swatch' })
    swatch.style.background = this.colour(lesion)
    const select = () => this.select(lesion)
    return make(
      'tr',
      { onclick: select, onkeydown: onEnter(select), tabIndex: 0, ariaSelected: String(lesion.tracking_uid === this.selected) },
      make('td', {}, swatch, lesion.name), make('td', {}, lesion.volume_ml.toFixed(3)),
      make('td', {}, `${lesion.long_axis_mm.toFixed(1)} × ${lesion.short_axis_mm.toFixed(1)}`),
      make('td', { title: lesion.measurable_reason }, text(lesion.measurable ? 'yes' : 'no')),
      make('td', { title: text(hintOf(lesion)) }, sureness(lesion)?.toFixed(2) ?? ''),
    )
  }

  actsOn(lesion) {
    const ask = (question, ...content) => {
      this.acts.replaceChildren(
        make('div', {}, question), make('div', { className: 'buttons' }, ...content,
          make('button', { onclick: () => this.draw(this.colour) }, text('keep'))),
      )
      this.acts.querySelector('input, button').focus()
    }
    const rename = () => {
      const name = make('input', { value: lesion.name, maxLength: 64, ariaLabel: text('name') })
      const done = () => name.value.trim() && this.on.rename(lesion, name.value.trim())
      name.onkeydown = onEnter(done)
      ask(text('rename_to', lesion), name, make('button', { className: 'first', onclick: done }, text('rename')))
    }
    const erase = () => {
      ask(text('delete_really', lesion), make('button', { className: 'first', onclick: () => this.on.erase(lesion) }, text('delete')))
    }
    return [
      make('div', { className: 'buttons' },
        make('button', { onclick: rename }, text('rename')), make('button', { onclick: erase }, text('delete'))),
    ]
  }
}
