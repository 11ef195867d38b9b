// The viewer's basic mode with MetScope's panel and button in it.
import { enterAxes } from './axes.js'
import * as editing from './editing.js'
import extension from './extension.js'
import { openReports } from './reports.js'
import { text } from './texts.js'

const ID = '@metscope/mode'
const SEGMENT = 'MetScopeSegment'
// The viewer's reader of parametric maps fails on floating-point values, and 3.12 goes black; without it they are listed
// as what cannot be shown.
const MAPS = '@ohif/extension-cornerstone-dicom-pmap.sopClassHandlerModule.dicom-pmap'

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
  let leave
  const [basic] = await loadModules(['@ohif/mode-basic'])
  const base = basic.modeFactory({ modeConfiguration: {} })
  const [route] = base.routes
  const layout = {
    ...route.layoutInstance,
    props: {
      ...route.layoutInstance.props,
      rightPanels: [
        `${extension.id}.panelModule.lesions`,
        ...route.layoutInstance.props.rightPanels.map(id => (id === editing.PANEL_WITHOUT ? editing.PANEL : id)),
      ],
      rightPanelClosed: false,
      // The width of the table.
      rightPanelInitialExpandedWidth: 380,
    },
  }
  const mode = {
    ...base,
    id: ID,
    hide: false,
    routeName: 'metscope',
    displayName: 'MetScope',
    // What the basic mode switches off, the first in 3.12, the second in 3.13.
    enableSegmentationEdit: true,
    modeCustomizations: {},
    sopClassHandlers: base.sopClassHandlers.filter(id => id !== MAPS),
    isValidMode: ({ modalities }) => ({
      valid: modalities.split('\\').includes('MR'),
      description: text('needs_mr'),
    }),
    routes: [{ ...route, path: 'metscope', layoutInstance: layout, layoutTemplate: () => structuredClone(layout) }],
    onModeEnter(context) {
      const { toolbarService } = context.servicesManager.services
      // Before the base's own buttons, so that ours is the first.
      toolbarService.register([button])
      toolbarService.updateSection('primary', [SEGMENT])
      base.onModeEnter.call(mode, context)
      editing.enterTools(context.servicesManager.services)
      enterAxes(context)
      const ends = [editing.watch(context), openReports(context)]
      leave = () => ends.forEach(end => end())
    },
    onModeExit(context) {
      leave()
      base.onModeExit.call(mode, context)
    },
  }
  return mode
}

export default { id: ID, modeFactory }
