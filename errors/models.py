"""Models that cannot be used."""

from errors.base import MetScopeError


class ModelError(MetScopeError):
    """Base of the errors about models."""

    code = "model_error"
    exit_code = 5


class ModelSpecInvalid(ModelError):
    """A model specification or training configuration that is not valid."""

    code = "model_spec_invalid"


class WeightsInvalid(ModelError):
    """A weights file or checkpoint that cannot be used."""

    code = "weights_invalid"


class OutOfMemory(ModelError):
    """Raised when the GPU has too little free memory for the model."""

    status = 503
    code = "out_of_memory"
    advice = "Retry when no other program uses the GPU."
