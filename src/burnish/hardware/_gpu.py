"""GPUs, where torch sees one.

Torch is asked, because nothing of Burnish reaches a device but through it or through a runtime of
its own; so this costs an import of torch and is apart from `detect`, which works without.
Left out: NPUs and GPUs that only OpenVINO knows (its worker names them where it refuses a device).
"""

from __future__ import annotations

from dataclasses import dataclass

from burnish.errors import MissingExtra


@dataclass(frozen=True)
class Gpu:
    """The device's name to torch ("cuda:0"), its model, bytes of memory (0: not told)."""

    device: str
    name: str
    memory_bytes: int


def gpus() -> tuple[Gpu, ...]:
    """Every GPU torch can use here; empty where there is none.

    Raises:
        MissingExtra: torch is not installed.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "torch":
            raise
        raise MissingExtra("GPUs are looked for through torch: pip install torch") from None
    found = []
    for kind, devices in (("cuda", torch.cuda), ("xpu", torch.xpu)):
        if devices.is_available():
            for index in range(devices.device_count()):
                about = devices.get_device_properties(index)
                found.append(Gpu(f"{kind}:{index}", str(about.name), int(about.total_memory)))
    if torch.backends.mps.is_available():
        found.append(Gpu("mps", "Apple GPU", 0))
    return tuple(found)
