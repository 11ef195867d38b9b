// MetScope's mode: the viewer's basic mode with MetScope's panel and button.
import { enableAxes } from './axes.js'
import * as editing from './editing.js'
import extension from './extension.js'
import { openReports } from './reports.js'
import { text } from './texts.js'

const ID = '@metscope/mode'
const SEGMENT = 'MetScopeSegment'
// The viewer's handler of parametric maps fails on floating-point values, and 3.12 goes black. Without the handler, the
// viewer lists the maps as unsupported.
const PARAMETRIC_MAP_HANDLER = '@ohif/extension-cornerstone-dicom-pmap.sopClassHandlerModule.dicom-pmap'

const button = {
  id: SEGMENT,
  uiType: 'ohif.toolButton',
  props: {
    id: SEGMENT,
    icon: 'tab-roi-threshold',
    label: text('segment'),
    tooltip: text('segment_hint'),
    commands: { commandName: 'metscopeSegment', context: extension.context },
    evaluate: 'evaluate.action',
  },
}

async function modeFactory({ loadModules }) {
  let cleanUp
  const [basic] = await loadModules(['@ohif/mode-basic'])
  const base = basic.modeFactory({ modeConfiguration: {} })
  const [route] = base.routes
  const layout = {
    ...route.layoutInstance,
    props: {
      ...route.layoutInstance.props,
      rightPanels: [
        `${extension.id}.panelModule.lesions`,
        ...route.layoutInstance.props.rightPanels.map(id => (id === editing.PANEL_WITHOUT_TOOLS ? editing.PANEL_WITH_TOOLS : id)),
      ],
      rightPanelClosed: false,
      // The width of the lesion table, px.
      rightPanelInitialExpandedWidth: 400,
    },
  }
  const mode = {
    ...base,
    id: ID,
    hide: false,
    routeName: 'metscope',
    displayName: 'MetScope',
    // The basic mode disables these: the first in 3.12, the second in 3.13.
    enableSegmentationEdit: true,
    modeCustomizations: {},
    sopClassHandlers: base.sopClassHandlers.filter(id => id !== PARAMETRIC_MAP_HANDLER),
    isValidMode: ({ modalities }) => ({
      valid: modalities.split('\\').includes('MR'),
      description: text('needs_mr'),
    }),
    routes: [{ ...route, path: 'metscope', layoutInstance: layout, layoutTemplate: () => structuredClone(layout) }],
    onModeEnter(context) {
      const { toolbarService } = context.servicesManager.services
      // Register our button before those of the basic mode, so that it comes first.
      toolbarService.register([button])
      toolbarService.updateSection('primary', [SEGMENT])
      base.onModeEnter.call(mode, context)
      editing.addTools(context.servicesManager.services)
      enableAxes(context)
      const unsubscribers = [editing.watch(context), openReports(context)]
      cleanUp = () => unsubscribers.forEach(unsubscribe => unsubscribe())
    },
    onModeExit(context) {
      cleanUp()
      base.onModeExit.call(mode, context)
    },
  }
  return mode
}

export default { id: ID, modeFactory }
