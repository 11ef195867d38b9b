"""The image archive (PACS): one interface, by DICOMweb or as a plain folder.

archive.py    `open_archive(settings)` and the Archive protocol
dicomweb.py   the archive by DICOMweb
transport.py  HTTP with time limits, bounded retries and our own errors
replies.py    the answers of the archive, read and checked
multipart.py  multipart/related, read and written
part10.py     one DICOM file, read completely and written
dicom_json.py DICOM JSON to Datasets, for headers and queries
__main__.py   check, find, series, fetch: the archive step by step on the command line
fetch.py      labelled series, fetched into a folder
folder.py     the embedded archive: a folder of DICOM files, no server
orthanc.json  Orthanc's configuration for compose and the tests
"""
