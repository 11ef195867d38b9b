// The viewer's configuration: the source of the images, and MetScope's extension and mode. It contains no secret.
// nginx and the API behind the same address decide who may see what.
const disabledMode = id => ({ id, modeFactory: () => null })

const settings = {
  routerBasename: null,
  showStudyList: true,
  extensions: [],
  // A mode listed here replaces the built-in mode with the same id.
  modes: [
    disabledMode('@ohif/mode-tmtv'),
    disabledMode('@ohif/mode-microscopy'),
    disabledMode('@ohif/mode-preclinical-4d'),
    disabledMode('@ohif/mode-segmentation'),
    disabledMode('@ohif/mode-ultrasound-pleura-bline'),
  ],
  maxNumberOfWebWorkers: 3,
  showLoadingIndicator: true,
  showCPUFallbackMessage: true,
  strictZSpacingForVolumeViewport: true,
  showErrorDetails: 'production',
  maxNumRequests: { interaction: 100, thumbnail: 75, prefetch: 25 },
  // The panel states the research use with every result.
  investigationalUseDialog: { option: 'never' },
  defaultDataSourceName: 'orthanc',
  dataSources: [
    {
      namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
      sourceName: 'orthanc',
      configuration: {
        friendlyName: 'Orthanc',
        name: 'orthanc',
        qidoRoot: '/dicom-web',
        wadoRoot: '/dicom-web',
        wadoUriRoot: '/dicom-web',
        imageRendering: 'wadors',
        thumbnailRendering: 'wadors',
        bulkDataURI: { enabled: true, relativeResolution: 'studies' },
        supportsFuzzyMatching: false,
        supportsReject: false,
        supportsWildcard: true,
        enableStudyLazyLoad: true,
        omitQuotationForMultipartRequest: true,
        dicomUploadEnabled: false,
      },
    },
  ],
}

// OHIF 3.12 reads this Node global when the browser does not know which script is running. That depends on the order in
// which its files arrive. Without the global the page stays empty.
window.__filename ??= `${location.origin}/`

/** Return the settings with MetScope. If its files are missing or broken, return those of the plain viewer. */
async function withMetScope() {
  try {
    const files = ['/ohif/extension.js', '/ohif/mode.js']
    const [extension, mode] = (await Promise.all(files.map(file => import(file)))).map(module => module.default)
    return { ...settings, extensions: [extension], modes: [mode, ...settings.modes] }
  } catch (error) {
    console.error('MetScope is not loaded:', error)
    return settings
  }
}

// The viewer reads some settings before it calls the function.
window.config = Object.assign(withMetScope, settings)
