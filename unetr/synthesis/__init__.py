"""Studies made by drawing, with the truth of every voxel: heads with metastases or a glioma, and spines.

``metastases.head`` draws one head; ``cohorts`` says which kinds there are. Arrays are (slice, row, column).
"""
