"""Where what can be made again is kept: measured peaks, compiled kernels.

Left out: clearing it. Deleting the folder is safe at any time.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """BURNISH_CACHE where it is set, else the platform's place for caches. It need not exist yet.

    RuntimeError where neither is set and the user has no home folder.
    """
    named = os.environ.get("BURNISH_CACHE")
    if named:
        return Path(named).expanduser().absolute()
    if sys.platform == "win32":
        given, usual = os.environ.get("LOCALAPPDATA"), "AppData/Local"
    elif sys.platform == "darwin":
        given, usual = None, "Library/Caches"
    else:
        given, usual = os.environ.get("XDG_CACHE_HOME"), ".cache"
    return (Path(given) if given else Path.home() / usual) / "burnish"
