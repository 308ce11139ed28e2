"""RSANet: multiple-sclerosis lesion segmentation on T1, T2 and T2-FLAIR.

`segment`, `evaluate` and what they take and give are loaded when first asked for, so that importing
the package stays quick. What a type checker sees stands in ``__init__.pyi``.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Evaluation": "rsaseg.scoring.summary",
    "Model": "rsaseg.segmentation.model",
    "Rules": "rsaseg.scoring.cases",
    "Segmentation": "rsaseg.segmentation",
    "Settings": "rsaseg.segmentation",
    "evaluate": "rsaseg.scoring.evaluate",
    "load_model": "rsaseg.segmentation.model",
    "segment": "rsaseg.segmentation",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
