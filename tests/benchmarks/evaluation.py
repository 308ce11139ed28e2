"""Times `rsaseg evaluate` on 100 cases of 182x218x182; the bar is 60 s on two cores.

Run: python tests/benchmarks/evaluation.py
"""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

import rsaseg
from rsaseg.report.evaluation import write_evaluation

SHAPE, N_CASES, BAR_S = (182, 218, 182), 100, 60.0


def make_mask(seed: int) -> NDArray[np.uint8]:
    """Return about 20 ml of blobs of many sizes in the middle of the volume."""
    rng = np.random.default_rng(seed)
    field = np.zeros(SHAPE, dtype=np.float32)
    middle = tuple(slice(n // 5, -n // 5) for n in SHAPE)
    inner = field[middle].shape
    for sigma_vox in (1.5, 4.0):
        noise = gaussian_filter(rng.standard_normal(inner, dtype=np.float32), sigma_vox)
        field[middle] += noise / noise.std()
    return (field > np.partition(field.ravel(), -20000)[-20000]).astype(np.uint8)


def main() -> None:
    """Write the cases, evaluate them, compare them, and print what it took."""
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch) / name for name in ("pred", "truth")]
        masks = [make_mask(seed) for seed in range(5)]
        for folder in folders:
            folder.mkdir()
        for case in range(N_CASES):
            truth = masks[case % 5]
            pred = np.roll(truth, 1 + case // 5 % 3, axis=case % 3) | masks[(case + 1) % 5]
            for folder, mask in zip(folders, (pred, truth), strict=True):
                image = nib.Nifti1Image(mask, np.diag([1.0, 1.0, 1.0, 1.0]))
                nib.save(image, folder / f"case-{case:03d}.nii.gz")
        start, cpu_start = time.perf_counter(), time.process_time()
        result = rsaseg.evaluate(*folders)
        write_evaluation(result, Path(scratch) / "out")
        seconds, cpu_s = time.perf_counter() - start, time.process_time() - cpu_start
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    n_lesions = sum(counts.n_truth for score in result.cases for counts in score.lesions)
    print(
        f"{N_CASES} cases of {SHAPE}, {n_lesions} true lesions, voxel-average Dice "
        f"{result.estimate('voxel_average_dice').value:.3f}"
    )
    print(f"{seconds:.1f} s (bar {BAR_S:.0f} s), {cpu_s:.1f} s of processor, {peak_mb:.0f} MB")


if __name__ == "__main__":
    main()
