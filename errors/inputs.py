"""Images, segmentations and labelled studies that cannot be used."""

from errors.base import MetScopeError


class InputRefused(MetScopeError):
    status = 422
    code = "input_refused"
    exit_code = 3
    advice = "Choose another series."


class AmbiguousSeries(InputRefused):
    status = 409
    code = "ambiguous_series"
    advice = "Choose one of the listed series."


class NoCandidateSeries(InputRefused):
    code = "no_candidate_series"
    advice = "Send a post-contrast T1 series, or choose a series yourself."


class MissingSequence(InputRefused):
    code = "missing_sequence"
    advice = "Send the missing series, or choose one yourself."


class IdentityConflict(InputRefused):
    status = 409
    code = "identity_conflict"
    advice = (
        "Have UIDs and PatientID corrected in the archive, or delete the study's segmentations and try again."
    )


class InputsApart(InputRefused):
    code = "inputs_apart"
    advice = "Choose series of one examination, between which the patient was not moved."


class UnsupportedModality(InputRefused):
    code = "unsupported_modality"
    advice = "Choose an MR series."


class ContrastAbsent(InputRefused):
    code = "contrast_absent"
    advice = "Choose the post-contrast series; if this is it, choose it yourself."


class DerivedSeries(InputRefused):
    code = "derived_series"
    advice = "Choose an original, not reformatted, series."


class LocalizerSeries(InputRefused):
    code = "localizer_series"
    advice = "Choose a series that covers the whole head."


class NotT1Weighted(InputRefused):
    code = "not_t1_weighted"
    advice = "Choose the post-contrast T1 series; if this is it, choose it yourself."


class NotHead(InputRefused):
    code = "not_head"
    advice = "Choose a series of the head; if this is one, choose it yourself."


class TooFewSlices(InputRefused):
    code = "too_few_slices"
    advice = "Choose a series that covers the whole head."


class BrainNotFound(InputRefused):
    code = "brain_not_found"
    advice = "Choose a series that covers the whole head."


class MissingGeometry(InputRefused):
    code = "missing_geometry"
    advice = "Send the series again from the scanner."


class MissingSlices(InputRefused):
    code = "missing_slices"
    advice = "Send the complete series again from the scanner."


class UnevenSlices(InputRefused):
    code = "uneven_slices"
    advice = "Choose a series whose slices are evenly spaced."


class DuplicateSlices(InputRefused):
    code = "duplicate_slices"
    advice = "Send the series without the repeated slices."


class MixedOrientations(InputRefused):
    code = "mixed_orientations"
    advice = "Choose a series whose slices are parallel."


class SeveralStacks(InputRefused):
    status = 409
    code = "several_stacks"
    advice = "Send each of the volumes as a series of its own."


class MosaicImage(InputRefused):
    code = "mosaic_image"
    advice = "Choose a series with one slice per image."


class GantryTilt(InputRefused):
    code = "gantry_tilt"
    advice = "Choose a series whose slices are not sheared against each other."


class InconsistentImages(InputRefused):
    code = "inconsistent_images"
    advice = "Send the series again from the scanner."


class SeveralPatients(InputRefused):
    code = "several_patients"
    advice = "Ask the PACS administrator to merge the patients, or to delete the copy that is wrong."


class ColourImages(InputRefused):
    code = "colour_images"
    advice = "Choose a series of greyscale images."


class VolumeTooLarge(InputRefused):
    code = "volume_too_large"
    advice = "Check the size and the spacing of its voxels; send a series of the head alone."


class UnreadablePixels(InputRefused):
    code = "unreadable_pixels"
    advice = "Send the series uncompressed."


class ConstantPixels(InputRefused):
    code = "constant_pixels"
    advice = "Look at the series in the viewer and send it again from the scanner."


class UnreadableFile(InputRefused):
    code = "unreadable_file"
    advice = "Give whole DICOM files, a folder of them, or a NIfTI file."


class SegmentationMismatch(InputRefused):
    code = "segmentation_mismatch"
    advice = "Give a segmentation that was made on this series."


class OverlappingSegments(InputRefused):
    code = "overlapping_segments"
    advice = "Give every voxel to one segment at most, and measure the segmentation again."


class TooManyLesions(InputRefused):
    code = "too_many_lesions"
    advice = "Check the mask: it seems to hold noise, not lesions."


class DataRefused(InputRefused):
    code = "data_refused"
    advice = "Compare the folder with what docs/training.md says of its layout."
