"""Every error that MetScope raises on purpose.

Each class has a stable ``code`` (documented in docs/api.md), the HTTP ``status`` of the answer, the
``exit_code`` of the command line, and ``advice``: a sentence that tells a radiologist what to do.
The message of the instance says what was found, with the tag, slice or value.

    MetScopeError
    ├── SettingsError                 a setting is wrong; MetScope does not start
    ├── InputRefused                  the images are not suitable for the model
    │   ├── AmbiguousSeries
    │   ├── NoCandidateSeries
    │   ├── MissingSequence
    │   ├── IdentityConflict          an object contradicts the identity on record
    │   ├── InputsApart               the volumes of one request cover different regions
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
    │   └── DataRefused               a labelled study, or a folder of them, cannot be used for training
    ├── EmptyLesion                   a lesion to measure has no voxels
    ├── JobCancelled                  a user cancelled the job
    ├── JobUnfinished                 a job did not end while its caller waited
    ├── DeadlineExceeded              an attempt took too long
    ├── LeaseLost                     another worker has taken the job over
    ├── JobInterrupted                a worker vanished or is being stopped
    ├── ModelError                    the model cannot be used
    │   ├── ModelSpecInvalid
    │   ├── WeightsInvalid
    │   └── OutOfMemory
    ├── RequestError                  the request itself is faulty
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
    ├── ArchiveError                  the PACS did not do what was requested
    │   ├── ArchiveUnreachable
    │   ├── ArchiveTimeout
    │   ├── ArchiveRefused
    │   ├── ArchiveIncomplete
    │   ├── StoreFailed
    │   │   └── AlreadyStored         the archive has other content under the same UIDs
    │   └── DeletionUnavailable       the archive offers no way to delete
    ├── DatabaseUnavailable           the database does not answer
    ├── ArchiveBusy                   too many requests wait for the archive
    ├── UploadBusy                    too many uploads are in progress
    └── DownloadFailed                a public data set was not downloaded completely
"""

from errors.base import *
from errors.inputs import *
from errors.jobs import *
from errors.models import *
from errors.requests import *
from errors.services import *
