"""Patient-axial planes: detection in an acquisition, and resampling to them."""

from itertools import product

import highdicom as hd
import numpy as np
from scipy import ndimage

# MetScope's own rule (docs/measurement.md): up to this tilt the acquired slices count as axial.
MAX_TILT_DEG = 20.0
# Voxels of padding around a lesion.
BORDER = 1


def is_near_axial(volume: hd.Volume) -> bool:
    """Return whether the slices' normal is within 20 degrees of the patient's head-feet axis."""
    normal = np.array(volume.unit_vectors()[0])
    return bool(abs(normal[2]) >= np.cos(np.deg2rad(MAX_TILT_DEG)))


def to_axial(lesion: hd.Volume) -> hd.Volume:
    """Resample a lesion's mask to patient-axial slices: rows run left, columns to the back, slices upwards.

    lesion: (slices, rows, columns), 0 and 1, at least one voxel, cropped to the lesion.
    Returns float shares in 0..1 on an isotropic grid of the smallest native spacing; one grid point lies on
    the lesion's voxel nearest to its centroid, so that a lesion of one voxel does not fall between points.
    Shape-based: the distance to the outline is interpolated linearly, not the mask, whose blocks would make
    a lesion in thick slices too long (Raya and Udupa, IEEE Trans Med Imaging 1990;9:32-42).
    """
    voxels_mm = lesion.map_indices_to_reference(np.argwhere(lesion.array))
    distance_mm = np.linalg.norm(voxels_mm - voxels_mm.mean(axis=0), axis=1)
    # Ties are broken by position, not by index order, so that a flipped volume measures the same.
    anchor_mm = voxels_mm[np.lexsort([*voxels_mm.T.round(6), distance_mm.round(6)])[0]]
    spacing_mm = min(lesion.spacing)
    corners = [[-1, size] for size in lesion.spatial_shape]
    corners_mm = lesion.map_indices_to_reference(np.array(list(product(*corners)), dtype=float))
    first = np.floor((corners_mm.min(axis=0) - anchor_mm) / spacing_mm)
    last = np.ceil((corners_mm.max(axis=0) - anchor_mm) / spacing_mm)
    shape = (last - first).astype(int)[::-1] + 1

    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, ::-1] * spacing_mm
    affine[:3, 3] = anchor_mm + first * spacing_mm
    to_native = lesion.inverse_affine @ affine
    inside = np.pad(lesion.array > 0, BORDER)
    within, beyond = (ndimage.distance_transform_edt(part, lesion.spacing) for part in (inside, ~inside))
    distance_mm = ndimage.affine_transform(
        (within - beyond).astype(np.float32),
        to_native[:3, :3],
        to_native[:3, 3] + BORDER,
        output_shape=tuple(shape),
        order=1,
        mode="nearest",
    )
    share = np.clip(distance_mm / spacing_mm + 0.5, 0, 1)
    return hd.Volume(share, affine, "PATIENT", lesion.frame_of_reference_uid)
