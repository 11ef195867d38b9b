"""Measurability by RANO-BM: Lin et al., Lancet Oncol 2015;16:e270, doi 10.1016/S1470-2045(15)70057-4.

Rules marked [m] could not be verified in the paper and are kept as named constants.
"""

MIN_SHORT_AXIS_MM = 5.0
MIN_SLICES_SPANNED = 2
PROTOCOL_LD_MM = 10.0
THICK_SLICE_MM = 5.0
LD_PER_THICK_SLICE = 2.0  # [m]: above 5 mm, LD of at least two slice thicknesses including the gap
THIN_SLICE_MM = 1.5  # [m]: an LD below 10 mm is tolerated only with slices up to this
# Limits are compared at the precision that is shown, so that no sentence says "10.00 mm is below 10".
SHOWN_DECIMALS = 2


def judge(
    long_axis_mm: float,
    short_axis_mm: float,
    slices_spanned: int,
    slice_spacing_mm: float,
    measurable_ld_mm: float,
) -> tuple[bool, str]:
    """Return whether a lesion is measurable at baseline, and a sentence that states why or why not.

    slice_spacing_mm: from slice to slice, gap included. measurable_ld_mm: smallest long axis; RANO-BM
    requires 10 mm, or 5 mm with thin slices only.
    """
    long_mm, short_mm, spacing_mm = (
        round(value, SHOWN_DECIMALS) for value in (long_axis_mm, short_axis_mm, slice_spacing_mm)
    )
    against = []
    if long_mm < measurable_ld_mm:
        against.append(f"the long axis of {long_mm:.2f} mm is below {measurable_ld_mm:g} mm")
    if short_mm < MIN_SHORT_AXIS_MM:
        against.append(f"the short axis of {short_mm:.2f} mm is below {MIN_SHORT_AXIS_MM:g} mm")
    if slices_spanned < MIN_SLICES_SPANNED:
        against.append(f"it is visible on {slices_spanned} slice, fewer than {MIN_SLICES_SPANNED}")
    if spacing_mm > THICK_SLICE_MM and long_mm < LD_PER_THICK_SLICE * spacing_mm:
        against.append(
            f"the long axis of {long_mm:.2f} mm is below twice the slice spacing of {spacing_mm:.2f} mm"
        )
    if measurable_ld_mm <= long_mm < PROTOCOL_LD_MM and spacing_mm > THIN_SLICE_MM:
        against.append(
            f"a long axis below {PROTOCOL_LD_MM:g} mm counts only with slices up to {THIN_SLICE_MM:g} mm "
            f"apart, and these are {spacing_mm:.2f} mm"
        )
    if against:
        return False, f"Not measurable: {'; '.join(against)}."
    return True, f"Measurable: {long_mm:.2f} x {short_mm:.2f} mm on {slices_spanned} slices."
