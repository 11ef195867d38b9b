/** Create an element: make('button', { onclick }, 'text', child, …). */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties)
  element.append(...children)
  return element
}
