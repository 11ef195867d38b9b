"""Images, segmentations and labelled studies that cannot be used."""

from errors.base import MetScopeError


class InputRefused(MetScopeError):
    """Base of the errors about images, segmentations and labelled studies that cannot be used."""

    status = 422
    code = "input_refused"
    exit_code = 3
    advice = "Choose another series."


class AmbiguousSeries(InputRefused):
    """Raised when several series could be segmented and the caller has to choose one."""

    status = 409
    code = "ambiguous_series"
    advice = "Choose one of the listed series."


class NoCandidateSeries(InputRefused):
    """A study without a series that may be chosen automatically."""

    code = "no_candidate_series"
    advice = "Send a post-contrast T1 series, or select a series manually."


class MissingSequence(InputRefused):
    """A sequence that the model needs and the study lacks."""

    code = "missing_sequence"
    advice = "Send the missing series, or select one manually."


class IdentityConflict(InputRefused):
    """An object whose patient, study, frame of reference or images contradict those on record."""

    status = 409
    code = "identity_conflict"
    advice = (
        "Have the UIDs or the PatientID corrected in the archive, or delete the study's segmentations and "
        "retry."
    )


class InputsApart(InputRefused):
    """Input volumes that cover different regions or have different frames of reference."""

    code = "inputs_apart"
    advice = "Choose series from one examination in which the patient did not move between scans."


class UnsupportedModality(InputRefused):
    """An image that is not an MR image of a supported SOP class."""

    code = "unsupported_modality"
    advice = "Choose an MR series."


class ContrastAbsent(InputRefused):
    """A series that was acquired without contrast agent, according to its headers."""

    code = "contrast_absent"
    advice = "Choose the post-contrast series. If this is the post-contrast series, select it manually."


class DerivedSeries(InputRefused):
    """A series computed from other images, e.g. reformatted."""

    code = "derived_series"
    advice = "Choose an original series, not a reformatted one."


class LocalizerSeries(InputRefused):
    """A localizer series."""

    code = "localizer_series"
    advice = "Choose a series that covers the whole head."


class NotT1Weighted(InputRefused):
    """A series that its headers do not show to be T1-weighted."""

    code = "not_t1_weighted"
    advice = "Choose the post-contrast T1 series. If this is that series, select it manually."


class NotHead(InputRefused):
    """A series of another part of the body."""

    code = "not_head"
    advice = "Choose a series of the head. If this is a series of the head, select it manually."


class TooFewSlices(InputRefused):
    """A series or file with fewer slices than a volume needs."""

    code = "too_few_slices"
    advice = "Choose a series that covers the whole head."


class BrainNotFound(InputRefused):
    """A volume in which no plausible brain was found."""

    code = "brain_not_found"
    advice = "Choose a series that covers the whole head."


class MissingGeometry(InputRefused):
    """Images whose headers do not give a usable geometry."""

    code = "missing_geometry"
    advice = "Send the series again from the scanner."


class MissingSlices(InputRefused):
    """A series with a gap where slices are missing."""

    code = "missing_slices"
    advice = "Send the complete series again from the scanner."


class UnevenSlices(InputRefused):
    """A series whose slices have uneven gaps."""

    code = "uneven_slices"
    advice = "Choose a series whose slices are evenly spaced."


class DuplicateSlices(InputRefused):
    """A series with several slices at the same position."""

    code = "duplicate_slices"
    advice = "Send the series again without the duplicate slices."


class MixedOrientations(InputRefused):
    """A series whose slices have different orientations."""

    code = "mixed_orientations"
    advice = "Choose a series whose slices are parallel."


class SeveralStacks(InputRefused):
    """A series or file that holds several volumes."""

    status = 409
    code = "several_stacks"
    advice = "Send each volume as a separate series."


class MosaicImage(InputRefused):
    """An image that holds several slices."""

    code = "mosaic_image"
    advice = "Choose a series with one slice per image."


class GantryTilt(InputRefused):
    """A series or file whose slices are sheared against each other."""

    code = "gantry_tilt"
    advice = "Choose a series whose slices are not shifted sideways against each other."


class InconsistentImages(InputRefused):
    """Images whose headers contradict each other or hold impossible values."""

    code = "inconsistent_images"
    advice = "Send the series again from the scanner."


class SeveralPatients(InputRefused):
    """A study that the archive holds under several patients."""

    code = "several_patients"
    advice = "Ask the PACS administrator to merge the patients or to delete the wrong copy."


class ColourImages(InputRefused):
    """Images that are not greyscale (MONOCHROME2, one sample per pixel)."""

    code = "colour_images"
    advice = "Choose a series of greyscale images."


class VolumeTooLarge(InputRefused):
    """A volume that exceeds the limit of voxels or of extent."""

    code = "volume_too_large"
    advice = "Check the number and the size of its voxels, or send a series of the head only."


class UnreadablePixels(InputRefused):
    """Pixel data that cannot be decoded."""

    code = "unreadable_pixels"
    advice = "Send the series uncompressed."


class ConstantPixels(InputRefused):
    """A volume whose voxels all have the same value."""

    code = "constant_pixels"
    advice = "Check the series in the viewer, then send it again from the scanner."


class UnreadableFile(InputRefused):
    """A file that is missing, damaged or not of the expected kind."""

    code = "unreadable_file"
    advice = "Provide complete DICOM files, a folder of DICOM files, or a NIfTI file."


class SegmentationMismatch(InputRefused):
    """A segmentation that does not belong to the series."""

    code = "segmentation_mismatch"
    advice = "Provide a segmentation of this series."


class OverlappingSegments(InputRefused):
    """A segmentation in which a voxel belongs to several segments."""

    code = "overlapping_segments"
    advice = "Assign each voxel to at most one segment, then measure the segmentation again."


class TooManyLesions(InputRefused):
    """A segmentation with more lesions than a SEG can hold."""

    code = "too_many_lesions"
    advice = "Check the mask: it probably contains noise, not lesions."


class DataRefused(InputRefused):
    """A labelled study, or a folder of them, that cannot be used."""

    code = "data_refused"
    advice = "Compare the folder with the layout described in docs/training.md."
