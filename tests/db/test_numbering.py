"""Two results of one patient never take the same numbers, however close together they are recorded."""

import threading
from dataclasses import replace

import pytest

from db import recording, segmentations
from db.numbering import Numbering, NumberingOutdated, first_version, next_numbering, result_index_in_study
from db.source import Source
from tests.documents import documents_of_study
from tests.recorded import seg_object


def elsewhere(source: Source, study: str, patient_id: str = "MS-1") -> Source:
    """The source of another study."""
    return replace(source, study_instance_uid=study, series_instance_uid=f"{study}.1", patient_id=patient_id)


def test_numbers_go_on_across_a_patient_s_studies_and_models_and_start_again_for_another(sessions, new):
    assert next_numbering(sessions, new.source, "unetr") == Numbering(1, 0, frozenset())
    recorded = recording.record(sessions, new)
    used = frozenset({"BM-1", "BM-2"})
    assert {lesion.tracking_id for lesion in new.lesions} == used
    assert next_numbering(sessions, new.source, "unetr") == Numbering(2, 1, used)
    assert next_numbering(sessions, new.source, "another") == Numbering(1, 1, used)
    assert next_numbering(sessions, elsewhere(new.source, "1.2.8"), "unetr") == Numbering(1, 0, used)
    another_patient = elsewhere(new.source, "1.2.9", "MS-2")
    assert next_numbering(sessions, another_patient, "unetr") == Numbering(1, 0, frozenset())
    segmentations.delete_segmentation(sessions, recorded, "admin")
    assert next_numbering(sessions, new.source, "unetr").tracking_ids == used


def test_of_two_results_recorded_at_once_one_has_to_choose_again(sessions, new):
    numbering = next_numbering(sessions, new.source, new.model_id)
    together = threading.Barrier(2)
    outcomes = []

    def record(study: str) -> None:
        source = elsewhere(new.source, study)
        result = replace(new, source=source, seg=seg_object(f"{study}.2"), numbering=numbering)
        together.wait()
        try:
            recording.record(sessions, result)
            outcomes.append("recorded")
        except NumberingOutdated:
            outcomes.append("outdated")

    threads = [threading.Thread(target=record, args=(study,)) for study in ("1.2.8", "1.2.9")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["outdated", "recorded"]


def test_nothing_of_an_outdated_result_is_recorded(sessions, new):
    numbering = next_numbering(sessions, new.source, new.model_id)
    recording.record(sessions, replace(new, numbering=numbering))
    with pytest.raises(NumberingOutdated):
        recording.record(sessions, replace(new, seg=seg_object("1.9"), numbering=numbering))
    assert len(documents_of_study(sessions, "1.2.3")) == 1


def test_each_result_of_a_study_has_its_place_and_each_series_its_first_version(sessions, new):
    first = recording.record(sessions, new)
    other_model = recording.record(sessions, replace(new, model_id="b", seg=seg_object("1.9")))
    assert [result_index_in_study(sessions, segmentation_id) for segmentation_id in (first, other_model)] == [
        0,
        1,
    ]
    same_series = replace(new, seg=seg_object("1.10"))
    recording.record(sessions, same_series)
    assert first_version(sessions, new.seg.series_instance_uid) == 1
