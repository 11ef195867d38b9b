// What the viewer does not hand to extensions by its documented ways. It brings React 18 along, for one.

/** A component for the viewer that holds one element. mount(element) fills it and returns what undoes that. */
export function hosted(mount) {
  let undo = null
  // React calls this with the element, and with null when it goes.
  const ref = element => {
    undo?.()
    undo = element && mount(element)
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

/** The tool groups of the viewer's stacks and of its reformatted planes. */
export const TOOL_GROUPS = ['default', 'mpr']

/** The viewer's own { cornerstone, cornerstoneTools }. app: servicesManager, commandsManager, extensionManager. */
export const librariesOf = app => app.extensionManager
  .getModuleEntry('@ohif/extension-cornerstone.utilityModule.common').exports.getCornerstoneLibraries()
