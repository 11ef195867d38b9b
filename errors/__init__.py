"""Every error that MetScope raises on purpose.

Each class carries a stable ``code`` (documented in docs/api.md), the HTTP ``status`` it is answered
with, the ``exit_code`` of the command line, and ``advice``: a sentence that tells a radiologist what
to do. The message given at the raise says what was found, naming tag, slice or value.

    MetScopeError
    ├── SettingsError                 a setting is wrong; nothing starts
    ├── RequestError                  the request itself is at fault
    │   ├── InvalidForm
    │   ├── UploadRefused
    │   ├── Unauthorized
    │   ├── Forbidden
    │   ├── TokenExists
    │   ├── NotFound
    │   │   ├── StudyNotFound
    │   │   ├── SeriesNotFound
    │   │   ├── JobNotFound
    │   │   ├── BatchNotFound
    │   │   ├── SegmentationNotFound
    │   │   ├── LesionNotFound
    │   │   ├── InstanceNotFound
    │   │   ├── PatientNotFound
    │   │   ├── TokenNotFound
    │   │   └── ModelNotFound
    │   ├── JobNotCancellable
    │   ├── JobNotRetryable
    │   ├── SegmentationNotStored
    │   ├── SegmentationSuperseded
    │   ├── LesionNameTaken
    │   └── UncertaintyUnavailable
    ├── InputRefused                  the images are not what the model may be run on
    │   ├── AmbiguousSeries
    │   ├── NoCandidateSeries
    │   ├── MissingSequence
    │   ├── IdentityConflict          known UIDs come with another patient and other images
    │   ├── InputsApart               the volumes of one request show different places
    │   ├── UnsupportedModality
    │   ├── ContrastAbsent
    │   ├── DerivedSeries
    │   ├── LocalizerSeries
    │   ├── NotT1Weighted
    │   ├── NotHead
    │   ├── TooFewSlices
    │   ├── BrainNotFound
    │   ├── MissingGeometry
    │   ├── MissingSlices
    │   ├── UnevenSlices
    │   ├── DuplicateSlices
    │   ├── MixedOrientations
    │   ├── SeveralStacks
    │   ├── MosaicImage
    │   ├── GantryTilt
    │   ├── InconsistentImages
    │   ├── SeveralPatients
    │   ├── ColourImages
    │   ├── VolumeTooLarge
    │   ├── UnreadablePixels
    │   ├── ConstantPixels
    │   ├── UnreadableFile
    │   ├── SegmentationMismatch
    │   ├── OverlappingSegments
    │   ├── TooManyLesions
    │   └── DataRefused               a labelled study, or a folder of them, cannot be learnt from
    ├── ArchiveError                  the PACS did not do what it was asked
    │   ├── ArchiveUnreachable
    │   ├── ArchiveTimeout
    │   ├── ArchiveRefused
    │   ├── ArchiveIncomplete
    │   ├── StoreFailed
    │   │   └── AlreadyStored         other content is there under the same UIDs
    │   └── DeletionUnavailable       the archive offers no way to delete
    ├── DatabaseUnavailable           nothing can be read or written now
    ├── ArchiveBusy                   others wait for the archive
    ├── UploadBusy                    others are uploading
    ├── DownloadFailed                a public data set did not arrive whole
    ├── ModelError                    the model cannot be used
    │   ├── ModelSpecInvalid
    │   ├── WeightsInvalid
    │   └── OutOfMemory
    ├── EmptyLesion                   a measurement was asked of no voxels
    ├── JobCancelled                  a person cancelled the job
    ├── JobUnfinished                 whoever waited for a job waited too long
    ├── DeadlineExceeded              an attempt took too long
    ├── LeaseLost                     another worker has taken the job over
    └── JobInterrupted                a worker vanished and the attempts are used up
"""

from errors.base import *
from errors.inputs import *
from errors.jobs import *
from errors.models import *
from errors.requests import *
from errors.services import *
