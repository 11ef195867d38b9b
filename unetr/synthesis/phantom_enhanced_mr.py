"""The modules and functional groups that turn a multi-frame dataset into a valid Enhanced MR image."""

from collections.abc import Mapping, Sequence

from pydicom import Dataset
from pydicom.uid import generate_uid
from pydicom.valuerep import format_number_as_ds

# Neutral values, because a synthetic acquisition has no coils, saturation bands and the like.
FRAME_TYPE = {
    "PixelPresentation": "MONOCHROME",
    "VolumetricProperties": "VOLUME",
    "VolumeBasedCalculationTechnique": "NONE",
    "ComplexImageComponent": "MAGNITUDE",
    "AcquisitionContrast": "T1",
}
TIMING = {
    "RepetitionTime": "2300", "FlipAngle": "9", "EchoTrainLength": 1, "RFEchoTrainLength": 0,
    "GradientEchoTrainLength": 1, "GradientOutputType": "DB_DT", "GradientOutput": 0.0,
}  # fmt: skip
MODIFIER = {
    "InversionRecovery": "YES", "InversionTimes": 900.0, "FlowCompensation": "NONE", "Spoiling": "RF",
    "T2Preparation": "NO", "SpectrallySelectedExcitation": "NONE", "SpatialPresaturation": "NONE",
    "PartialFourier": "NO", "ParallelAcquisition": "NO",
}  # fmt: skip
IMAGING_MODIFIER = {
    "MagnetizationTransfer": "NONE", "BloodSignalNulling": "NO", "Tagging": "NONE",
    "TransmitterFrequency": 123.2, "PixelBandwidth": "240",
}  # fmt: skip
PULSE_SEQUENCE = {
    "PulseSequenceName": "MPRAGE", "MRAcquisitionType": "3D", "EchoPulseSequence": "GRADIENT",
    "MultiPlanarExcitation": "NO", "PhaseContrast": "NO", "TimeOfFlightContrast": "NO",
    "SteadyStatePulseSequence": "NONE", "EchoPlanarPulseSequence": "NO", "SaturationRecovery": "NO",
    "SpectrallySelectedSuppression": "NONE", "OversamplingPhase": "NONE",
    "GeometryOfKSpaceTraversal": "RECTILINEAR", "SegmentedKSpaceTraversal": "SINGLE",
    "RectilinearPhaseEncodeReordering": "LINEAR", "KSpaceFiltering": "NONE", "CoverageOfKSpace": "FULL",
    "NumberOfKSpaceTrajectories": 1, "ResonantNucleus": "1H", "ApplicableSafetyStandardAgency": "IEC",
    "ContentQualification": "RESEARCH",
}  # fmt: skip


def add_functional_groups(
    ds: Dataset, planes: Sequence[Dataset], rescale: tuple[float, float], shared: bool
) -> None:
    """Complete ``ds`` in place. planes: geometry by DICOM keyword, in the order of the frames.

    rescale: slope and intercept of all frames. shared: put orientation and pixel measures of the first plane
    into the shared groups; otherwise each frame has its own. Positions are always per frame.
    """
    ds.update(_dataset(FRAME_TYPE | PULSE_SEQUENCE))
    ds.BurnedInAnnotation = "NO"
    ds.LossyImageCompression = "00"
    ds.PresentationLUTShape = "IDENTITY"
    ds.AcquisitionDateTime = f"{ds.StudyDate}{ds.StudyTime}"
    ds.AcquisitionDuration = 240.0
    ds.AcquisitionContextSequence = []
    _contrast(ds)
    _dimensions(ds)
    common = _acquisition(ds, rescale)
    if shared:
        common.update(_geometry(planes[0]))
    ds.SharedFunctionalGroupsSequence = [common]
    ds.PerFrameFunctionalGroupsSequence = [
        _frame(ds, plane, number, shared) for number, plane in enumerate(planes, start=1)
    ]


def _frame(ds: Dataset, plane: Dataset, number: int, shared: bool) -> Dataset:
    frame = Dataset() if shared else _geometry(plane)
    frame.PlanePositionSequence = [_dataset({"ImagePositionPatient": plane.ImagePositionPatient})]
    frame.FrameContentSequence = [
        _dataset({
            "FrameAcquisitionNumber": 1, "StackID": "1", "InStackPositionNumber": number,
            "DimensionIndexValues": [1, number], "FrameReferenceDateTime": ds.AcquisitionDateTime,
            "FrameAcquisitionDateTime": ds.AcquisitionDateTime, "FrameAcquisitionDuration": 240.0,
        })
    ]  # fmt: skip
    return frame


def _geometry(plane: Dataset) -> Dataset:
    groups = Dataset()
    groups.PlaneOrientationSequence = [_dataset({"ImageOrientationPatient": plane.ImageOrientationPatient})]
    measures = ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices")
    groups.PixelMeasuresSequence = [_dataset({keyword: plane[keyword].value for keyword in measures})]
    return groups


def _acquisition(ds: Dataset, rescale: tuple[float, float]) -> Dataset:
    slope, intercept = (format_number_as_ds(value) for value in rescale)
    groups = Dataset()
    groups.PixelValueTransformationSequence = [
        _dataset({"RescaleIntercept": intercept, "RescaleSlope": slope, "RescaleType": "US"})
    ]
    groups.MRImageFrameTypeSequence = [_dataset({"FrameType": ds.ImageType} | FRAME_TYPE)]
    absorption = {"SpecificAbsorptionRateDefinition": "IEC_HEAD", "SpecificAbsorptionRateValue": 0.1}
    timing = _dataset(TIMING)
    timing.SpecificAbsorptionRateSequence = [_dataset(absorption)]
    timing.OperatingModeSequence = [
        _dataset({"OperatingModeType": kind, "OperatingMode": "IEC_NORMAL"})
        for kind in ("STATIC FIELD", "RF", "GRADIENT")
    ]
    groups.MRTimingAndRelatedParametersSequence = [timing]
    groups.MRFOVGeometrySequence = [
        _dataset({
            "InPlanePhaseEncodingDirection": "ROW", "MRAcquisitionFrequencyEncodingSteps": ds.Columns,
            "MRAcquisitionPhaseEncodingStepsInPlane": ds.Rows,
            "MRAcquisitionPhaseEncodingStepsOutOfPlane": ds.NumberOfFrames,
            "PercentSampling": "100", "PercentPhaseFieldOfView": "100",
        })
    ]  # fmt: skip
    groups.MREchoSequence = [_dataset({"EffectiveEchoTime": 2.98})]
    groups.MRModifierSequence = [_dataset(MODIFIER)]
    groups.MRImagingModifierSequence = [_dataset(IMAGING_MODIFIER)]
    coil = {"ReceiveCoilName": "HEAD", "ReceiveCoilManufacturerName": "", "ReceiveCoilType": "VOLUME",
            "QuadratureReceiveCoil": "NO"}  # fmt: skip
    groups.MRReceiveCoilSequence = [_dataset(coil)]
    coil = {"TransmitCoilName": "BODY", "TransmitCoilManufacturerName": "", "TransmitCoilType": "BODY"}
    groups.MRTransmitCoilSequence = [_dataset(coil)]
    groups.MRAveragesSequence = [_dataset({"NumberOfAverages": "1"})]
    anatomy = _dataset({"FrameLaterality": "U"})
    anatomy.AnatomicRegionSequence = [_code("12738006", "SCT", "Brain")]
    groups.FrameAnatomySequence = [anatomy]
    if "ContrastBolusAgentSequence" in ds:
        usage = {"ContrastBolusAgentNumber": 1, "ContrastBolusAgentAdministered": "YES",
                 "ContrastBolusAgentDetected": "YES", "ContrastBolusAgentPhase": "POST_CONTRAST"}  # fmt: skip
        groups.ContrastBolusUsageSequence = [_dataset(usage)]
    return groups


def _contrast(ds: Dataset) -> None:
    agent = ds.get("ContrastBolusAgent")
    if agent is None:
        return
    del ds.ContrastBolusAgent
    item = _code("447014006", "SCT", agent)
    item.ContrastBolusAgentNumber = 1
    item.ContrastBolusIngredientCodeSequence = [_code("105879004", "SCT", "Gadolinium")]
    item.ContrastBolusAdministrationRouteSequence = [_code("47625008", "SCT", "Intravenous route")]
    item.ContrastBolusVolume = "7.5"
    item.ContrastBolusIngredientConcentration = "1"
    item.ContrastBolusIngredientOpaque = "NO"
    ds.ContrastBolusAgentSequence = [item]


def _dimensions(ds: Dataset) -> None:
    uid = str(generate_uid(entropy_srcs=["dimensions", ds.SOPInstanceUID]))
    ds.DimensionOrganizationSequence = [_dataset({"DimensionOrganizationUID": uid})]
    ds.DimensionOrganizationType = "3D"
    ds.DimensionIndexSequence = [
        _dataset({
            "DimensionOrganizationUID": uid, "DimensionIndexPointer": pointer,
            "FunctionalGroupPointer": 0x00209111, "DimensionDescriptionLabel": label,
        })
        for pointer, label in ((0x00209056, "Stack ID"), (0x00209057, "In-Stack Position Number"))
    ]  # fmt: skip


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    return _dataset({"CodeValue": value, "CodingSchemeDesignator": scheme, "CodeMeaning": meaning})


def _dataset(values: Mapping[str, object]) -> Dataset:
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds
