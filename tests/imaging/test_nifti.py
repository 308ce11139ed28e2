"""Reading and writing NIfTI, against nibabel, SimpleITK and files built byte by byte."""

from __future__ import annotations

import gzip
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nibabel.orientations import axcodes2ornt
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.transform import Rotation

from rsaseg.errors import GeometryError, InputError
from rsaseg.imaging import (
    as_mask,
    as_volume,
    check_suffix,
    read_mask,
    read_volume,
    write_atomic,
    write_nifti,
)
from rsaseg.phantom import Phantom

ORIENTATIONS = [
    "".join(codes)
    for axes in itertools.permutations(("RL", "AP", "SI"))
    for codes in itertools.product(*axes)
]
GEOMETRY = ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "xyzt_units")
GEOMETRY += ("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z")
TYPES = ("u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")
FORMS = {"both": (1, 1), "sform": (0, 2), "qform": (3, 0), "scanner and mni": (1, 4)}

same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)


def some_affine(orientation="LPS", spacing_mm=(0.9, 1.1, 6.5), tilt_deg=(11, -7, 4)):
    axis, flip = axcodes2ornt(tuple(orientation)).T
    direction = np.zeros((3, 3))
    direction[axis.astype(int), range(3)] = flip
    affine = np.eye(4)
    tilt = Rotation.from_euler("xyz", tilt_deg, degrees=True).as_matrix()
    affine[:3, :3] = tilt @ direction * spacing_mm
    affine[:3, 3] = (-80.5, 91.25, -33)
    return affine


def make_image(data, affine, forms=(1, 1), image_class=nib.Nifti1Image):
    """Return an image whose header also carries every kind of free text."""
    image = image_class(data, None, dtype=data.dtype)
    header = image.header
    qform_code, sform_code = forms
    header.set_qform(affine if qform_code else None, qform_code)
    header.set_sform(affine if sform_code else None, sform_code)
    if not qform_code:
        header.set_zooms(nib.affines.voxel_sizes(affine))
    header.set_xyzt_units("mm", "sec")
    header["pixdim"][4:] = (2.5, 3.5, 4.5, 5.5)  # repetition time and such
    header["descrip"] = b"Jane Doe 1970-01-01"
    header["aux_file"] = b"jane.txt"
    header["intent_name"] = b"Doe"
    if "db_name" in header:
        header["db_name"] = b"ward 7"
    header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"born 1970 in Doetown"))
    return image_class(data, header.get_best_affine(), header)


def some_data(dtype="i2", shape=(5, 6, 7)):
    values = np.random.default_rng(0).integers(0, 100, shape)
    return values.astype(dtype)


@same_folder
@given(
    orientation=st.sampled_from(ORIENTATIONS),
    spacing_mm=st.tuples(*[st.floats(0.3, 10)] * 3),
    tilt_deg=st.tuples(*[st.floats(-40, 40)] * 3),
    forms=st.sampled_from(sorted(FORMS)),
    image_class=st.sampled_from([nib.Nifti1Image, nib.Nifti2Image]),
    suffixes=st.tuples(*[st.sampled_from([".nii", ".nii.gz"])] * 2),
)
def test_a_mask_lands_on_the_grid_of_the_image_it_was_made_from(
    tmp_path, orientation, spacing_mm, tilt_deg, forms, image_class, suffixes
):
    affine = some_affine(orientation, spacing_mm, tilt_deg)
    source_path, mask_path = tmp_path / f"image{suffixes[0]}", tmp_path / f"mask{suffixes[1]}"
    nib.save(make_image(some_data(), affine, FORMS[forms], image_class), source_path)
    volume = read_volume(source_path)
    mask = (volume.data > 50).astype(np.uint8)
    write_nifti(mask_path, mask, volume.header)

    source, written = nib.load(source_path), nib.load(mask_path)
    assert type(written) is image_class
    assert_array_equal(written.affine, source.affine)
    assert_array_equal(volume.grid.affine, source.affine)
    for field in GEOMETRY:
        assert_array_equal(written.header[field], source.header[field], field)
    assert_array_equal(written.header["pixdim"][:4], source.header["pixdim"][:4])
    assert set(written.header["pixdim"][4:]) <= {0, 1}
    assert written.get_data_dtype() == np.uint8
    assert_array_equal(np.asarray(written.dataobj), mask)
    assert written.header.get_slope_inter() in ((None, None), (1, 0))
    back, grid = read_mask(mask_path)
    assert_array_equal(back, mask == 1)
    assert grid.matches(volume.grid)
    assert mask_path.read_bytes()[:2] == (
        b"\x1f\x8b" if suffixes[1] == ".nii.gz" else written_magic(image_class)
    )


def written_magic(image_class):
    return (348 if image_class is nib.Nifti1Image else 540).to_bytes(2, sys.byteorder)


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PIR", "ASL"])
def test_simpleitk_sees_the_written_mask_where_it_saw_the_image(tmp_path, orientation):
    nib.save(make_image(some_data(), some_affine(orientation)), tmp_path / "image.nii")
    volume = read_volume(tmp_path / "image.nii")
    write_nifti(tmp_path / "mask.nii.gz", np.ones(volume.data.shape, np.uint8), volume.header)
    image, mask = (sitk.ReadImage(tmp_path / name) for name in ("image.nii", "mask.nii.gz"))
    assert mask.GetPixelIDTypeAsString() == "8-bit unsigned integer"
    assert image.GetSize() == mask.GetSize()
    for get in ("GetOrigin", "GetSpacing", "GetDirection"):
        assert getattr(image, get)() == getattr(mask, get)()


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("dtype", TYPES)
def test_every_data_type_and_byte_order_reads_alike(tmp_path, dtype, byte_order):
    data = some_data(dtype)
    header = nib.Nifti1Header(endianness=byte_order)
    header.set_data_dtype(np.dtype(dtype).newbyteorder(byte_order))
    header.set_sform(some_affine(), 1)
    nib.save(nib.Nifti1Image(data, None, header), tmp_path / "image.nii")
    raw = (tmp_path / "image.nii").read_bytes()
    assert raw[:4] == (348).to_bytes(4, "little" if byte_order == "<" else "big")
    volume = read_volume(tmp_path / "image.nii")
    assert volume.data.dtype == np.float32
    assert_array_equal(volume.data, data.astype(np.float32))
    write_nifti(tmp_path / "again.nii", volume.data, volume.header)
    assert_allclose(nib.load(tmp_path / "again.nii").affine, volume.grid.affine)


@pytest.mark.parametrize(("slope", "inter"), [(0.5, 0), (2, -30.5), (-1.5, 10), (1e-3, 4), (0, 7)])
def test_slope_and_intercept_are_applied_and_not_passed_on(tmp_path, slope, inter):
    data = some_data("i2")
    raw = bytearray(make_image(data, some_affine()).to_bytes())
    raw[112:120] = np.array([slope, inter], "<f4").tobytes()  # scl_slope, scl_inter
    (tmp_path / "image.nii").write_bytes(raw)
    volume = read_volume(tmp_path / "image.nii")
    truth = data * np.float32(slope) + np.float32(inter) if slope else data  # 0: not scaled
    assert_allclose(volume.data, truth, rtol=1e-6)
    write_nifti(tmp_path / "mask.nii", np.ones(data.shape, np.uint8), volume.header)
    assert_array_equal(nib.load(tmp_path / "mask.nii").get_fdata(), 1)


def test_no_free_text_reaches_the_output(tmp_path):
    for image_class, header_bytes in ((nib.Nifti1Image, 348), (nib.Nifti2Image, 540)):
        image = make_image(some_data(), some_affine(), image_class=image_class)
        nib.save(image, tmp_path / "image.nii")
        assert b"Doe" in (tmp_path / "image.nii").read_bytes()
        volume = read_volume(tmp_path / "image.nii")
        write_nifti(tmp_path / "mask.nii", np.ones(volume.data.shape, np.uint8), volume.header)
        raw = (tmp_path / "mask.nii").read_bytes()
        for text in (b"Doe", b"Jane", b"jane", b"ward", b"1970"):
            assert text not in raw
        written = nib.load(tmp_path / "mask.nii").header
        assert not written.extensions
        for field in ("descrip", "aux_file", "intent_name"):
            assert written[field].item() == b""
        assert len(raw) == header_bytes + 4 + volume.data.size


def test_the_same_mask_gives_the_same_bytes(tmp_path):
    nib.save(make_image(some_data(), some_affine()), tmp_path / "image.nii")
    volume = read_volume(tmp_path / "image.nii")
    mask = (volume.data > 50).astype(np.uint8)
    write_nifti(tmp_path / "one.nii.gz", mask, volume.header)
    time.sleep(1.1)  # a gzip header counts whole seconds
    write_nifti(tmp_path / "two.nii.gz", mask, volume.header)
    assert (tmp_path / "one.nii.gz").read_bytes() == (tmp_path / "two.nii.gz").read_bytes()


def test_sha256_is_that_of_the_file_as_it_lies_on_disk(tmp_path):
    nib.save(make_image(some_data(), some_affine()), tmp_path / "image.nii.gz")
    told = subprocess.run(
        ["sha256sum", tmp_path / "image.nii.gz"], capture_output=True, text=True, check=True
    )
    assert read_volume(tmp_path / "image.nii.gz").sha256 == told.stdout.split()[0]


def test_a_trailing_axis_of_one_is_dropped(tmp_path):
    data = some_data("u1", (5, 6, 7, 1))
    nib.save(make_image(data, some_affine()), tmp_path / "image.nii")
    nib.save(make_image(data % 2, some_affine()), tmp_path / "mask.nii")
    assert_array_equal(read_volume(tmp_path / "image.nii").data, data[..., 0])
    assert_array_equal(read_mask(tmp_path / "mask.nii")[0], data[..., 0] % 2 == 1)


def test_a_name_in_capitals_and_a_gzip_file_without_gz_are_read(tmp_path):
    raw = make_image(some_data(), some_affine()).to_bytes()
    (tmp_path / "A.NII.GZ").write_bytes(gzip.compress(raw))
    (tmp_path / "b.nii").write_bytes(gzip.compress(raw))
    one, two = read_volume(tmp_path / "A.NII.GZ"), read_volume(tmp_path / "b.nii")
    assert_array_equal(one.data, two.data)


def test_no_orientation_in_the_header_is_a_warning(tmp_path):
    nib.save(make_image(some_data(), some_affine(), (0, 0)), tmp_path / "image.nii")
    (warning,) = read_volume(tmp_path / "image.nii").warnings
    assert "image.nii" in warning
    assert "orientation" in warning


def test_an_image_in_memory_is_a_volume_too():
    volume = as_volume(make_image(some_data(), some_affine()), "memory")
    assert_array_equal(volume.data, some_data())
    assert volume.sha256 == ""


@pytest.mark.parametrize(
    ("low", "high", "air"),
    [(0, 900, 0), (-30, 900, 0), (100, 900, 0), (-1024, -100, -1024), (1000, 1900, 1000)],
    ids=["as scanned", "ripple", "cropped inside the brain", "offset", "positive offset"],
)
def test_air_is_0_or_the_darkest_of_a_file_with_an_offset(low, high, air):
    data = np.linspace(low, high, 20**3, dtype=np.float32).reshape(20, 20, 20)
    volume = as_volume(make_image(data, some_affine()), "x.nii")
    assert volume.air == pytest.approx(air, abs=10)


def test_the_phantom_survives_its_files(phantom: Phantom, phantom_files):
    flair = read_volume(phantom_files["FLAIR"])
    assert flair.grid.matches(phantom.grid)
    assert_allclose(flair.data, phantom.images["FLAIR"].data, atol=0.51)
    assert_array_equal(read_mask(phantom_files["lesion"])[0], phantom.lesion)


@pytest.mark.parametrize("dtype", ["u1", "i2", "f4"])
def test_a_mask_of_any_type_or_scaling_is_read(tmp_path, dtype):
    truth = some_data() > 50
    nib.save(make_image(truth.astype(dtype), some_affine()), tmp_path / "mask.nii")
    assert_array_equal(read_mask(tmp_path / "mask.nii")[0], truth)
    scaled = bytearray(make_image(truth.astype("u1") * 255, some_affine()).to_bytes())
    scaled[112:120] = np.array([1 / 255, 0], "<f4").tobytes()
    (tmp_path / "scaled.nii").write_bytes(scaled)
    assert_array_equal(read_mask(tmp_path / "scaled.nii")[0], truth)


def test_an_empty_mask_is_a_mask(tmp_path):
    nib.save(make_image(np.zeros((3, 4, 5), "u1"), some_affine()), tmp_path / "mask.nii")
    assert not read_mask(tmp_path / "mask.nii")[0].any()


@pytest.mark.parametrize("values", [(0, 2), (0, 255), (0, -1), (0, 0.5), (0, np.nan)])
def test_other_values_are_no_mask(tmp_path, values):
    data = np.resize(np.array(values, "f4"), (3, 4, 5))
    nib.save(make_image(data, some_affine()), tmp_path / "mask.nii")
    with pytest.raises(InputError, match=r"mask\.nii: a mask may hold only 0 and 1"):
        read_mask(tmp_path / "mask.nii")


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8"])
def test_the_least_value_of_a_type_is_no_0(dtype):
    data = some_data("u1").astype(dtype) % 2
    data[0, 0, 0] = np.iinfo(dtype).min  # abs() leaves it below 0
    image = nib.Nifti1Image(data, some_affine(), dtype=data.dtype)
    with pytest.raises(InputError, match="a mask may hold only 0 and 1"):
        as_mask(image, "mask.nii")


# ---- writing ----


def test_an_error_while_renaming_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    target = tmp_path / "mask.nii"
    target.write_bytes(b"old")

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    for name in ("replace", "rename"):
        monkeypatch.setattr(os, name, fail)
    with pytest.raises(InputError, match=r"mask\.nii: cannot be written \(No space left"):
        write_atomic(target, b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["mask.nii"]
    assert target.read_bytes() == b"old"


def test_a_mask_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    volume = as_volume(make_image(some_data(), some_affine()), "memory")
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(InputError, match=r"mask\.nii: cannot be written \(full\)"):
        write_nifti(tmp_path / "mask.nii", np.ones(volume.data.shape, np.uint8), volume.header)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_writing_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(handle):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "mask.nii", b"new")
    assert list(tmp_path.iterdir()) == []


def test_a_kill_at_any_moment_leaves_the_old_file_or_the_new_one(tmp_path):
    target = tmp_path / "mask.nii"
    size = 3_000_000
    target.write_bytes(b"o" * size)
    code = (
        "import sys, pathlib; from rsaseg.imaging import write_atomic\n"
        f"content = b'n' * {size}\nprint('go', flush=True)\n"
        "while True: write_atomic(pathlib.Path(sys.argv[1]), content)"
    )
    for wait_s in (0.0, 0.013, 0.037):
        process = subprocess.Popen([sys.executable, "-c", code, target], stdout=subprocess.PIPE)
        with process:
            process.stdout.readline()
            time.sleep(wait_s)
            process.send_signal(signal.SIGKILL)
        content = target.read_bytes()
        assert content in (b"o" * size, b"n" * size)


def test_nobody_ever_sees_a_half_written_file(tmp_path, monkeypatch):
    target = tmp_path / "mask.nii"
    seen = []
    real = os.fsync

    def look(handle):
        seen.append(target.exists())
        real(handle)

    monkeypatch.setattr(os, "fsync", look)
    write_atomic(target, b"all of it")
    assert seen == [False]
    assert target.read_bytes() == b"all of it"


def test_written_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "usual").touch()
    write_atomic(tmp_path / "mask.nii", b"")
    assert (tmp_path / "mask.nii").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_umask_set_later_holds(tmp_path):
    before = os.umask(0o077)
    try:
        write_atomic(tmp_path / "private.json", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "private.json").stat().st_mode & 0o777 == 0o600


def test_a_missing_folder_or_a_folder_of_that_name_is_told(tmp_path):
    with pytest.raises(InputError, match=r"cannot be written \(No such file or directory\)"):
        write_atomic(tmp_path / "none" / "mask.nii", b"")
    (tmp_path / "mask.nii").mkdir()
    with pytest.raises(InputError, match=r"cannot be written \(Is a directory\)"):
        write_atomic(tmp_path / "mask.nii", b"")
    assert [path.name for path in tmp_path.iterdir()] == ["mask.nii"]


@pytest.mark.skipif(os.geteuid() == 0, reason="needs a user other than root")
def test_a_folder_without_permission_is_told(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match=r"cannot be written \(Permission denied\)"):
        write_atomic(tmp_path / "mask.nii", b"")


@pytest.mark.parametrize("name", ["mask", "mask.img", "mask.nii.bz2", "nii.gz"])
def test_only_nifti_names_are_written(tmp_path, name):
    volume = as_volume(make_image(some_data(), some_affine()), "memory")
    with pytest.raises(InputError, match=r"ends in \.nii or \.nii\.gz"):
        write_nifti(tmp_path / name, np.ones(volume.data.shape, np.uint8), volume.header)
    assert check_suffix(Path("a.b.NII.GZ")) == ".nii.gz"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("unit", "words"), [("meter", "in metres"), ("micron", "in micrometres")])
def test_other_units_than_mm_are_refused(tmp_path, unit, words):
    image, mask = (make_image(a, some_affine()) for a in (some_data("u1"), some_data("u1") % 2))
    for known in ("unknown", "mm"):
        for one in (image, mask):
            one.header.set_xyzt_units(known, "sec")
        assert as_volume(image, "image").grid.matches(as_mask(mask, "mask")[1])
    image.header.set_xyzt_units(unit, "sec")
    nib.save(image, tmp_path / "image.nii")
    for read in (read_volume, read_mask):
        with pytest.raises(GeometryError, match=f"image.nii: its header is {words}"):
            read(tmp_path / "image.nii")
