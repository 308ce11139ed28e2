"""Accuracy, capture range and quality gate of registration on real scans, as tables.

Run it from the repository: ``python tests/benchmarks/registration.py [PART ...]``, PART being
``accuracy``, ``moves``, ``headers`` or ``gate``; all by default. It needs the raw sessions in
``../shared/data/raw_sessions`` and, for ``gate``, the aligned exams in ``../shared/data/labelled``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from rsaseg.imaging import Grid, Volume, read_mask, read_volume, resample
from rsaseg.registration import register, simpleitk
from rsaseg.registration.flirt import find_flirt
from rsaseg.registration.quality import Quality, apart_mm, judge, sharpness

DATA = Path(__file__).parents[2] / "../shared/data"
SEQUENCES = ("T1", "T2")
ENGINES = ("simpleitk", "flirt") if find_flirt() else ("simpleitk",)


def publisher(path: Path) -> NDArray:
    """The publisher's transform (ITK, LPS mm, FLAIR to moving points) as RAS flair_from_moving."""
    read = sitk.ReadTransform(str(path))
    origin = np.array(read.TransformPoint((0.0, 0.0, 0.0)))
    lps = np.eye(4)
    lps[:3, :3] = np.array([read.TransformPoint(tuple(e)) for e in np.eye(3)]).T - origin[:, None]
    lps[:3, 3] = origin
    flip = np.diag([-1.0, -1, 1, 1])
    return flip @ np.linalg.inv(lps) @ flip


def brain_points(session: Path) -> NDArray:
    mask, grid = read_mask(session / "brain.nii.gz")
    return apply_affine(grid.affine, np.argwhere(mask)[::50])


def error_mm(found: NDArray, truth: NDArray, points: NDArray) -> float:
    """Mean distance between where two transforms fetch the FLAIR's points from."""
    apart = apply_affine(np.linalg.inv(found), points) - apply_affine(np.linalg.inv(truth), points)
    return float(np.linalg.norm(apart, axis=1).mean())


def rigid(rng: np.random.Generator, degrees: float, mm: float, centre: NDArray) -> NDArray:
    """A turn by ``degrees`` about a random axis through ``centre`` and a shift by ``mm``."""
    axis, shift = rng.normal(size=(2, 3))
    pose = np.eye(4)
    turn = Rotation.from_rotvec(np.deg2rad(degrees) * axis / np.linalg.norm(axis)).as_matrix()
    pose[:3, :3] = turn
    pose[:3, 3] = centre - turn @ centre + mm * shift / np.linalg.norm(shift)
    return pose


def sessions() -> list[Path]:
    return sorted(path for path in (DATA / "raw_sessions").iterdir() if path.is_dir())


def scans() -> Iterator[tuple[Path, str, Volume, Volume]]:
    for session in sessions():
        flair = read_volume(session / "FLAIR.nii.gz")
        for sequence in SEQUENCES:
            yield session, sequence, read_volume(session / f"{sequence}.nii.gz"), flair


def show(*cells: object) -> None:
    print(
        "  ".join(f"{c:8.3f}" if isinstance(c, float) else f"{c!s:18}" for c in cells), flush=True
    )


def accuracy() -> None:
    """Mean distance inside the brain to the publisher's transform."""
    show("session", "sequence", "engine", "error mm", "sharpness", "residual mm", "s")
    errors = []
    for session, sequence, moving, flair in scans():
        truth = publisher(session / f"{sequence}_to_FLAIR.tfm")
        for engine in ENGINES:
            one = register(moving, flair, engine)
            assert one.quality is not None
            errors.append(error_mm(one.flair_from_moving, truth, brain_points(session)))
            cells = (one.quality.sharpness, one.quality.residual_mm, one.seconds)
            show(session.name, sequence, engine, errors[-1], *cells)
    print(f"worst {max(errors):.3f} mm; at most 1.0 wanted\n")


def estimate(moving: Volume, flair: Volume) -> NDArray:
    return simpleitk.estimate(simpleitk.prepare(moving), simpleitk.prepare(flair))


def moves() -> None:
    """The head moved by a known amount inside the field of view of T1 or T2, 20 times."""
    show("session", "sequence", "degrees", "mm", "error mm", "cpu s")
    rng, errors, every = np.random.default_rng(20), [], list(scans())
    still = {}
    for draw in range(20):
        session, sequence, moving, flair = every[draw % len(every)]
        points = brain_points(session)
        if draw < len(every):
            still[session, sequence] = estimate(moving, flair)
        degrees, mm = rng.uniform(2, 20), rng.uniform(2, 25)
        move = rigid(rng, degrees, mm, points.mean(axis=0))
        data = resample(moving.data, moving.grid, moving.grid, move)
        started = time.process_time()
        found = estimate(replace(moving, data=data), flair)
        seconds = time.process_time() - started
        errors.append(error_mm(found @ move, still[session, sequence], points))
        show(session.name, sequence, degrees, mm, errors[-1], seconds)
    print(f"mean {np.mean(errors):.3f}, worst {max(errors):.3f} mm; mean of 0.3 wanted\n")


def headers() -> None:
    """The header of T1 or T2 wrong by a known amount."""
    show("session", "sequence", "degrees", "mm", "error mm")
    rng, errors = np.random.default_rng(45), []
    for session, sequence, moving, flair in scans():
        points = brain_points(session)
        still = estimate(moving, flair)
        for degrees, mm in ((25.0, 40.0), (45.0, 60.0)):
            wrong = rigid(rng, degrees, mm, points.mean(axis=0))
            grid = Grid(moving.grid.shape, wrong @ moving.grid.affine)
            found = estimate(replace(moving, grid=grid), flair)
            errors.append(error_mm(found @ wrong, still, points))
            show(session.name, sequence, degrees, mm, errors[-1])
    print(f"worst {max(errors):.3f} mm; 0.3 wanted\n")


def gate() -> None:
    """Quality of good poses, of known wrong ones and of the wrong patient registered."""
    show("kind", "exam", "sharpness", "residual mm", "passes")
    judged: dict[str, list[bool]] = {}

    def note(kind: str, exam: str, quality: Quality) -> None:
        judged.setdefault(kind, []).append(quality.good)
        show(kind, exam, quality.sharpness, quality.residual_mm, quality.good)

    rng, every = np.random.default_rng(90), list(scans())
    prepared = {(s.name, q): simpleitk.prepare(moving) for s, q, moving, _ in every}
    for index, (session, sequence, _, flair) in enumerate(every):
        moving, fixed = prepared[session.name, sequence], simpleitk.prepare(flair)
        good = simpleitk.estimate(moving, fixed)

        def look(pose: NDArray, moving=moving, fixed=fixed, flair=flair) -> Quality:
            residual = simpleitk.refine(moving, fixed, pose)
            return Quality(sharpness(moving, fixed, pose), apart_mm(residual, pose, flair))

        note("right", f"{session.name} {sequence}", look(good))
        centre = brain_points(session).mean(axis=0)
        for degrees, mm in ((0, 3), (3, 0), (10, 0), (0, 20), (10, 20), (30, 40), (90, 80)):
            pose = rigid(rng, degrees, mm, centre) @ good
            note(f"{degrees} deg {mm} mm", f"{session.name} {sequence}", look(pose))
        others = [s.name for s in sessions() if s != session]
        stranger = prepared[others[index % 3], sequence]
        pose = simpleitk.estimate(stranger, fixed)
        residual = simpleitk.refine(stranger, fixed, pose)
        quality = Quality(sharpness(stranger, fixed, pose), apart_mm(residual, pose, flair))
        note("wrong patient", f"{session.name} {others[index % 3]} {sequence}", quality)
    for place in sorted((DATA / "labelled").iterdir()):
        if (place / "FLAIR.nii.gz").is_file():
            flair = read_volume(place / "FLAIR.nii.gz")
            for sequence in SEQUENCES:
                image = read_volume(place / f"{sequence}.nii.gz")
                note("aligned as given", f"{place.name} {sequence}", judge(image, flair))
    print()
    for kind, passed in judged.items():
        show(kind, f"{sum(passed)} of {len(passed)} pass")


def main() -> None:
    parts = {"accuracy": accuracy, "moves": moves, "headers": headers, "gate": gate}
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[*parts, []], default=list(parts))
    if not (DATA / "raw_sessions").is_dir():
        sys.exit(f"needs {DATA / 'raw_sessions'}")
    for part in parser.parse_args().parts:
        print(f"# {part}: {parts[part].__doc__}")
        parts[part]()


if __name__ == "__main__":
    main()
