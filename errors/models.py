"""Models that cannot be used."""

from errors.base import MetScopeError


class ModelError(MetScopeError):
    code = "model_error"
    exit_code = 5


class ModelSpecInvalid(ModelError):
    code = "model_spec_invalid"


class WeightsInvalid(ModelError):
    code = "weights_invalid"


class OutOfMemory(ModelError):
    status = 503
    code = "out_of_memory"
    advice = "Try again when nothing else is running."
