// MetScope in OHIF: a panel with the study's lesions, and the command of its toolbar button.
import { isSaving } from './editing.js'
import { hosted } from './host.js'
import { activeStudy, onActiveViewport } from './overlay.js'
import { Panel } from './panel.js'
import { text } from './texts.js'

const id = '@metscope/extension'
const context = 'METSCOPE'
// The panel of the mode that is open.
let panel = null

export default {
  id,
  version: '0.1.0',
  context,
  // Without it the viewer throws where an image does not arrive, and its reader sees a black slice, no reason.
  preRegistration({ appConfig, servicesManager }) {
    appConfig.httpErrorHandler = error => {
      // What cannot be stored is told where it was to be stored.
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
        let opened = panel = new Panel(app, element)
        // The panel is about the study of the active viewport.
        const end = onActiveViewport(app, () => {
          if (activeStudy(app) === opened.study) return
          opened.close()
          opened = panel = new Panel(app, element)
        })
        return () => {
          end()
          opened.close()
          if (panel === opened) panel = null
        }
      }),
    },
  ],
  getCommandsModule: app => ({
    definitions: {
      metscopeSegment: {
        async commandFn() {
          app.servicesManager.services.panelService.activatePanel(`${id}.panelModule.lesions`, true)
          // The viewer opens it a moment later.
          for (let wait = 0; panel === null && wait < 50; wait++) await new Promise(done => setTimeout(done, 100))
          await panel?.segment()
        },
      },
    },
    defaultContext: context,
  }),
}
