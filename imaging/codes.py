"""The coded concepts that a SEG of MetScope carries, each with the context group it is taken from.

Context groups (CID) are those of DICOM PS3.16; SCT is SNOMED CT, DCM is DICOM's own terminology.
"""

from pydicom.sr.coding import Code

# CID 7150 "Segmentation Property Categories"
MORPHOLOGICALLY_ABNORMAL_STRUCTURE = Code("49755003", "SCT", "Morphologically Abnormal Structure")
# CID 7159 "Lesion Segmentation Types". SNOMED's 128462008 "Metastasis" is in no context group for segments.
NEOPLASM_SECONDARY = Code("14799000", "SCT", "Neoplasm, Secondary")
# CID 4 "Anatomic Regions"
BRAIN = Code("12738006", "SCT", "Brain")
# CID 7162 "Surface Processing Algorithm Families", the group that PS3.3 names for Algorithm Family
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")
