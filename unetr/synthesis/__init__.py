"""Synthetic studies with the true label of every voxel: heads with metastases or a glioma, and spines.

``metastases.head`` draws one head; ``cohorts`` lists the kinds of heads. Arrays are (slice, row, column).
"""
