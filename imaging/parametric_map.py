"""Writer of a model's uncertainty at each voxel as a DICOM Parametric Map, stored with the SEG."""

import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from imaging import codes
from imaging.derived import Edition, drawn_part, finished, sources
from imaging.seg import MAX_LABEL_LENGTH
from imaging.stack import Stack

# PS3.3 C.8.32.1 leaves the modality open. With "MR", viewers would offer the map as another MR series.
MODALITY = "OT"


def write(stack: Stack, entropy: hd.Volume, edition: Edition, max_entropy_bits: float = 1.0) -> Dataset:
    """Write a Parametric Map of uncompressed float32, Explicit VR Little Endian, ready for ``save_as``.

    entropy: bits, 0 to max_entropy_bits (slices, rows, columns) on the stack's grid. Leading and trailing
    slices of zeros are left out. Patient and study are the source's, as in ``imaging.seg.write``.
    Raises: ValueError for another grid, values out of range, or a stack without headers (from NIfTI).
    """
    if not stack.headers:
        raise ValueError("a parametric map needs the DICOM headers of its source")
    grid = stack.volume
    if entropy.shape != grid.shape or not np.allclose(entropy.affine, grid.affine, atol=1e-4):
        raise ValueError("the entropy must lie on the stack's own grid")
    # The single precision of the map may round the last bit up.
    if not (entropy.array.min() >= 0.0 and entropy.array.max() <= np.float32(max_entropy_bits)):
        raise ValueError(f"entropies from {entropy.array.min():g} to {entropy.array.max():g} are not in bits")
    if entropy.array.any():
        stack, entropy = drawn_part(stack, entropy)
    encoded = hd.pm.ParametricMap(
        source_images=sources(stack),
        pixel_array=stack.volume.with_array(entropy.array.astype(np.float32)),
        device_serial_number=edition.serial_number,
        # The map of a model that looks for lesions everywhere may show the face.
        contains_recognizable_visual_features=True,
        real_world_value_mappings=[_mapping(max_entropy_bits)],
        # LINEAR would cut off half a value at either end, which is the whole range.
        voi_lut_transformations=[
            hd.VOILUTTransformation(max_entropy_bits / 2.0, max_entropy_bits, voi_lut_function="LINEAR_EXACT")
        ],
        content_label="ENTROPY",
        content_description=edition.content_description(
            f"Uncertainty of {edition.subject.in_a_sentence}", ""
        ),
        series_description=edition.series_description(edition.subject.name, "uncertainty"),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **edition.attributes(MODALITY),
    )
    dataset = finished(encoded, stack, edition)
    # Without a body part, the object would have to state the side of a paired organ.
    if edition.subject.anatomy is not None:
        dataset.BodyPartExamined = edition.subject.anatomy.meaning.upper()[:MAX_LABEL_LENGTH]
    dataset.CodingSchemeIdentificationSequence = [_coding_scheme()]
    return dataset


def _mapping(max_entropy_bits: float) -> hd.pm.RealWorldValueMapping:
    return hd.pm.RealWorldValueMapping(
        lut_label="ENTROPY",
        lut_explanation="Entropy of the mean probability of a lesion, bits",
        unit=codes.NO_UNITS,
        value_range=(0.0, max_entropy_bits),
        slope=1.0,
        intercept=0.0,
        quantity_definition=codes.PREDICTIVE_ENTROPY,
    )


def _coding_scheme() -> Dataset:
    scheme = Dataset()
    scheme.CodingSchemeDesignator = codes.PREDICTIVE_ENTROPY.scheme_designator
    scheme.CodingSchemeName = "MetScope"
    scheme.CodingSchemeResponsibleOrganization = "MetScope"
    return scheme
