// Structured reports: one that is opened in a viewport becomes measurements of the viewer.
import { activeImages, onActiveViewport } from './overlay.js'

/** Turn each report that is opened into measurements, by the viewer's own command; its basic mode only draws the lines and
 * calls every report incompatible. Returns what ends that. */
export function openReports(app) {
  const opening = new Set()
  return onActiveViewport(app, async () => {
    const report = activeImages(app)
    if (report?.Modality !== 'SR' || report.isHydrated || opening.has(report)) return
    opening.add(report)
    try {
      if (!report.isLoaded) await report.load()
      const viewportId = app.servicesManager.services.viewportGridService.getActiveViewportId()
      if (report.isRehydratable && activeImages(app) === report) {
        await app.commandsManager.runCommand('hydrateSecondaryDisplaySet', { displaySet: report, viewportId })
      }
    } finally {
      opening.delete(report)
    }
  })
}
