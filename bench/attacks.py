"""The attacks and faults that MetScope must withstand, each covered by tests or accepted for a reason.

    python -m bench.attacks

Prints a line for each attack: held, FAILED, or accepted with the reason; then the counts. All tests run in
one pytest process, so that shared servers start once. The exit status is 1 if one does not hold.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pytest

HELD, FAILED, ACCEPTED = "held", "FAILED", "accepted"
WITH_LONG_ONES = ("-m", "long or not long")


@dataclass(frozen=True)
class Attack:
    """An attack or fault. tried: in plain words. through: the parts that it meets.

    tests: names of tests as pytest writes them. A name without brackets means all cases of the test, one with
    brackets the cases whose names begin with it. accepted: why nothing is done, if there are no tests.
    """

    tried: str
    through: str
    tests: tuple[str, ...] = ()
    accepted: str | None = None

    def tests_among(self, names: Iterable[str]) -> list[list[str]]:
        """Return for each of the attack's tests the names that it means."""
        listed = list(names)
        return [[name for name in listed if _means(test, name)] for test in self.tests]

    def verdict(self, outcomes: dict[str, str]) -> str:
        """Return HELD, FAILED or ACCEPTED. outcomes: by name of a test, ``passed`` or another outcome."""
        if self.accepted:
            return ACCEPTED
        tried = self.tests_among(outcomes)
        held = all(names and {outcomes[name] for name in names} == {"passed"} for names in tried)
        return HELD if held else FAILED


def _means(test: str, name: str) -> bool:
    return name.startswith(test) if "[" in test else name == test or name.startswith(f"{test}[")


ACCESS, API, BROKER = "tests/test_access.py::", "tests/test_api.py::", "tests/test_broker.py::"
CORRECTION, DELETION = "tests/test_correction.py::", "tests/test_deletion.py::"
EDGE, FAULTS, HOUSE = "tests/test_edge_cases.py::", "tests/test_faults.py::", "tests/test_architecture.py::"
IDENTITY, UPLOADS = "tests/test_identity.py::", "tests/imaging/test_uploads.py::"
BATCHES, DATABASE = "tests/db/test_batches.py::", "tests/db/test_database.py::"
JOBS, MEASUREMENTS = "tests/db/test_jobs.py::", "tests/db/test_recording.py::"
FOLDER, ORTHANC = "tests/orthanc/test_folder.py::", "tests/orthanc/test_orthanc.py::"
STACK, WORKER = "tests/test_stack.py::", "tests/test_worker.py::"
ROW = f"{FAULTS}test_what_is_left_is_one_or_none"
PACS = f"{FAULTS}test_a_pacs_that_misbehaves"
LIE = f"{EDGE}test_a_header_that_lies_is_refused_and_no_memory_taken_for_it"
BOMB = f"{UPLOADS}test_a_bomb_is_refused_at_little_cost"
REFUSED = f"{UPLOADS}test_what_is_damaged_forged_or_something_else_is_refused_without_a_name"
TRICKLES = "tests/orthanc/test_transport.py::test_an_archive_that_trickles_meets_the_total_limit"

ATTACKS = (
    # Access.
    Attack(
        "460 spellings of a path by each role, with #, .., //, ;, \\, NUL and their encodings, that lead out "
        "of a location to Orthanc's REST API, to delete a study or to shut Orthanc down",
        "nginx, Orthanc",
        (f"{STACK}test_whatever_the_target_s_spelling_only_the_named_paths_reach_orthanc",),
    ),
    Attack(
        "other doors of Orthanc by an operator: its DICOMweb client, encoded climbs",
        "nginx, Orthanc",
        (f"{STACK}test_no_other_door_of_orthanc_opens_to_an_operator",),
    ),
    Attack(
        "a second request hidden in the body of the first, by two lengths or a length and chunks",
        "nginx, Orthanc",
        (f"{STACK}test_no_request_is_smuggled_in_the_body_of_another",),
    ),
    Attack(
        "a link with _method=DELETE or a header that overrides the method, with an admin's cookie",
        "nginx, Orthanc",
        (f"{STACK}test_no_link_on_another_site_has_an_admin_s_browser_delete_a_study",),
    ),
    Attack(
        "a page of another site that sends requests with the cookie",
        "nginx, API",
        (
            f"{STACK}test_behind_nginx_too_a_cookie_changes_nothing_from_another_site",
            f"{ACCESS}test_with_a_cookie_a_page_of_another_site_changes_nothing",
            f"{ACCESS}test_a_form_on_another_site_changes_nothing",
            f"{ACCESS}test_a_login_by_another_site_s_form_is_refused",
        ),
    ),
    Attack(
        "a login under a host name with an underscore, and one of Origin null",
        "API",
        (f"{ACCESS}test_a_login_works_under_whatever_name_the_host_has",),
    ),
    Attack(
        "requests for the archive while the API that decides about tokens is away",
        "nginx",
        (f"{STACK}test_one_client_s_rate_is_not_another_s_though_both_come_by_a_proxy[/dicom-web/studies]",),
    ),
    Attack(
        "no token, a wrong one, Orthanc's own scheme with a guessed password",
        "nginx, API",
        (
            f"{STACK}test_without_a_token_nginx_passes_nothing_on",
            f"{ACCESS}test_without_a_token_only_health_and_the_login_answer",
        ),
    ),
    Attack(
        "one client that asks without pause, for the viewer's pages too, and others behind the same proxy",
        "nginx",
        (f"{STACK}test_one_client_s_rate_is_not_another_s_though_both_come_by_a_proxy",),
    ),
    Attack(
        "a client that names an address of its own choice to escape its rate",
        "nginx",
        (f"{STACK}test_no_client_chooses_its_own_address",),
    ),
    Attack(
        "a page of another site that frames the viewer or has it run foreign code",
        "nginx",
        (f"{STACK}test_every_answer_says_what_a_browser_may_do_with_it",),
    ),
    Attack(
        "a stranger's C-STORE to Orthanc as shipped, and to an open DICOM port under a known title",
        "Orthanc",
        (f"{ORTHANC}test_no_stranger_stores_by_dicom",),
    ),
    # Data of the wrong patient.
    Attack(
        "two studies with the same SOP Instance UIDs",
        "worker, database",
        (f"{IDENTITY}test_repeated_sop_instance_uids_in_another_study_give_a_result_of_its_own",),
    ),
    Attack(
        "other pixels under the same UIDs",
        "worker, database",
        (f"{IDENTITY}test_replaced_pixels_under_the_same_uids_are_segmented_anew",),
    ),
    Attack(
        "one Series Instance UID in the studies of two patients",
        "worker, database",
        (f"{IDENTITY}test_one_series_uid_in_the_studies_of_two_patients_is_two_series",),
    ),
    Attack(
        "one Study Instance UID of two patients",
        "worker, database, Orthanc",
        (
            f"{IDENTITY}test_a_known_study_uid_with_another_patient_and_other_images_is_refused",
            f"{ORTHANC}test_a_study_is_not_parted_between_two_patients",
            f"{ORTHANC}test_a_study_under_two_patients_is_refused_as_that",
        ),
    ),
    Attack(
        "one folder with the studies of two patients",
        "command line",
        (
            f"{IDENTITY}test_a_folder_with_series_of_several_is_asked_about",
            f"{EDGE}test_of_two_patients_in_a_folder_one_has_to_be_named",
        ),
    ),
    Attack(
        "one series with images of two patients",
        "worker",
        (f"{IDENTITY}test_a_series_with_images_of_two_patients_is_refused",),
    ),
    Attack(
        "a PACS that serves another series than the one it was asked for",
        "worker, PACS",
        (f"{FAULTS}test_a_pacs_that_serves_what_was_not_asked_for",),
    ),
    Attack(
        "a SEG in one patient's study that references another's series",
        "worker",
        (f"{IDENTITY}test_a_seg_that_is_not_of_one_series_of_its_study_is_refused_and_changes_nothing",),
    ),
    Attack(
        "a structure set of another patient, of images that are gone, or that lists another series first",
        "worker, command line",
        (
            f"{IDENTITY}test_a_structure_set_is_measured_on_the_series_whose_images_its_contours_name",
            f"{IDENTITY}test_a_structure_set_that_is_not_of_one_series_of_its_patient_is_refused",
            "tests/imaging/test_rtstruct.py::test_contours_that_do_not_fit_the_series_are_refused",
        ),
    ),
    Attack(
        "an upload under the UIDs of another patient's images, into a folder",
        "folder archive",
        (f"{FOLDER}test_what_is_there_is_never_replaced_by_other_content_or_another_patient",),
    ),
    Attack(
        "an upload under known UIDs in another transfer syntax, with pixels that cannot be decoded",
        "upload",
        (f"{FOLDER}test_pixels_that_cannot_be_decoded_are_other_content",),
    ),
    Attack(
        "an upload under known UIDs with other content, which Orthanc calls stored",
        "Orthanc",
        (f"{ORTHANC}test_other_content_under_known_uids_is_not_called_stored",),
    ),
    Attack(
        "a PatientID corrected in the PACS, or other images under the same UIDs, while a result waits",
        "worker",
        (
            f"{IDENTITY}test_what_waits_to_be_stored_while_the_patient_id_is_corrected_is_stored_for_the_corrected_patient",
            f"{IDENTITY}test_what_waits_to_be_stored_is_not_stored_for_another_patient_s_images",
            f"{IDENTITY}test_a_retry_makes_a_result_again_that_was_deleted_before_it_was_stored",
        ),
    ),
    # Exhausted memory.
    Attack(
        "a small upload of few but huge voxels, for the grid of a model",
        "worker",
        (
            f"{API}test_a_small_upload_of_a_huge_volume_is_refused_and_the_worker_lives[20 mm",
            f"{LIE}[voxels of 50 mm",
            "tests/unetr/test_preprocess.py::test_a_volume_that_would_fill_the_memory_on_the_models_grid_is_refused",
        ),
    ),
    Attack(
        "a small upload of many compressed pixels, and headers that claim more than there are",
        "worker",
        (
            f"{API}test_a_small_upload_of_a_huge_volume_is_refused_and_the_worker_lives[4096 x 4096",
            f"{LIE}[8192 rows and columns",
            f"{LIE}[65535 rows and columns",
            f"{LIE}[1000000000 frames",
            f"{REFUSED}[large once decoded",
        ),
    ),
    Attack(
        "a small ZIP with a SEG of one huge frame, or of frames without end",
        "worker, command line",
        (
            "tests/imaging/test_seg_read.py::"
            "test_frames_that_cannot_be_of_the_series_are_refused_and_no_memory_taken_for_them",
        ),
    ),
    Attack(
        "numbers and UIDs that are missing, a text, or two, in a SEG, a structure set and an image",
        "worker, command line, folder archive",
        (
            "tests/imaging/test_seg_read.py::test_a_broken_segmentation_is_refused_with_a_sentence",
            "tests/imaging/test_rtstruct.py::test_a_roi_without_one_number_is_refused",
            f"{EDGE}test_a_file_without_a_uid_or_with_two_of_it_is_a_damaged_file",
        ),
    ),
    Attack(
        "a small ZIP of instances with hundreds of MB beside their pixels",
        "upload",
        (
            f"{API}test_documents_of_zeros_take_no_more_memory_than_the_largest",
            f"{BOMB}[160 MB of zeros in 8 members",
            f"{UPLOADS}test_a_study_takes_no_more_memory_than_its_largest_instance",
        ),
    ),
    Attack(
        "ZIPs of 10 GB, in each other, or with one member listed 400 times",
        "upload",
        (
            f"{BOMB}[10 GB",
            f"{BOMB}[one member listed 400 times",
            f"{BOMB}[the bomb in a ZIP",
            f"{BOMB}[501 members",
            f"{BOMB}[30 000 members",
        ),
    ),
    Attack(
        "one million empty elements, items or fragments in an instance",
        "upload",
        (f"{BOMB}[a million", f"{BOMB}[those, defined length", f"{BOMB}[20 million"),
    ),
    Attack(
        "instances and SEGs nested thousands deep",
        "upload, worker",
        (
            f"{BOMB}[nested 5000 deep",
            f"{BOMB}[30 MB nested 30 deep",
            f"{EDGE}test_a_file_nested_thousands_deep_spoils_no_other",
            f"{EDGE}test_a_seg_nested_thousands_deep_is_a_damaged_file",
        ),
    ),
    Attack(
        "a NIfTI file that unpacks to more than the memory",
        "command line",
        ("tests/imaging/test_nifti.py::test_a_bomb_is_refused_at_little_cost",),
    ),
    Attack(
        "JSON nested 50 000 deep, by a client and by a PACS",
        "API, PACS",
        (
            f"{API}test_json_nested_beyond_reason_is_a_bad_request",
            "tests/orthanc/test_transport.py::test_json_nested_beyond_reason_is_refused",
        ),
    ),
    Attack(
        "JSON of a PACS that does not end",
        "PACS",
        ("tests/orthanc/test_transport.py::test_json_without_an_end_is_refused",),
    ),
    Attack(
        "a mask of 100 000 lesions, more than a SEG can hold",
        "measurement",
        ("tests/lesions/test_measure.py::test_more_lesions_than_a_seg_can_hold_are_refused",),
    ),
    Attack(
        "more lesions than eight bits can count",
        "SEG, NIfTI",
        (
            "tests/imaging/test_seg.py::test_more_than_255_lesions_are_written",
            "tests/imaging/test_nifti.py::test_more_than_255_labels_are_written",
        ),
    ),
    Attack(
        "2 000 lesions in one picture",
        "reports",
        ("tests/reports/test_overlay.py::test_of_thousands_of_lesions_the_first_are_shown",),
    ),
    # Hanging parts.
    Attack(
        "Redis hung at 40 requests and 40 questions about health, and from a request to the end of its job",
        "API, worker, Redis",
        (
            f"{ROW}[Redis hung from the request to the end]",
            f"{BROKER}test_a_hung_redis_stops_neither_requests_nor_health",
            f"{BROKER}test_a_redis_that_hangs_is_reported_and_raises_nothing",
        ),
    ),
    Attack(
        "a worker whose connection to Redis says nothing any more",
        "worker, Redis",
        (
            f"{WORKER}test_a_free_worker_runs_what_waits_without_any_message",
            f"{ROW}[Redis killed in predict]",
        ),
    ),
    Attack(
        "PostgreSQL hung at the request and in the middle of a job",
        "API, worker, PostgreSQL",
        (
            f"{ROW}[PostgreSQL hung at the request]",
            f"{ROW}[PostgreSQL hung in predict]",
            f"{FAULTS}test_a_hung_postgresql_is_answered_with_503_until_it_goes_on",
        ),
    ),
    Attack(
        "the table of tokens or of jobs locked by somebody",
        "API, PostgreSQL",
        (
            f"{ROW}[tokens locked]",
            f"{ROW}[PostgreSQL locked for 2 s]",
            f"{FAULTS}test_a_table_that_somebody_keeps_locked_is_answered_with_503",
            f"{FAULTS}test_a_process_that_hangs_in_a_transaction_loses_its_locks",
        ),
    ),
    Attack(
        "64 uploads of one client that never end",
        "nginx, API, Orthanc",
        (f"{STACK}test_64_uploads_that_never_end_stop_nobody",),
    ),
    Attack(
        "a folder of models that hangs, as a share whose server is gone",
        "API",
        (f"{FAULTS}test_a_folder_of_models_that_hangs_is_not_ready_and_holds_up_no_answer",),
    ),
    Attack(
        "viewers that open studies of a hung PACS until no thread is left",
        "API",
        (f"{API}test_requests_that_wait_for_a_hung_archive_leave_threads_for_everybody_else",),
    ),
    Attack(
        "uploads that wait for one another until no thread is left",
        "API",
        (f"{API}test_uploads_that_wait_for_another_leave_threads_for_everybody_else",),
    ),
    Attack(
        "64 downloads that nobody reads",
        "nginx, Orthanc",
        (f"{STACK}test_64_downloads_that_nobody_reads_stop_nobody",),
    ),
    Attack(
        "40 slow connections to api.py without nginx in front",
        "API",
        accepted="api.py alone is for a desk; nginx, the front door, spends no thread on a connection",
    ),
    Attack("a PACS that trickles headers, 100 Continue or its body", "PACS", (TRICKLES,)),
    Attack(
        "a PACS that stalls, drops connections or trickles for ever",
        "worker, PACS",
        (f"{PACS}[PACS stalls", f"{PACS}[PACS trickles", f"{PACS}[PACS drops"),
    ),
    Attack(
        "links that lead to themselves and named pipes in the archive's folder",
        "folder archive",
        (f"{FOLDER}test_named_pipes_and_links_that_lead_nowhere_are_passed_over",),
    ),
    Attack(
        "a model's code that hangs",
        "worker",
        (f"{WORKER}test_a_worker_that_hangs_in_foreign_code_ends_itself",),
    ),
    # Health, models and clocks.
    Attack(
        "a database that takes no changes, asked about health and for a job",
        "API, PostgreSQL",
        (f"{FAULTS}test_a_database_that_takes_no_changes_is_not_ready",),
    ),
    Attack("a full data folder", "API", (f"{FAULTS}test_a_full_data_folder_is_not_ready",)),
    Attack(
        "Redis at its limit of memory",
        "API, Redis",
        (f"{BROKER}test_a_redis_whose_memory_is_full_is_in_trouble",),
    ),
    Attack(
        "a half-copied model beside the served one",
        "API",
        (f"{FAULTS}test_a_half_copied_model_spoils_no_other",),
    ),
    Attack(
        "the files of the served model replaced",
        "worker",
        (f"{FAULTS}test_a_model_whose_files_were_replaced_is_the_one_that_segments",),
    ),
    Attack(
        "weights cut short, and a default model that cannot be read",
        "API, worker",
        (
            f"{FAULTS}test_weights_that_a_worker_cannot_load_are_not_ready",
            f"{FAULTS}test_a_default_model_that_cannot_be_served_is_not_ready_and_said_at_the_start",
        ),
    ),
    Attack(
        "one worker's clock two hours ahead",
        "worker, PostgreSQL",
        (f"{JOBS}test_a_worker_whose_clock_is_ahead_takes_no_job_from_a_healthy_one[postgresql]",),
    ),
    Attack(
        "the clock set forward by two hours in the middle of a job",
        "worker, database",
        (f"{JOBS}test_the_deadline_is_measured_by_the_worker_s_own_stopwatch",),
    ),
    Attack(
        "the clock set back by two hours after a worker has died",
        "worker, database",
        (
            f"{JOBS}test_after_the_clock_was_set_back_a_vanished_worker_s_job_waits_no_longer_than_before",
            f"{JOBS}test_after_the_clock_was_set_back_a_postponed_job_waits_no_longer_than_before",
            "tests/db/test_workers.py::test_one_that_vanished_before_the_clock_was_set_back_does_not_live_on",
        ),
    ),
    Attack(
        "the queue's folder deleted",
        "API",
        (f"{BROKER}test_a_queue_folder_that_was_deleted_refuses_no_request",),
    ),
    Attack(
        "a fault in the worker's housekeeping that nobody foresaw, and a database that is away from it",
        "worker",
        (
            f"{WORKER}test_the_housekeeping_outlives_a_fault_that_nobody_foresaw",
            f"{WORKER}test_the_housekeeping_outlives_a_database_that_is_away",
        ),
    ),
    Attack(
        "SEGs that the PACS refuses or never answers about, before one that was deleted in it",
        "worker",
        (f"{WORKER}test_segs_that_the_archive_never_answers_about_keep_no_lost_one_from_being_noticed",),
    ),
    # Races.
    Attack(
        "30 overlapping batches asked for and cancelled at once",
        "database",
        (f"{BATCHES}test_overlapping_batches_asked_for_and_cancelled_at_once_all_end",),
    ),
    Attack(
        "six equal requests at once",
        "API, worker",
        (f"{ROW}[six identical requests at once]",),
    ),
    Attack(
        "a thousand requests at once",
        "API",
        (f"{API}test_a_thousand_requests_at_once_have_one_result_and_stop_nobody",),
    ),
    Attack(
        "a batch of a thousand studies",
        "API",
        (f"{API}test_a_batch_of_a_thousand_studies_fits",),
    ),
    Attack(
        "two corrections of one version at once",
        "worker, database",
        (f"{CORRECTION}test_of_two_corrections_at_once_one_is_made_and_the_other_refused",),
    ),
    Attack(
        "two results of a patient recorded at once",
        "worker, database",
        (
            f"{CORRECTION}test_no_two_lesions_of_a_patient_share_an_identifier_though_their_jobs_run_at_once",
            "tests/db/test_numbering.py::test_of_two_results_recorded_at_once_one_has_to_choose_again",
        ),
    ),
    Attack(
        "a study deleted while a job of it starts or has read its images",
        "API, worker, Orthanc",
        (
            f"{DELETION}test_a_study_that_is_deleted_while_a_job_of_it_runs_does_not_reappear",
            f"{DELETION}test_a_job_that_read_the_images_before_their_deletion_records_nothing_after_it",
        ),
    ),
    Attack(
        "a result deleted while its structure set or its correction is made",
        "API, worker, Orthanc",
        (
            f"{DELETION}test_no_structure_set_is_left_of_a_segmentation_that_is_deleted_while_it_is_made",
            f"{DELETION}test_no_correction_is_left_of_a_segmentation_that_is_deleted_while_it_is_made",
        ),
    ),
    Attack(
        "a purge while a job is at work on a deleted result",
        "database",
        ("tests/db/test_retention.py::test_a_deleted_result_that_a_job_is_still_at_work_on_waits_for_the_next_purge",),
    ),
    Attack(
        "two first SEGs of a series, measured at once or uploaded together",
        "worker, API",
        (
            f"{CORRECTION}test_of_two_first_segs_of_a_series_at_once_one_is_measured_and_the_other_refused",
            "tests/test_segmentationui.py::test_of_two_segmentations_of_one_series_in_an_upload_one_is_measured_and_the_answer_says_so",
        ),
    ),
    Attack(
        "a batch that is cancelled after somebody asked for one of its studies by itself",
        "API",
        (f"{BATCHES}test_a_job_of_a_batch_that_somebody_asked_for_by_itself_later_is_not_cancelled_with_it",),
    ),
    # Killed parts.
    Attack("a worker killed in each stage of a segmentation", "worker", (f"{ROW}[worker killed in",)),
    Attack(
        "a worker killed at every attempt",
        "worker",
        (f"{ROW}[worker killed at every attempt]",),
    ),
    Attack("a worker killed in the middle of a correction", "worker", (f"{ROW}[correction: worker killed",)),
    Attack(
        "a worker killed in the middle of a structure set",
        "worker",
        (f"{ROW}[structure set: worker killed",),
    ),
    Attack(
        "a worker killed in fetch, predict and store of an uncertainty map",
        "worker, Orthanc",
        ("tests/test_explanation.py::test_a_worker_that_dies_at_a_map_ends_in_one_map",),
    ),
    Attack(
        "a worker frozen for longer than its lease, while another takes its job",
        "worker",
        (f"{ROW}[worker frozen for longer than its lease]",),
    ),
    Attack(
        "the API killed after a request and while a client waits",
        "API",
        (f"{ROW}[API killed", f"{API}test_no_worker_outlives_an_api_that_was_killed"),
    ),
    Attack("Orthanc stopped, killed and silent in fetch and store", "Orthanc", (f"{ROW}[Orthanc",)),
    Attack(
        "PostgreSQL stopped and killed in the middle of a job",
        "worker, PostgreSQL",
        (
            f"{ROW}[PostgreSQL stopped",
            f"{ROW}[PostgreSQL killed",
            f"{ROW}[PostgreSQL away at the request]",
            f"{WORKER}test_a_database_that_stops_in_mid_job_costs_an_attempt_and_no_result",
        ),
    ),
    Attack(
        "all connections that PostgreSQL allows taken by somebody",
        "API, worker, PostgreSQL",
        (f"{ROW}[PostgreSQL's connections all taken]",),
    ),
    Attack("Redis killed, restarted empty, coming and going", "worker, Redis", (f"{ROW}[Redis",)),
    Attack("messages delivered several times", "worker, Redis", (f"{ROW}[message delivered three times]",)),
    Attack(
        "a message about a job that does not exist",
        "worker",
        (f"{WORKER}test_a_message_about_an_unknown_job_does_no_harm",),
    ),
    Attack(
        "messages with a pickle, and such as are no messages at all",
        "worker, Redis",
        (f"{ROW}[messages that are none, and a pickle]",),
    ),
    Attack(
        "a disk that fills up, the database's and the archive's",
        "worker",
        (f"{FAULTS}test_a_disk_that_is_full",),
    ),
    Attack(
        "a process that dies inside a transaction",
        "database",
        (f"{DATABASE}test_a_process_that_dies_inside_a_transaction_leaves_nothing_and_blocks_nobody",),
    ),
    Attack(
        "migrations down and up again on data, by two processes at once, and a newer database",
        "database",
        (
            f"{DATABASE}test_migrations_go_down_and_up_again_on_data",
            f"{DATABASE}test_processes_that_start_together_all_get_an_up_to_date_database",
            f"{DATABASE}test_a_database_of_a_newer_metscope_is_refused",
        ),
    ),
    Attack(
        "a model that is replaced or removed while its recorded result waits for the archive",
        "worker",
        (
            f"{WORKER}test_a_result_that_waits_for_the_archive_is_stored_though_its_model_is_not_served_any_more",
        ),
    ),
    # Forged input.
    Attack(
        "a checkpoint whose pickle calls something",
        "import of models",
        (
            "tests/unetr/test_import_checkpoint.py::test_nothing_of_a_checkpoint_is_executed",
            "tests/unetr/test_import_checkpoint.py::"
            "test_the_refusal_of_unsafe_content_does_not_advise_to_load_it_anyway",
        ),
    ),
    Attack(
        "a model whose specification names weights outside its folder",
        "API, worker",
        (
            "tests/unetr/test_spec.py::test_what_is_wrong_is_said_by_file_and_field"
            "[weights.file-../elsewhere.safetensors",
        ),
    ),
    Attack(
        "a link in the folder of models",
        "API, worker",
        accepted="the folder is its administrator's, who links to weights on a share on purpose",
    ),
    Attack(
        "members of a ZIP that lead out of the folder, or are links",
        "upload",
        (
            f"{REFUSED}[parent folder]",
            f"{REFUSED}[absolute path]",
            f"{REFUSED}[backslashes]",
            f"{REFUSED}[drive]",
            f"{REFUSED}[link]",
        ),
    ),
    Attack(
        "UIDs that are paths, in an upload, in the archive's folder and in a PACS's answer",
        "upload, archive",
        (
            f"{REFUSED}[path as UID]",
            f"{FOLDER}test_no_instance_is_written_outside_the_folder",
            "tests/orthanc/test_steps.py::test_an_archive_cannot_write_outside_of_the_folder",
        ),
    ),
    Attack(
        "lesion names that are formulas, for a spreadsheet",
        "command line",
        (f"{EDGE}test_a_name_that_is_a_formula_is_text_in_the_table",),
    ),
    Attack(
        "different images under one SOP Instance UID, or one study of two patients, in one upload",
        "API, Orthanc",
        (
            "tests/orthanc/test_orthanc.py::test_other_content_under_uids_that_are_sent_with_it_is_not_called_stored",
            "tests/orthanc/test_orthanc.py::test_a_study_that_is_sent_under_two_patients_is_refused",
        ),
    ),
    Attack(
        "a series before contrast whose ContrastBolusAgent says NOT GIVEN, or 0 ml",
        "worker",
        (
            "tests/imaging/test_series.py::test_the_agent_of_a_classic_image_proves_or_denies_contrast",
            "tests/imaging/test_series.py::test_an_agent_of_which_nothing_was_given_is_no_proof",
            "tests/test_series_names.py::test_no_agent_that_is_negated_is_one",
        ),
    ),
    Attack(
        "NUL and half a character in a PACS's texts, which no database holds",
        "worker, database",
        (f"{JOBS}test_a_message_that_quotes_what_no_database_holds_ends_its_job_all_the_same",),
    ),
    Attack(
        "thousands of generated requests",
        "API, database",
        (
            "tests/test_fuzz.py::test_every_answer_to_generated_requests_is_documented",
            "tests/test_fuzz.py::test_nothing_but_health_and_the_login_answers_generated_requests_without_a_token",
        ),
    ),
    # Leaks.
    Attack(
        "a patient's identifier in an address, under whatever spelling, for nginx's log",
        "nginx",
        (f"{STACK}test_nothing_of_a_patient_is_in_nginx_s_log",),
    ),
    Attack(
        "a fault whose exception quotes a header",
        "API, worker",
        (
            f"{WORKER}test_a_fault_nobody_foresaw_ends_the_job_without_quoting_patient_data",
            f"{API}test_a_fault_of_the_server_is_logged_without_its_text",
        ),
    ),
    Attack(
        "patient data in logs, metrics, errors and messages to the worker",
        "API, worker, Redis",
        (
            f"{API}test_log_metrics_and_errors_name_jobs_and_no_patient",
            f"{MEASUREMENTS}test_no_patient_appears_in_a_log",
            f"{BROKER}test_a_message_names_the_task_and_the_job_in_json",
            "tests/orthanc/test_faults.py::test_messages_name_no_patient",
        ),
    ),
    Attack(
        "a token's name of several lines or with a terminal's commands, and one with a backslash",
        "command line, worker",
        (
            f"{ACCESS}test_a_token_s_name_is_a_line_of_text",
            f"{ACCESS}test_a_token_has_any_name_that_users_have",
            f"{CORRECTION}test_the_name_of_an_editor_is_written_without_what_dicom_takes_for_something_else",
        ),
    ),
    Attack(
        "patient data in the tables of jobs, batches, workers and audit events",
        "database",
        (f"{WORKER}test_a_patient_is_named_in_no_job_and_no_audit_event",),
    ),
    Attack(
        "keys, backups, results and images in a commit or in the image",
        "git, Docker",
        (
            f"{HOUSE}test_git_takes_every_source_and_nothing_private",
            f"{HOUSE}test_the_image_gets_every_module_and_nothing_private",
        ),
    ),
    Attack(
        "a service that reads another's secrets",
        "docker-compose.yml",
        (f"{STACK}test_each_service_sees_the_secrets_that_it_needs_and_no_other",),
    ),
    Attack(
        "a service that reaches one it has nothing to say to",
        "docker-compose.yml",
        (f"{STACK}test_no_service_meets_one_that_it_has_nothing_to_say_to",),
    ),
    Attack(
        "an image that another one has taken the tag of",
        "docker-compose.yml",
        (f"{STACK}test_no_image_floats",),
    ),
    Attack(
        "a package that another one has taken the version of: no hashes for pip",
        "requirements.txt",
        accepted="torch comes from another index for each kind of image: three lists of hashes to keep",
    ),
)  # fmt: skip


class Recorder:
    """A pytest plugin that runs only the tests that an attack names and records their outcomes."""

    def __init__(self, attacks: Sequence[Attack]) -> None:
        self.attacks = attacks
        self.outcomes: dict[str, str] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        names = [item.nodeid for item in items]
        selected = {name for attack in self.attacks for meant in attack.tests_among(names) for name in meant}
        items[:] = [item for item in items if item.nodeid in selected]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # The worst of setup, call and teardown counts; a skipped test does not hold.
        if report.outcome != "passed" or self.outcomes.get(report.nodeid, "passed") == "passed":
            self.outcomes[report.nodeid] = report.outcome


def functions(attacks: Sequence[Attack]) -> list[str]:
    """Return the sorted names of all tests, without their cases."""
    return sorted({test.partition("[")[0] for attack in attacks for test in attack.tests})


def main() -> int:
    """Try all attacks, print the verdicts and return the exit status."""
    argparse.ArgumentParser(
        description="Try every attack and fault that MetScope must withstand."
    ).parse_args()
    recorder = Recorder(ATTACKS)
    arguments = ["-q", "--no-header", *WITH_LONG_ONES, *functions(ATTACKS)]
    status = pytest.main(arguments, plugins=[recorder])
    verdicts = {attack: attack.verdict(recorder.outcomes) for attack in ATTACKS}
    print()
    for attack, verdict in verdicts.items():
        print(" | ".join(filter(None, (f"{verdict:8}", attack.through, attack.tried, attack.accepted))))
    counts = Counter(verdicts.values())
    print(f"{len(ATTACKS)} attacks: " + ", ".join(f"{counts[v]} {v}" for v in (HELD, FAILED, ACCEPTED)))
    return int(status != pytest.ExitCode.OK or counts[FAILED] > 0)


if __name__ == "__main__":
    sys.exit(main())
