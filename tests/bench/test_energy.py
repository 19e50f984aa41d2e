"""RAPL's counters: which are added up, what they gave, and what is said where there are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from burnish.bench._energy import find_meter
from burnish.errors import Unsupported


def counter(root: Path, folder: str, name: str, used: int = 0, most: int = 1_000_000) -> Path:
    """A domain as Linux shows it; gives the file of its energy."""
    (root / folder).mkdir(parents=True)
    (root / folder / "name").write_text(f"{name}\n")
    (root / folder / "max_energy_range_uj").write_text(f"{most}\n")
    (root / folder / "energy_uj").write_text(f"{used}\n")
    return root / folder / "energy_uj"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two packages, one with memory; and what would be counted twice."""
    (tmp_path / "intel-rapl").mkdir()
    counter(tmp_path, "intel-rapl:0", "package-0", 100)
    counter(tmp_path, "intel-rapl:0:0", "core", 50)
    counter(tmp_path, "intel-rapl:0:2", "dram", 7)
    counter(tmp_path, "intel-rapl:1", "package-1", 200)
    counter(tmp_path, "intel-rapl:2", "psys", 500)
    counter(tmp_path, "intel-rapl-mmio:0", "package-0", 100)
    return tmp_path


def test_packages_and_memory_are_added_up_once(root: Path) -> None:
    meter = find_meter(root)
    assert meter.names == "package-0, dram, package-1"
    before = meter.read()
    assert before == (100, 7, 200)
    for folder, used in (("0", 1100), ("0:2", 1007), ("1", 3200), ("2", 9000), ("0:0", 900)):
        (root / f"intel-rapl:{folder}" / "energy_uj").write_text(str(used))
    assert meter.joules(before, meter.read()) == pytest.approx(5000e-6)


def test_a_counter_that_began_again_goes_on(tmp_path: Path) -> None:
    file = counter(tmp_path, "intel-rapl:0", "package-0", 999_000, most=1_000_000)
    meter = find_meter(tmp_path)
    before = meter.read()
    file.write_text("500")
    assert meter.joules(before, meter.read()) == pytest.approx(1500e-6)


@pytest.mark.parametrize("folders", [[], ["intel-rapl:0"], ["intel-rapl:0:0"]])
def test_without_a_package_there_is_nothing(tmp_path: Path, folders: list[str]) -> None:
    for folder in folders:
        counter(tmp_path, folder, "psys" if folder.count(":") == 1 else "dram")
    with pytest.raises(Unsupported, match="no RAPL counter of a package"):
        find_meter(tmp_path)
    with pytest.raises(Unsupported, match="nowhere shows no RAPL"):
        find_meter(tmp_path / "nowhere")


def test_permission_denied_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_text

    def refuse(self: Path, encoding: str | None = None) -> str:
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read(self, encoding=encoding)

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(Unsupported, match=r"intel-rapl:0/energy_uj may not be read by this user"):
        find_meter(root)


def test_a_counter_that_is_gone_or_broken_is_told(root: Path) -> None:
    meter = find_meter(root)
    (root / "intel-rapl:1" / "energy_uj").write_text("much")
    with pytest.raises(Unsupported, match=r"energy_uj holds 'much'"):
        meter.read()
    (root / "intel-rapl:1" / "energy_uj").unlink()
    with pytest.raises(Unsupported, match=r"energy_uj cannot be read"):
        meter.read()
