"""The image archive (PACS): one interface, by DICOMweb or as a plain folder.

archive.py    `open_archive(settings)` and the Archive protocol
dicomweb.py   the archive by DICOMweb
transport.py  HTTP with time limits, bounded retries and our own errors
replies.py    the responses of the archive, read and checked
multipart.py  multipart/related, read and written
part10.py     one DICOM file, read completely and written
dicom_json.py DICOM JSON to Datasets, for headers and queries
folder.py     the embedded archive: a folder of DICOM files, no server
fetch.py      labelled series, fetched into a folder
__main__.py   check, find, series, fetch: the archive step by step on the command line
orthanc.json  Orthanc's configuration for compose and the tests
nginx.conf    the configuration of nginx, in front of the API and Orthanc
init.sh       the first start of the container stack: its secrets and volumes
"""
