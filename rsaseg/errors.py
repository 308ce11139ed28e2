"""What can go wrong for a user, each error saying what was found where and what to do."""

from __future__ import annotations


class RsasegError(Exception):
    """A problem the user can act on; its message is one line. ``exit_code`` is the shell's."""

    exit_code = 2


class InputError(RsasegError):
    """A file or option that cannot be used."""


class GeometryError(InputError):
    """Images that do not lie on the grid they should."""


class RegistrationError(RsasegError):
    """Images that could not be aligned well enough to segment."""

    exit_code = 1


class WeightsError(InputError):
    """Weights that are unknown, damaged or of another network."""


class DeviceError(InputError):
    """A processor that was asked for and cannot be used."""
