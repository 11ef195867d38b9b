// MetScope's OHIF extension: a panel with the study's lesions, and the command of the toolbar button.
import { isSaving } from './editing.js'
import { hosted } from './host.js'
import { activeStudy, onActiveViewport } from './overlay.js'
import { Panel } from './panel.js'
import { text } from './texts.js'

const id = '@metscope/extension'
const context = 'METSCOPE'
// The panel of the open mode.
let panel = null

export default {
  id,
  version: '0.1.0',
  context,
  // Without this handler, a missing image raises an error in the viewer, and the user sees a black slice without a reason.
  preRegistration({ appConfig, servicesManager }) {
    appConfig.httpErrorHandler = error => {
      // The panel reports a failure to store.
      if (isSaving()) return
      console.warn('MetScope: an image did not arrive:', error?.message ?? error?.status)
      const title = text('images_missing')
      const message = text('images_missing_hint')
      servicesManager.services.uiNotificationService.show({ title, message, type: 'error', duration: 10000 })
    }
  },
  getPanelModule: app => [
    {
      name: 'lesions',
      iconName: 'tab-roi-threshold',
      iconLabel: text('panel'),
      label: text('panel'),
      component: hosted(element => {
        let ownPanel = panel = new Panel(app, element)
        // The panel follows the study of the active viewport.
        const unsubscribe = onActiveViewport(app, () => {
          if (activeStudy(app) === ownPanel.study) return
          ownPanel.close()
          ownPanel = panel = new Panel(app, element)
        })
        return () => {
          unsubscribe()
          ownPanel.close()
          if (panel === ownPanel) panel = null
        }
      }),
    },
  ],
  getCommandsModule: app => ({
    definitions: {
      metscopeSegment: {
        async commandFn() {
          app.servicesManager.services.panelService.activatePanel(`${id}.panelModule.lesions`, true)
          // The viewer opens the panel a moment later.
          for (let attempt = 0; panel === null && attempt < 50; attempt++) await new Promise(resolve => setTimeout(resolve, 100))
          await panel?.segment()
        },
      },
    },
    defaultContext: context,
  }),
}
