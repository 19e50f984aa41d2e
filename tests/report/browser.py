"""Looking at a page: its words, what it would load, and what chromium makes of it.

Pictures are decoded here (8-bit PNGs that are not interlaced), so that no library is needed to ask
whether something was drawn and whether anything is cut off. Not a test by itself.
"""

from __future__ import annotations

import re
import struct
import subprocess
import zlib
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

CHROMIUM = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--virtual-time-budget=10000",
)


def words(html: str) -> str:
    """The text a reader sees, without scripts and tags."""
    html = re.sub(r"<(script|style)\b.*?</\1>", " ", html, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


EVIL = "</script><script>alert('owned')</script><img src=http://evil.example/x.png>"


class Loads(HTMLParser):
    """Collects what a browser would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data", "action", "poster"):
                self.found.append(f"{tag} {name}={value}")


def browse(chromium: list[str], page: Path, profile: Path, *options: str) -> str:
    command = [*chromium, f"--user-data-dir={profile}", *options, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def picture(
    chromium: list[str], page: Path, folder: Path, height: int, scale: float = 1.0
) -> list[list[bytes]]:
    """Rows of pixels of the page in a window 1280 points wide."""
    shot = folder / "page.png"
    window = (f"--window-size=1280,{height}", f"--force-device-scale-factor={scale}")
    browse(chromium, page, folder / "profile", *window, f"--screenshot={shot}")
    *size, pixels = _decode(shot.read_bytes())
    assert size == [1280 * scale, height * scale]
    return pixels


def overflow(chromium: list[str], page: Path, folder: Path, width: int = 1280) -> int:
    """By how many points the page is wider than a window of that width."""
    measured = folder / "measured.html"
    script = "<script>document.title = document.documentElement.scrollWidth;</script></body>"
    measured.write_text(page.read_text("utf-8").replace("</body>", script), encoding="utf-8")
    window = f"--window-size={width},900"
    dom = browse(chromium, measured, folder / "profile", window, "--dump-dom")
    return int(dom.split("<title>")[1].split("<")[0]) - width


def no_wider_than_the_window(pixels: list[list[bytes]]) -> bool:
    return len({pixel for row in pixels for pixel in row[-12:]}) == 1


def _decode(png: bytes) -> tuple[int, int, list[list[bytes]]]:
    """Width, height and rows of pixels of an 8-bit PNG that is not interlaced."""
    width, height, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", png[16:29])
    assert (depth, interlaced) == (8, 0)
    size = {2: 3, 6: 4}[kind]
    data, at = b"", 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + length]
        at += length + 12
    raw, stride = zlib.decompress(data), width * size
    rows, before = [], bytearray(stride)
    for number in range(height):
        start = number * (stride + 1)
        line = _unfilter(raw[start], bytearray(raw[start + 1 : start + 1 + stride]), before, size)
        rows.append([bytes(line[i : i + 3]) for i in range(0, stride, size)])
        before = line
    return width, height, rows


def _unfilter(how: int, line: bytearray, above: bytearray, size: int) -> bytearray:
    if how == 2:
        return bytearray((a + b) & 255 for a, b in zip(line, above, strict=True))
    for i in range(len(line) if how else 0):
        left = line[i - size] if i >= size else 0
        corner = above[i - size] if i >= size else 0
        line[i] = (line[i] + _guess(how, left, above[i], corner)) & 255
    return line


def _guess(how: int, left: int, up: int, corner: int) -> int:
    if how == 1:
        return left
    if how == 3:
        return (left + up) // 2
    distances = (abs(up - corner), abs(left - corner), abs(left + up - 2 * corner))
    return (left, up, corner)[distances.index(min(distances))]
