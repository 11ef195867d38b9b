"""The archive of images (PACS): one interface, by DICOMweb or as a plain folder.

dicomweb.py   `open_archive(settings)`: the Archive protocol and its DICOMweb implementation
transport.py  HTTP with time limits, bounded retries and our own errors
multipart.py  multipart/related, read and written
part10.py     one DICOM file, read whole and written
dicom_json.py DICOM JSON to Datasets, for headers and queries
__main__.py   check, find, series, fetch: the archive step by step on the command line
fetch.py      labelled series into a folder
folder.py     the embedded archive: a folder of DICOM files, no server
orthanc.json  Orthanc's configuration, as compose and the tests run it
"""
