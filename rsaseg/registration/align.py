"""One exam onto one grid: choose the engine, judge its answer, resample once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rsaseg.errors import InputError, RegistrationError
from rsaseg.imaging import Volume, resample
from rsaseg.registration import flirt, simpleitk
from rsaseg.registration.quality import Quality, apart_mm, coverage, judge
from rsaseg.registration.simpleitk import Side

Engine = Literal["auto", "flirt", "simpleitk", "none"]
Float = NDArray[np.float64]

MIN_SLICES = 8
WARN_APART_MM = 1.0
FAIL_APART_MM = 3.0
MOST = 0.9
"""An image that covers less of the FLAIR's head is told of."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """How one sequence came onto the FLAIR's grid.

    Attributes
    ----------
    flair_from_moving : ndarray
        (4, 4), RAS mm, rigid.
    engine, version : str
        What estimated it: ``flirt``, ``simpleitk`` or ``none``, and its version.
    quality : Quality or None
        Of the result; None where nothing was registered.
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
    quality: Quality | None
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
            "sharpness": None if self.quality is None else round(self.quality.sharpness, 4),
            "residual_mm": None if self.quality is None else round(self.quality.residual_mm, 3),
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
    notes : tuple of str
        What the user should know of the images together.
    """

    images: dict[str, Volume]
    alignments: dict[str, Alignment]
    notes: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Of all sequences, and the notes."""
        of_each = (text for one in self.alignments.values() for text in one.warnings)
        return (*of_each, *self.notes)


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
        If ``flirt`` is asked for and absent, the engine is unknown, or two sequences are one file.
    RegistrationError
        If a sequence could not be aligned well enough and ``force`` is off.
    """
    _refuse_copies({**others, "FLAIR": flair})
    images, alignments = {}, {}
    with ThreadPoolExecutor() as pool:  # ITK images are not shared between threads
        registered = list(pool.map(lambda one: _register(one, flair, engine), others.values()))
    for (name, volume), (found, images[name]) in zip(others.items(), registered, strict=True):
        alignments[name] = found
        if found.problem:
            if not force:
                raise RegistrationError(f"{volume.name}: {found.problem}")
            warning = f"{volume.name}: {found.problem}; used all the same"
            alignments[name] = replace(found, warnings=(*found.warnings, warning))
    return AlignedExam({**images, "FLAIR": flair}, alignments)


def _refuse_copies(exam: Mapping[str, Volume]) -> None:
    """Refuse a file that stands for two sequences."""
    seen: dict[str, str] = {}
    for name, volume in exam.items():
        first = seen.setdefault(volume.sha256, name) if volume.sha256 else name
        if first != name:
            raise InputError(f"{volume.name}: the same as the {first}; give the {name} itself")


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

    An image that lies on the FLAIR's grid and passes the judgement there is left alone; one that
    lies nearly right there is polished from where it is. FLIRT's answer is checked against
    SimpleITK's: a warning above 1 mm apart, a problem above 3 mm.

    Parameters
    ----------
    moving, flair : Volume
        On any two grids.
    engine : str
        See `align_exam`.

    Returns
    -------
    Alignment
        With ``problem`` set where it is not good enough; nothing is raised for that.

    Raises
    ------
    InputError
        If the engine is unknown or absent, or an image has fewer than 8 slices.
    RegistrationError
        If FLIRT cannot be started.
    """
    return _register(moving, flair, engine)[0]


def _register(moving: Volume, flair: Volume, engine: Engine) -> tuple[Alignment, Volume]:
    """Return how the image comes onto the FLAIR's grid, and the image there.

    The first way that is good enough is taken, else the sharpest.
    """
    started = time.perf_counter()
    fixed = simpleitk.Side(flair)
    tried: list[tuple[Alignment, Volume]] = []
    for alignment in _ways(moving, fixed, engine, tried):
        image = _place(moving, flair, alignment)
        judged = _judged(alignment, image, fixed) if alignment.engine != "none" else alignment
        judged = _with_coverage(judged, moving, flair)
        tried.append((replace(judged, seconds=time.perf_counter() - started), image))
        if not judged.problem:
            return tried[-1]
    return max(tried, key=lambda one: one[0].quality.sharpness if one[0].quality else 0.0)


def _ways(
    moving: Volume, fixed: Side, engine: Engine, tried: list[tuple[Alignment, Volume]]
) -> Iterator[Alignment]:
    """Yield alignments not yet judged on the images, the cheapest first.

    An image on the FLAIR's grid may lie right as it is, or nearly right: then it is polished from
    where its judgement, by then in ``tried``, found it to belong.
    """
    flair = fixed.volume
    name, version = choose_engine(engine)
    on_one_grid = moving.grid.matches(flair.grid)
    as_is = Alignment(np.eye(4), name, version, None, moved=not on_one_grid)
    if name == "none":
        yield as_is
        return
    for volume in (moving, flair):
        _check_slices(volume)
    side = simpleitk.Side(moving)
    if on_one_grid:
        yield as_is
        quality = tried[-1][0].quality
        near = quality.residual if quality else np.eye(4)
        yield _checked(moving, flair, simpleitk.polish(side, fixed, near), name, version)
    yield _checked(moving, flair, simpleitk.estimate(side, fixed), name, version)


def _judged(alignment: Alignment, image: Volume, fixed: Side) -> Alignment:
    quality = judge(simpleitk.Side(image), fixed)
    return replace(alignment, quality=quality, problem=alignment.problem or quality.problem())


def _checked(moving: Volume, flair: Volume, pose: Float, name: str, version: str) -> Alignment:
    """Return SimpleITK's pose as an alignment, or FLIRT's checked against it.

    Where FLIRT failed, that is the problem of SimpleITK's.
    """
    if name == "simpleitk":
        return Alignment(pose, name, version, None)
    found, apart = pose, np.inf
    for use_headers in (True, False):  # a wrong header misleads the first attempt
        try:
            found = flirt.estimate(moving, flair, use_headers)
        except RegistrationError as error:
            return Alignment(pose, "simpleitk", simpleitk.version(), None, problem=str(error))
        apart = apart_mm(found, pose, flair)
        if apart <= FAIL_APART_MM:
            break
    said = f"FLIRT and SimpleITK place it {apart:.1f} mm apart"
    problem = f"{said}; look at the images" if apart > FAIL_APART_MM else ""
    notes = (f"{moving.name}: {said}; look at the registration",) if apart > WARN_APART_MM else ()
    return Alignment(found, name, version, None, problem=problem, warnings=notes)


def _with_coverage(alignment: Alignment, moving: Volume, flair: Volume) -> Alignment:
    """Return the alignment with what is wrong, or to be known, of how much the image covers."""
    covered = coverage(moving.grid, flair, alignment.flair_from_moving) if alignment.moved else 1.0
    if covered == 0:
        problem = alignment.problem or "does not cover any of the FLAIR; is it of another exam?"
        return replace(alignment, problem=problem)
    if covered > MOST:
        return alignment
    note = f"{moving.name}: covers only {covered:.0%} of the FLAIR's head; masks suffer beyond it"
    return replace(alignment, warnings=(*alignment.warnings, note))


def _place(moving: Volume, flair: Volume, alignment: Alignment) -> Volume:
    """Return the image on the FLAIR's grid, resampled if it is to be moved."""
    data = moving.data
    if alignment.moved:
        pose = alignment.flair_from_moving
        data = resample(data, moving.grid, flair.grid, pose, moving.air)
    return replace(moving, data=data, grid=flair.grid, header=flair.header)


def _check_slices(volume: Volume) -> None:
    if min(volume.grid.shape) < MIN_SLICES:
        raise InputError(
            f"{volume.name}: only {min(volume.grid.shape)} slices; registration needs at least "
            f"{MIN_SLICES}, so align it yourself and choose --registration none"
        )
