"""Parametric Maps as written: read by dciodvfy, highdicom and pydicom, their values looked up in space."""

import io
import subprocess
import warnings
from dataclasses import replace

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.sr.codedict import codes as dictionary

from errors import UnsupportedModality
from imaging import codes, parametric_map, series
from imaging.stack import Stack, to_stack
from tests.imaging.test_seg import EDITION, SERIES, SHAPE, instances_of


def entropy_of(stack: Stack) -> hd.Volume:
    """By position: other than 0 in all slices but the first two and the last, and different everywhere."""
    places = np.indices(stack.volume.spatial_shape).reshape(3, -1).T
    x, y, z = stack.volume.map_indices_to_reference(places).T
    array = np.asarray(0.5 + 0.4 * np.sin(0.11 * x + 0.07 * y + 0.05 * z), np.float32).reshape(SHAPE)
    array[[0, 1, -1]] = 0.0
    return stack.volume.with_array(array)


def write_legal(stack: Stack, entropy: hd.Volume) -> Dataset:
    """As an archive hands it back: encoded and read again."""
    dataset = parametric_map.write(stack, entropy, EDITION)
    file = io.BytesIO()
    dataset.save_as(file)
    return pydicom.dcmread(io.BytesIO(file.getvalue()))


@pytest.fixture(scope="module", params=SERIES)
def mapped(request: pytest.FixtureRequest) -> tuple[list[Dataset], Stack, Dataset]:
    instances = instances_of(request.param)
    stack = to_stack(instances)
    return instances, stack, write_legal(stack, entropy_of(stack))


def test_each_value_lies_where_it_was_put_as_highdicom_reads_it(mapped):
    _, stack, dataset = mapped
    volume = hd.pm.ParametricMap.from_dataset(dataset).get_volume(apply_real_world_transform=True)
    positions = volume.map_indices_to_reference(np.argwhere(np.ones(volume.spatial_shape, bool)))
    x, y, z = positions.T
    expected = 0.5 + 0.4 * np.sin(0.11 * x + 0.07 * y + 0.05 * z)
    assert volume.array.ravel() == pytest.approx(expected, abs=2e-4)
    assert volume.spatial_shape == (SHAPE[0] - 3, *SHAPE[1:])
    assert volume.frame_of_reference_uid == stack.volume.frame_of_reference_uid


def test_each_value_lies_where_it_was_put_as_pydicom_reads_it(mapped):
    """By hand, after PS3.3 C.7.6.2.1.1."""
    _, _, dataset = mapped
    shared = dataset.SharedFunctionalGroupsSequence[0]
    along_row, along_column = np.reshape(
        np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float), (2, 3)
    )
    between_rows, between_columns = shared.PixelMeasuresSequence[0].PixelSpacing
    row, column = np.indices(SHAPE[1:])
    for groups, values in zip(dataset.PerFrameFunctionalGroupsSequence, dataset.pixel_array, strict=True):
        first = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        x, y, z = (
            first[:, None, None]
            + along_row[:, None, None] * column * between_columns
            + along_column[:, None, None] * row * between_rows
        )
        assert values == pytest.approx(0.5 + 0.4 * np.sin(0.11 * x + 0.07 * y + 0.05 * z), abs=2e-4)


def test_every_frame_references_the_image_of_its_place(mapped):
    instances, stack, dataset = mapped
    where = {
        (slice_image.sop_instance_uid, slice_image.frame): stack.volume.map_indices_to_reference(
            np.array([[n, 0, 0]])
        )[0]
        for n, slice_image in enumerate(stack.slices)
    }
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        (source,) = groups.DerivationImageSequence[0].SourceImageSequence
        key = source.ReferencedSOPInstanceUID, source.get("ReferencedFrameNumber")
        assert groups.PlanePositionSequence[0].ImagePositionPatient == pytest.approx(where[key], abs=1e-3)
    (referenced,) = dataset.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == instances[0].SeriesInstanceUID
    named = {item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence}
    assert named <= {instance.SOPInstanceUID for instance in instances}
    assert dataset.FrameOfReferenceUID == instances[0].FrameOfReferenceUID
    assert dataset.StudyInstanceUID == instances[0].StudyInstanceUID


def problems(dataset: Dataset, folder) -> list[str]:
    dataset.save_as(folder / "checked.dcm")
    checked = subprocess.run(
        ["dciodvfy", str(folder / "checked.dcm")], capture_output=True, text=True, check=False
    )
    lines = checked.stderr.splitlines()
    assert "ParametricMap" in lines
    return [line for line in lines if line.startswith("Error")]


def test_dciodvfy_finds_no_error(mapped, tmp_path):
    assert problems(mapped[2], tmp_path) == []


@pytest.fixture
def stack() -> Stack:
    return to_stack(instances_of("oblique"))


def test_it_says_what_its_values_are_and_what_made_them(stack):
    dataset = write_legal(stack, entropy_of(stack))
    assert dataset.SOPClassUID == "1.2.840.10008.5.1.4.1.1.30"
    assert (dataset.Modality, dataset.SeriesNumber) == ("OT", 1003)
    assert (dataset.BitsAllocated, "FloatPixelData" in dataset) == (32, True)
    (mapping,) = (
        dataset.PerFrameFunctionalGroupsSequence[0].get("RealWorldValueMappingSequence")
        or dataset.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    )
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1.0, 0.0)
    (unit,) = mapping.MeasurementUnitsCodeSequence
    assert (unit.CodeValue, unit.CodingSchemeDesignator) == ("1", "UCUM")
    assert "bits" in mapping.LUTExplanation
    (quantity,) = mapping.QuantityDefinitionSequence
    (concept,) = quantity.ConceptCodeSequence
    assert (concept.CodeValue, concept.CodingSchemeDesignator) == ("entropy", "99METSCOPE")
    (scheme,) = dataset.CodingSchemeIdentificationSequence
    assert scheme.CodingSchemeDesignator == "99METSCOPE"
    assert (dataset.ManufacturerModelName, dataset.DeviceSerialNumber) == (
        "metscope-unetr-compact",
        "5f" * 32,
    )
    for text in (dataset.SeriesDescription, dataset.ContentDescription):
        assert "research use" in text
    assert dataset.ContentQualification == "RESEARCH"
    assert dictionary.UCUM.NoUnits == codes.NO_UNITS


def test_a_map_of_zeros_shows_every_slice(stack):
    dataset = write_legal(stack, stack.volume.with_array(np.zeros(SHAPE, np.float32)))
    assert dataset.NumberOfFrames == SHAPE[0]
    assert not dataset.pixel_array.any()


def test_illegal_headers_of_the_source_are_not_inherited(tmp_path):
    instances = instances_of("oblique")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for instance in instances:
            instance.PatientID = "ID with spaces/2"
            instance.PatientBirthDate = "19701332"
            instance.StudyTime = "noon"
            instance.StudyDescription = "x" * 70
            instance.AccessionNumber = ["two", "parts"]
            del instance.PatientSex
        stack = to_stack(instances)
    dataset = write_legal(stack, entropy_of(stack))
    assert problems(dataset, tmp_path) == []
    assert dataset.PatientID == "ID with spaces/2"
    assert [dataset[name].value for name in ("PatientBirthDate", "StudyTime", "AccessionNumber")] == [""] * 3
    assert "StudyDescription" not in dataset


def test_it_is_never_offered_as_a_series_to_segment(stack):
    dataset = write_legal(stack, entropy_of(stack))
    (candidate,) = series.rank([[dataset]])
    assert candidate.refused == UnsupportedModality.code


def test_a_caller_who_breaks_the_rules_is_told(stack):
    entropy = entropy_of(stack)
    for arguments, problem in (
        ((replace(stack, headers=[]), entropy), "DICOM headers"),
        ((stack, entropy.flip_spatial(0)), "own grid"),
        ((stack, entropy.with_array(entropy.array * 2)), "not in bits"),
        ((stack, entropy.with_array(entropy.array * np.float32("nan"))), "not in bits"),
    ):
        with pytest.raises(ValueError, match=problem):
            write_legal(*arguments)
