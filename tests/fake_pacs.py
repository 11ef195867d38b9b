"""A small DICOMweb PACS on loopback that can be told to misbehave, and tiny instances to fill it with.

It stands at the transport: our own code runs against it whole, and what is tested is what a client sees.
"""

import json
import re
import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from io import BytesIO
from typing import Any

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from werkzeug import Request, Response
from werkzeug.serving import WSGIRequestHandler, make_server

from imaging.stack import to_stack

Fault = Callable[["FakePacs", Request], Response]

# What a request asks for, by method and path below the DICOMweb root.
ROUTES = [
    ("stow", "POST", r"studies"),
    ("studies", "GET", r"studies"),
    ("series", "GET", r"studies/(?P<study>[^/]+)/series"),
    ("instances", "GET", r"studies/(?P<study>[^/]+)/instances"),
    ("metadata", "GET", r"studies/(?P<study>[^/]+)/series/(?P<series>[^/]+)/metadata"),
    ("wado", "GET", r"studies/(?P<study>[^/]+)/series/(?P<series>[^/]+)"),
]
QUERIES = ("studies", "series", "instances")
JSON = "application/dicom+json"
BOUNDARY = "fake-boundary"


def tiny_series(count: int = 3, study_uid: str | None = None, size: int = 16) -> list[Dataset]:
    """MR instances of size x size random pixels, 1 mm apart along z, with every attribute a PACS indexes."""
    study_uid, series_uid = study_uid or generate_uid(), generate_uid()
    return [_tiny_instance(study_uid, series_uid, number, size) for number in range(1, count + 1)]


def _tiny_instance(study_uid: str, series_uid: str, number: int, size: int) -> Dataset:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = MRImageStorage
    ds.SOPInstanceUID = generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study_uid, series_uid
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20240131", "101500", "1", "A1"
    ds.StudyDescription, ds.SeriesDescription = "Brain", "T1 MPRAGE post"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Müller^Zoë", "P-1", "19600101", "F"
    ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "MR", 4, number
    ds.ImagePositionPatient = [-8.0, -7.5, float(number)]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing = [0.5, 0.75]
    ds.Rows = ds.Columns = size
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = np.random.default_rng(number).integers(0, 4096, (size, size), dtype=np.uint16).tobytes()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return ds


def hand_drawn_seg(images: Sequence[Dataset], labels: NDArray[np.uint8], names: Sequence[str]) -> Dataset:
    """Return a BINARY SEG as a viewer would make it of one series.

    labels: (slices, rows, columns), 1 for the first name; slices in the order of positions along the normal.
    """
    stack = to_stack(images)
    tissue = hd.sr.CodedConcept("85756007", "SCT", "Tissue")
    return hd.seg.Segmentation(
        source_images=stack.headers, pixel_array=stack.volume.with_array(labels),
        segmentation_type="BINARY", series_instance_uid=hd.UID(), series_number=3,
        segment_descriptions=[
            hd.seg.SegmentDescription(
                segment_number=number, segment_label=name, algorithm_type="MANUAL",
                segmented_property_category=tissue, segmented_property_type=tissue,
            )
            for number, name in enumerate(names, start=1)
        ],
        sop_instance_uid=hd.UID(), instance_number=1, manufacturer="A viewer", manufacturer_model_name="x",
        software_versions="1", device_serial_number="1", transfer_syntax_uid=ExplicitVRLittleEndian,
    )  # fmt: skip


def with_other_pixels(instance: Dataset) -> Dataset:
    """The same UIDs, another image."""
    altered = deepcopy(instance)
    altered.PixelData = bytes(len(instance.PixelData))
    return altered


def move(instance: Dataset) -> Dataset:
    """The same UIDs and pixels, elsewhere in the patient."""
    altered = deepcopy(instance)
    altered.ImagePositionPatient = [0.0, 0.0, 99.0]
    return altered


class FakePacs:
    """Serves `instances`. Each request of a route uses up one of `faults[route]`; after them it behaves."""

    def __init__(self) -> None:
        self.instances: list[Dataset] = []
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.requests: list[str] = []
        self.encodings: set[str] = set()
        self.url = ""
        # Queries are answered in pages of so many entries; by series, the HTTP status of its metadata; and
        # what becomes of the JSON of each answer.
        self.page_size: int | None = None
        self.metadata_status: dict[str, int] = {}
        self.edit: Callable[[str, list[dict[str, Any]]], list[dict[str, Any]]] = lambda _, entries: entries
        # Set when the test is over: a stalling answer ends then, and no thread is left behind.
        self.released = threading.Event()

    def request_count(self, route: str) -> int:
        """How many requests of this route have arrived."""
        return self.requests.count(route)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = Request(environ)
        response = self._answer(request)
        return response(environ, start_response)

    def _answer(self, request: Request) -> Response:
        path = request.path.removeprefix("/dicom-web/")
        for route, method, pattern in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and method == request.method:
                self.requests.append(route)
                self.encodings.add(request.headers.get("Accept-Encoding", "none"))
                if self.faults[route]:
                    return self.faults[route].pop(0)(self, request)
                return self._edit_response(
                    route, request, getattr(self, f"_{route}")(request, **match.groupdict())
                )
        return Response(status=404)

    def _edit_response(self, route: str, request: Request, response: Response) -> Response:
        if route not in (*QUERIES, "metadata") or response.status_code != 200:
            return response
        entries = self.edit(route, json.loads(response.get_data()))
        if self.page_size is not None and route in QUERIES:
            offset = int(request.args.get("offset", 0))
            entries = entries[offset : offset + self.page_size]
        return Response(json.dumps(entries), content_type=JSON)

    def _stow(self, request: Request) -> Response:
        stored = parse_instances(request)
        self.instances += stored
        return store_answer(stored, [])

    def _studies(self, request: Request) -> Response:
        uid = request.args.get("StudyInstanceUID")
        entries = _unique(self.instances, "StudyInstanceUID", uid)
        for entry in entries:
            series = {
                i.SeriesInstanceUID for i in self.instances if i.StudyInstanceUID == entry.StudyInstanceUID
            }
            entry.NumberOfStudyRelatedSeries = len(series)
        return json_answer(entries)

    def _series(self, request: Request, study: str) -> Response:
        of_study = [i for i in self.instances if i.StudyInstanceUID == study]
        entries = _unique(of_study, "SeriesInstanceUID", request.args.get("SeriesInstanceUID"))
        for entry in entries:
            series = self._of_series(study, entry.SeriesInstanceUID)
            entry.NumberOfSeriesRelatedInstances = len(series)
            entry.Modality, entry.SeriesDescription = series[0].Modality, series[0].SeriesDescription
        return json_answer(entries)

    def _instances(self, request: Request, study: str) -> Response:
        of_study = [i for i in self.instances if i.StudyInstanceUID == study]
        return json_answer(_unique(of_study, "SOPInstanceUID", request.args.get("SOPInstanceUID")))

    def _metadata(self, request: Request, study: str, series: str) -> Response:
        if series in self.metadata_status:
            return Response("no", status=self.metadata_status[series])
        instances = self._of_series(study, series)
        return json_answer(instances) if instances else Response(status=404)

    def _wado(self, request: Request, study: str, series: str) -> Response:
        instances = self._of_series(study, series)
        return multipart(instances) if instances else Response(status=404)

    def _of_series(self, study: str, series: str) -> list[Dataset]:
        return [i for i in self.instances if (i.StudyInstanceUID, i.SeriesInstanceUID) == (study, series)]


class _Handler(WSGIRequestHandler):
    # Kept connections and chunked bodies, as a real server has them.
    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: object) -> None:
        """Silent: the faults are on purpose."""


@contextmanager
def running(pacs: FakePacs) -> Iterator[FakePacs]:
    server = make_server("127.0.0.1", 0, pacs, threaded=True, request_handler=_Handler)
    pacs.url = f"http://127.0.0.1:{server.server_port}/dicom-web"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield pacs
    finally:
        pacs.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


def status(code: int) -> Fault:
    """Answer with this HTTP status and a body that is no DICOM."""
    return lambda pacs, request: Response("no", status=code)


def drop(pacs: FakePacs, request: Request) -> Response:
    """Close the connection without an answer."""
    request.environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    return Response(status=500)


def stall(pacs: FakePacs, request: Request) -> Response:
    """Say nothing until the test is over."""
    pacs.released.wait(30)
    return Response(status=500)


def trickle(pacs: FakePacs, request: Request) -> Response:
    """Begin a correct answer and send a byte of it every 50 ms, never silent for long and never done."""

    def bytes_one_by_one() -> Iterator[bytes]:
        for byte in b"--fake-boundary\r\nContent-Type: application/dicom\r\n\r\n" + bytes(1000):
            yield bytes([byte])
            if pacs.released.wait(0.05):
                return

    return Response(bytes_one_by_one(), content_type=_multipart_type(), direct_passthrough=True)


def cut(instances: list[Dataset], *, say_length: bool) -> Fault:
    """A multipart answer that ends in the middle, with or without a Content-Length that betrays it."""

    def answer(pacs: FakePacs, request: Request) -> Response:
        body = multipart(instances).get_data()
        response = Response([body[: len(body) // 2]], content_type=_multipart_type())
        if say_length:
            response.headers["Content-Length"] = str(len(body))
        return response

    return answer


def serve(instances: list[Dataset]) -> Fault:
    """These instances and no others, whatever was asked for."""
    return lambda pacs, request: multipart(instances)


def single_part(instance: Dataset) -> Fault:
    """One instance without the multipart wrapping."""
    return lambda pacs, request: Response(_encode(instance), content_type="application/dicom")


def refuse_storage(code: int, reason: int) -> Fault:
    """Store nothing and say so in a FailedSOPSequence, with this HTTP status."""
    return lambda pacs, request: store_answer([], parse_instances(request), code=code, reason=reason)


def claim_storage(pacs: FakePacs, request: Request) -> Response:
    """Say that all is stored, and store nothing."""
    return store_answer(parse_instances(request), [])


def store_then_drop(pacs: FakePacs, request: Request) -> Response:
    """Store, and lose the connection before the answer."""
    pacs.instances += parse_instances(request)
    return drop(pacs, request)


def parse_instances(request: Request) -> list[Dataset]:
    boundary = request.headers["Content-Type"].split("boundary=")[1].encode()
    parts = request.get_data().split(b"--" + boundary)[1:-1]
    return [dcmread(BytesIO(part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n"))) for part in parts]


def store_answer(stored: list[Dataset], failed: list[Dataset], code: int = 200, reason: int = 0) -> Response:
    answer = Dataset()
    for keyword, instances in [("ReferencedSOPSequence", stored), ("FailedSOPSequence", failed)]:
        items = []
        for instance in instances:
            item = Dataset()
            item.ReferencedSOPClassUID = instance.SOPClassUID
            item.ReferencedSOPInstanceUID = instance.SOPInstanceUID
            if keyword == "FailedSOPSequence":
                item.FailureReason = reason
            items.append(item)
        if items:
            setattr(answer, keyword, items)
    return Response(json.dumps(answer.to_json_dict()), status=code, content_type=JSON)


def multipart(instances: list[Dataset]) -> Response:
    head = f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    parts = b"".join(head + _encode(instance) + b"\r\n" for instance in instances)
    return Response(parts + f"--{BOUNDARY}--\r\n".encode(), content_type=_multipart_type())


def _multipart_type() -> str:
    return f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'


def _encode(instance: Dataset) -> bytes:
    encoded = BytesIO()
    dcmwrite(encoded, instance, enforce_file_format=True)
    return encoded.getvalue()


def _unique(instances: list[Dataset], keyword: str, value: str | None) -> list[Dataset]:
    """One small entry for each value of keyword among the instances; only for `value` if it is given."""
    entries = {}
    for instance in instances:
        if value in {None, instance[keyword].value}:
            entry = Dataset()
            for name in ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "PatientID"]:
                setattr(entry, name, instance[name].value)
            entries[instance[keyword].value] = entry
    return list(entries.values())


def json_answer(datasets: list[Dataset]) -> Response:
    entries = []
    for dataset in datasets:
        entry = dataset.to_json_dict(bulk_data_threshold=64, bulk_data_element_handler=lambda _: "bulk/1")
        entries.append(entry)
    return Response(json.dumps(entries), content_type=JSON)
