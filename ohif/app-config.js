// What the viewer reads at its start: where the images are, and MetScope's extension and mode. No secret is in it;
// who may see what is decided by nginx and the API behind the same address.
const absent = id => ({ id, modeFactory: () => null })

const settings = {
  routerBasename: null,
  showStudyList: true,
  extensions: [],
  // A mode named here takes the place of the built-in one with the same id.
  modes: [
    absent('@ohif/mode-tmtv'),
    absent('@ohif/mode-microscopy'),
    absent('@ohif/mode-preclinical-4d'),
    absent('@ohif/mode-segmentation'),
    absent('@ohif/mode-ultrasound-pleura-bline'),
  ],
  maxNumberOfWebWorkers: 3,
  showLoadingIndicator: true,
  showCPUFallbackMessage: true,
  strictZSpacingForVolumeViewport: true,
  showErrorDetails: 'production',
  maxNumRequests: { interaction: 100, thumbnail: 75, prefetch: 25 },
  // Research use is said by the panel at every result.
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

// OHIF 3.12 reads this global of Node wherever the browser does not know which script is running. That depends on the order
// in which its files arrive, and without the global the page stays empty.
window.__filename ??= `${location.origin}/`

/** The settings with MetScope in them; without it, where its files are missing or broken: a viewer all the same. */
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

// The viewer calls it, and reads some settings before it does.
window.config = Object.assign(withMetScope, settings)
