"""Calibrated probability that a component is a lesion: Platt's scaling of its mean probability and size.

A network's own probability is over-confident, and a component of three voxels is doubtful at any
probability. Neither slope can be negative, so the confidence rises with both inputs.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from unetr.spec import Confidence, ModelSpec, logit

# Float32 probabilities can round to 1, which has no finite logit.
HIGHEST = 1.0 - 1e-6


def confidence(spec: ModelSpec, mean_probability: float, volume_mm3: float) -> float | None:
    """Return the probability that a component is a lesion, 0..1; None if the spec has no calibration.

    mean_probability: the mean over the component's voxels.
    """
    if spec.confidence is None:
        return None
    return float(expit(_features(mean_probability, volume_mm3) @ _coefficients(spec.confidence)))


def fit(
    mean_probabilities: Sequence[float], volumes_mm3: Sequence[float], real: Sequence[bool]
) -> Confidence:
    """Fit the calibration to components, some of which are lesions.

    Platt's targets (1999) avoid 0 and 1, which keeps the fit finite if size or probability separates the two
    groups. Raises: ValueError if all or none are lesions.
    """
    truth = np.array(real, dtype=bool)
    lesions, others = int(truth.sum()), int((~truth).sum())
    if not lesions or not others:
        raise ValueError(f"{lesions} lesions and {others} other components: nothing to tell apart")
    target = np.where(truth, (lesions + 1.0) / (lesions + 2.0), 1.0 / (others + 2.0))
    features = np.stack([_features(*pair) for pair in zip(mean_probabilities, volumes_mm3, strict=True)])

    def loss(coefficients: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logits = features @ coefficients
        cross_entropy = np.logaddexp(0.0, logits) - target * logits
        return float(cross_entropy.sum()), (expit(logits) - target) @ features

    bounds = [(None, None), (0.0, None), (0.0, None)]
    coefficients = minimize(loss, np.array([0.0, 1.0, 0.0]), jac=True, bounds=bounds, method="L-BFGS-B").x
    intercept, mean_logit, log_volume = (round(float(value), 4) for value in coefficients)
    return Confidence(intercept=intercept, mean_logit=mean_logit, log_volume=log_volume)


def _features(mean_probability: float, volume_mm3: float) -> NDArray[np.float64]:
    return np.array([1.0, logit(min(mean_probability, HIGHEST)), math.log(volume_mm3)])


def _coefficients(calibration: Confidence) -> NDArray[np.float64]:
    return np.array([calibration.intercept, calibration.mean_logit, calibration.log_volume])
