"""Memory that one step freed stays with the process for the next.

A step on a CPU frees its activations and allocates as many again. The GNU C library gives a freed
block back to the system when it is large, or when it lies at the end of the heap; the next step
then pays a page fault for each 4 KiB of it: up to a tenth of a step of ResNet-20, more or less by
chance, since it hangs on which small block happens to lie behind the large ones (docs/log.md).
While a training runs, nothing is given back; after it, all of it.

Left out: other C libraries (macOS, musl), whose allocators have no such setting; memory of GPUs,
which torch keeps by itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h
NEVER = 2**31 - 1  # bytes: the largest that mallopt takes
LARGEST = 32 << 20  # bytes: where glibc's own threshold ends once such a block was freed


@contextlib.contextmanager
def memory_kept() -> Iterator[None]:
    """Keep freed memory within the block, for the whole process; nothing elsewhere than on glibc.

    Afterwards blocks of up to 32 MiB are kept while less than 64 MiB are free, which is what glibc
    does by itself in a process that has freed a block of that size.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "mallopt"):
        yield
        return
    library.mallopt(MMAP_THRESHOLD, NEVER)
    library.mallopt(TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        library.mallopt(MMAP_THRESHOLD, LARGEST)
        library.mallopt(TRIM_THRESHOLD, 2 * LARGEST)
        library.malloc_trim(0)
