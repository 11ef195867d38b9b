"""The coded concepts in MetScope's objects, each with the context group that it comes from.

Context groups (CID) are those of DICOM PS3.16; SCT is SNOMED CT, UMLS the Unified Medical Language System,
DCM DICOM's own terminology, and 99METSCOPE MetScope's own, for concepts that the others lack; docs/models.md
defines them.
"""

from pydicom.sr.coding import Code

# CID 7150 "Segmentation Property Categories"
MORPHOLOGICALLY_ABNORMAL_STRUCTURE = Code("49755003", "SCT", "Morphologically Abnormal Structure")
# CID 7159 "Lesion Segmentation Types". SNOMED's 128462008 "Metastasis" is in no context group for segments.
NEOPLASM_SECONDARY = Code("14799000", "SCT", "Neoplasm, Secondary")
NEOPLASM = Code("108369006", "SCT", "Neoplasm")
# CID 4 "Anatomic Regions"
BRAIN = Code("12738006", "SCT", "Brain")
# CID 7162 "Surface Processing Algorithm Families", the group that PS3.3 names for Algorithm Family
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")

# CID 100 "Quantitative Diagnostic Imaging Procedures" is extensible; this is SNOMED's general concept
MAGNETIC_RESONANCE_IMAGING = Code("113091000", "SCT", "Magnetic resonance imaging")
# CID 7470 "Linear Measurements". Viewers that read the pair as one bidirectional measurement match exactly
# these meanings, which are capitalised differently in the dictionary.
LONG_AXIS = Code("103339001", "SCT", "Long Axis")
SHORT_AXIS = Code("103340004", "SCT", "Short Axis")
MILLIMETER = Code("mm", "UCUM", "mm")
# TID 1411 codes a volume with SNOMED's general concept, and its derivation separately
VOLUME = Code("118565006", "SCT", "Volume")
CUBIC_MILLIMETER = Code("mm3", "UCUM", "cubic millimeter")
SUM_OF_SEGMENTED_VOXEL_VOLUMES = Code("126030", "DCM", "Sum of segmented voxel volumes")
# Name of the container in TID 1500, row 12; CID 240 "Present-Absent"
QUALITATIVE_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")
ABSENT = Code("272519000", "SCT", "Absent")

# CID 7180 "Abstract Multi-dimensional Image Model Component Semantics" is extensible. It has probabilities
# and gradient explanations, but no uncertainty; DICOM's own entropies are texture features of an image.
PREDICTIVE_ENTROPY = Code("entropy", "99METSCOPE", "Predictive entropy")
# CID 7181 "Abstract Multi-dimensional Image Model Component Units" has no unit for bits
NO_UNITS = Code("1", "UCUM", "no units")
