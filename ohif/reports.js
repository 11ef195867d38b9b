// Structured reports: a report opened in a viewport becomes measurements of the viewer.
import { activeImages, onActiveViewport } from './overlay.js'

/** Turn each opened report into measurements with the viewer's own command; return an unsubscribe function. The basic mode
 * only draws the lines and calls every report incompatible. */
export function openReports(app) {
  const loadingReports = new Set()
  return onActiveViewport(app, async () => {
    const report = activeImages(app)
    if (report?.Modality !== 'SR' || report.isHydrated || loadingReports.has(report)) return
    loadingReports.add(report)
    try {
      if (!report.isLoaded) await report.load()
      const viewportId = app.servicesManager.services.viewportGridService.getActiveViewportId()
      if (report.isRehydratable && activeImages(app) === report) {
        await app.commandsManager.runCommand('hydrateSecondaryDisplaySet', { displaySet: report, viewportId })
      }
    } finally {
      loadingReports.delete(report)
    }
  })
}
