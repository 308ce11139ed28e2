"""Files that cannot be used: one line that names the file, whatever is wrong with it."""

from __future__ import annotations

import gzip
import os
import random
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from rsaseg.errors import GeometryError, InputError, RsasegError
from rsaseg.imaging import read_mask, read_volume


def good(shape=(5, 6, 7), dtype="f4") -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def nifti(data: np.ndarray, image_class=nib.Nifti1Image) -> bytearray:
    image = image_class(data, np.diag([1.0, 2, 3, 1]), dtype=data.dtype)
    image.set_qform(image.affine, 1)
    image.set_sform(image.affine, 1)
    return bytearray(image.to_bytes())


def with_floats(offset: int, *values: float) -> bytearray:
    """Return a good file whose header has ``values`` at byte ``offset``."""
    raw = nifti(good())
    raw[offset : offset + 4 * len(values)] = struct.pack(f"<{len(values)}f", *values)
    return raw


def with_voxel(value: float, dtype="f4") -> bytearray:
    data = good(dtype=dtype)
    data[2, 3, 4] = value
    return nifti(data)


def rgb() -> bytearray:
    return nifti(np.zeros((3, 4, 5), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]))


def bad_crc() -> bytes:
    packed = bytearray(gzip.compress(bytes(nifti(good()))))
    packed[-8] ^= 1
    return bytes(packed)


def with_sizes(*sizes: int) -> bytearray:
    raw = nifti(good())
    raw[42 : 42 + 2 * len(sizes)] = struct.pack(f"<{len(sizes)}h", *sizes)
    return raw


SROW, QUATERN, PIXDIM, VOX_OFFSET = 280, 256, 76, 108
PACKED = gzip.compress(bytes(nifti(good())))
CASES = {
    "text": (b"not an image at all\n" * 40, InputError, "not a NIfTI image"),
    "empty": (b"", InputError, "not a NIfTI image"),
    "short header": (bytes(nifti(good()))[:200], InputError, "not a NIfTI image"),
    "zeros": (bytes(1000), InputError, "not a NIfTI image"),
    "header alone": (bytes(nifti(good()))[:352], InputError, "fewer voxels"),
    "voxels cut": (bytes(nifti(good()))[:-1], InputError, "fewer voxels"),
    "offset beyond the end": (with_floats(VOX_OFFSET, 1e9), InputError, "fewer voxels"),
    "negative size": (with_sizes(-5), InputError, "fewer voxels"),
    "two negative sizes": (with_sizes(-5, -6), InputError, "fewer voxels"),
    "sizes no computer could hold": (with_sizes(32767, 32767, 32767), InputError, "fewer voxels"),
    "gzip cut": (PACKED[:-20], InputError, "truncated gzip"),
    "gzip header alone": (PACKED[:10], InputError, "truncated gzip"),
    "gzip of nothing": (gzip.compress(b""), InputError, "not a NIfTI image"),
    "gzip with a wrong checksum": (bad_crc(), InputError, "truncated gzip"),
    "4D": (nifti(good((3, 4, 5, 2))), InputError, "4D image"),
    "2D": (nifti(good((8, 9))), InputError, "2D image"),
    "NaN": (with_voxel(np.nan), InputError, "NaN or infinite"),
    "infinite": (with_voxel(-np.inf), InputError, "NaN or infinite"),
    "too large for float32": (with_voxel(1e300, "f8"), InputError, "NaN or infinite"),
    "constant": (nifti(np.full((3, 4, 5), 7, "i2")), InputError, "same value"),
    "colour": (rgb(), InputError, "not plain numbers"),
    "complex": (nifti(good(dtype="c8")), InputError, "not plain numbers"),
    "flat affine": (with_floats(SROW, *[0.0] * 12), GeometryError, "no inverse"),
    "affine with NaN": (with_floats(SROW, np.nan), GeometryError, "no inverse"),
    "sform elsewhere": (with_floats(SROW + 12, 5.0), GeometryError, "5 mm apart"),
    "sform far away": (with_floats(SROW + 12, 3e38), GeometryError, "mm apart"),
    "qform not a rotation": (with_floats(QUATERN, 3.0), GeometryError, "no rotation"),
    "other voxel size in qform": (with_floats(PIXDIM + 4, 2.0), GeometryError, "4 mm apart"),
}


def refuse(read, path: Path) -> RsasegError:
    with pytest.raises(RsasegError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert "; " in message  # what is wrong; what to do
    assert caught.value.exit_code == 2
    return caught.value


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("case", sorted(CASES))
def test_a_file_that_cannot_be_used_is_refused_in_one_line(tmp_path, case, suffix):
    content, error_class, words = CASES[case]
    path = tmp_path / f"image{suffix}"
    path.write_bytes(content)
    error = refuse(read_volume, path)
    assert type(error) is error_class
    assert words in str(error)


@pytest.mark.parametrize("case", sorted({*CASES} - {"constant", "sform elsewhere"}))
def test_no_such_file_is_read_as_a_mask_either(tmp_path, case):
    path = tmp_path / "mask.nii"
    path.write_bytes(CASES[case][0])
    refuse(read_mask, path)


def test_a_mask_is_no_image_whatever_its_two_values(tmp_path):
    path = tmp_path / "image.nii"
    mask = np.arange(60, dtype="i2").reshape(3, 4, 5) // 50
    for values in (mask, 255 * mask, mask - 7):
        path.write_bytes(nifti(values))
        assert "as a mask does" in str(refuse(read_volume, path))
    path.write_bytes(nifti(mask + good((3, 4, 5), "i2")))
    read_volume(path)


@pytest.mark.parametrize("read", [read_volume, read_mask])
def test_places_that_hold_no_readable_file(tmp_path, read):
    assert "no such file" in str(refuse(read, tmp_path / "none.nii.gz"))
    assert "no such file" in str(refuse(read, tmp_path / "none" / "none.nii.gz"))
    (tmp_path / "folder.nii").mkdir()
    assert "is a folder" in str(refuse(read, tmp_path / "folder.nii"))
    (tmp_path / "image.mgz").write_bytes(b"x")
    assert "not a NIfTI name" in str(refuse(read, tmp_path / "image.mgz"))
    (tmp_path / "circle.nii").symlink_to(tmp_path / "circle.nii")
    refuse(read, tmp_path / "circle.nii")
    refuse(read, tmp_path / f"{'n' * 300}.nii")


@pytest.mark.parametrize("read", [read_volume, read_mask])
def test_a_file_that_cannot_be_opened(tmp_path, monkeypatch, read):
    path = tmp_path / "image.nii"
    path.write_bytes(nifti(good()))
    path.chmod(0)
    if os.geteuid() == 0:  # root reads everything

        def deny(self):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "read_bytes", deny)
    assert "cannot be read (Permission denied)" in str(refuse(read, path))


def test_a_difference_of_under_a_millimetre_between_the_forms_is_allowed(tmp_path):
    path = tmp_path / "image.nii"
    path.write_bytes(with_floats(SROW + 12, 0.9))
    assert read_volume(path).grid.affine[0, 3] == np.float32(0.9)


@pytest.mark.parametrize("image_class", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.filterwarnings("error")
def test_no_damage_to_the_header_escapes_as_another_error(tmp_path, image_class, caplog):
    """Change random bytes of the header, or cut the file: it is read or refused, nothing else."""
    rng = random.Random(0)
    whole = nifti((good() % 2).astype("u1"), image_class)
    header_bytes = 348 if image_class is nib.Nifti1Image else 540
    path = tmp_path / "image.nii"
    messages = []
    for _ in range(400):
        raw = bytearray(whole)
        for _ in range(rng.choice([1, 2, 4])):
            raw[rng.randrange(header_bytes)] = rng.choice([0, 1, 127, 128, 255])
        path.write_bytes(raw[: rng.randrange(len(raw))] if rng.random() < 0.1 else raw)
        for read in (read_volume, read_mask):
            try:
                read(path)
            except RsasegError as error:
                messages.append(str(error))
    assert len(messages) > 50
    assert all(message.startswith(f"{path}: ") for message in messages)
