"""Unix sockets for processes of one user: the folder they lie in, and who is at the other end."""

from __future__ import annotations

import os
import socket
import struct
import tempfile
from pathlib import Path

__all__ = ["private_folder", "same_user"]


def private_folder() -> Path:
    """A folder of this user that nobody else can enter. Raises PermissionError where somebody else's is in its place."""
    folder = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"infernet-serve-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:  # which a link never satisfies
        raise PermissionError(f"{folder} must belong to this user alone (mode 700)")
    return folder


def same_user(connected: socket.socket) -> bool:
    """Whether the process at the other end of a connected Unix socket belongs to this user."""
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    return bool(uid == os.getuid())
