"""Running a network over a volume: device, precision, memory, windows."""

from rsaseg.inference.device import choose_device, choose_precision
from rsaseg.inference.probability import MEMORY_BUDGET_BYTES, Prediction, predict_probability
from rsaseg.inference.windows import predict_whole, predict_windows

__all__ = [
    "MEMORY_BUDGET_BYTES",
    "Prediction",
    "choose_device",
    "choose_precision",
    "predict_probability",
    "predict_whole",
    "predict_windows",
]
