// Access to parts of the viewer that its documented interface does not give to extensions, such as React 18.

/** Return a viewer component with a single element. mount(element) fills it and returns a cleanup function. */
export function hosted(mount) {
  let cleanUp = null
  // React calls this with the element, and with null when it removes the element.
  const ref = element => {
    cleanUp?.()
    cleanUp = element && mount(element)
  }
  const element = {
    $$typeof: Symbol.for('react.element'),
    type: 'div',
    key: null,
    ref,
    props: { className: 'metscope-host' },
    _owner: null,
    _store: {},
  }
  return () => element
}

/** The tool groups of the viewer's stacks and reformatted planes. */
export const TOOL_GROUPS = ['default', 'mpr']

/** Return the viewer's own { cornerstone, cornerstoneTools }. app: servicesManager, commandsManager, extensionManager. */
export const librariesOf = app => app.extensionManager
  .getModuleEntry('@ohif/extension-cornerstone.utilityModule.common').exports.getCornerstoneLibraries()
