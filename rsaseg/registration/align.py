"""One exam onto one grid: choose the engine, judge its answer, resample once."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rsaseg.errors import InputError, RegistrationError
from rsaseg.imaging import Volume, resample
from rsaseg.registration import flirt, simpleitk
from rsaseg.registration.quality import Quality

Engine = Literal["auto", "flirt", "simpleitk", "none"]
Float = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Alignment:
    """How one sequence came onto the FLAIR's grid.

    Attributes
    ----------
    flair_from_moving : ndarray
        (4, 4), RAS mm, rigid.
    engine, version : str
        What estimated it: ``flirt``, ``simpleitk`` or ``none``, and its version.
    quality : Quality
        Of the result.
    moved : bool
        False where the image already lay on the FLAIR's grid and is used as it is.
    problem : str
        Why it is not good enough; empty where it is.
    warnings : tuple of str
        What the user should know.
    seconds : float
        Wall time.
    """

    flair_from_moving: Float
    engine: str
    version: str
    quality: Quality
    moved: bool = True
    problem: str = ""
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values for a sidecar file."""
        return {
            "engine": self.engine,
            "version": self.version,
            "moved": self.moved,
            "flair_from_moving": self.flair_from_moving.tolist(),
            "similarity": round(self.quality.similarity, 4),
            "residual_mm": round(self.quality.residual_mm, 3),
            "problem": self.problem or None,
            "seconds": round(self.seconds, 2),
        }


@dataclass(frozen=True, eq=False)
class AlignedExam:
    """An exam on one grid.

    Attributes
    ----------
    images : dict
        Sequence name to volume, all on the FLAIR's grid; ``"FLAIR"`` itself is as it was.
    alignments : dict
        Sequence name to `Alignment`, for all but the FLAIR.
    """

    images: dict[str, Volume]
    alignments: dict[str, Alignment]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Of all sequences."""
        return tuple(text for one in self.alignments.values() for text in one.warnings)


def align_exam(
    flair: Volume,
    others: Mapping[str, Volume],
    engine: Engine = "auto",
    force: bool = False,
) -> AlignedExam:
    """Bring every sequence onto the FLAIR's grid, each resampled at most once.

    Parameters
    ----------
    flair : Volume
        Never moved.
    others : mapping
        Sequence name to volume: T1, T2, both or none.
    engine : str
        ``auto`` takes FLIRT where it is installed, else SimpleITK; ``none`` believes the headers.
    force : bool
        Go on, with a warning, where a registration failed.

    Raises
    ------
    InputError
        If ``flirt`` is asked for and absent, or the engine is unknown.
    RegistrationError
        If a sequence could not be aligned well enough and ``force`` is off.
    """
    images, alignments = {}, {}
    for name, volume in others.items():
        alignment = register(volume, flair, engine)
        if alignment.problem:
            if not force:
                raise RegistrationError(f"{volume.name}: {alignment.problem}")
            warning = f"{volume.name}: {alignment.problem}; used all the same"
            alignment = replace(alignment, warnings=(*alignment.warnings, warning))
        images[name], alignments[name] = _onto(flair, volume, alignment), alignment
    return AlignedExam({**images, "FLAIR": flair}, alignments)


def _onto(flair: Volume, moving: Volume, alignment: Alignment) -> Volume:
    data = moving.data
    if alignment.moved:
        data = resample(data, moving.grid, flair.grid, alignment.flair_from_moving)
    return replace(moving, data=data, grid=flair.grid, header=flair.header)


def choose_engine(engine: Engine) -> tuple[str, str]:
    """Return the name and version of the engine that runs.

    Raises
    ------
    InputError
        If ``flirt`` is asked for and absent, or the name is unknown.
    """
    if engine == "none":
        return "none", ""
    if engine == "flirt" or (engine == "auto" and flirt.find_flirt() is not None):
        return "flirt", flirt.version(flirt.require_flirt())
    if engine in ("auto", "simpleitk"):
        return "simpleitk", simpleitk.version()
    raise InputError(f"registration {engine}: choose auto, flirt, simpleitk or none")


def register(moving: Volume, flair: Volume, engine: Engine = "auto") -> Alignment:
    """Find the rigid transform of one image onto the FLAIR, and judge it.

    Parameters
    ----------
    moving, flair : Volume
        On any two grids.
    engine : str
        See `align_exam`.

    Returns
    -------
    Alignment
        With ``moved`` False where both lie on one grid and are aligned as they are.

    Raises
    ------
    InputError
        If the engine is unknown or absent, or an image has too few slices.
    RegistrationError
        If FLIRT failed.
    """
    started = time.perf_counter()
    name, version = choose_engine(engine)
    one_grid = moving.grid.matches(flair.grid)
    if name == "none" or one_grid:
        return Alignment(np.eye(4), name, version, Quality(1.0, 0.0), moved=not one_grid)
    if name == "flirt":
        pose = flirt.estimate(moving, flair)
    else:
        pose = simpleitk.estimate(simpleitk.prepare(moving), simpleitk.prepare(flair))
    seconds = time.perf_counter() - started
    return Alignment(pose, name, version, Quality(1.0, 0.0), seconds=seconds)
