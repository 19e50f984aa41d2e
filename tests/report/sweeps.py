"""A sweep as it is written down, of a model that takes 8 ms on one core. Not a test by itself."""

from __future__ import annotations

from typing import Any

from tests.report import runs

Json = dict[str, Any]


def point(batch: int, threads: int, streams: int, **changes: Any) -> Json:
    """A combination of a model that takes 8 ms on one core."""
    p50 = (0.8 + 7.2 * batch) / threads**0.85
    throughput = 1e3 * batch * streams / p50
    record = {
        "batch": batch,
        "threads": threads,
        "streams": streams,
        "p50_ms": p50,
        "low": 0.98 * p50,
        "high": 1.02 * p50,
        "p99_ms": 1.3 * p50,
        "throughput": throughput,
        "runs": 240,
        "joules": None,
        "reliable": True,
        "note": None,
        "failed": None,
    }
    return record | changes


def sweep() -> Json:
    """Three splits of two cores, one point unsteady, one that does not fit memory."""
    points = [
        point(batch, threads, streams)
        for threads, streams in ((1, 1), (2, 1), (1, 2))
        for batch in (1, 2, 4, 8, 16, 32)
    ]
    points[4] |= {"reliable": False, "note": "unsteady: 90 to 141 ms"}
    points[17] = dict.fromkeys(points[17]) | {
        **{key: points[17][key] for key in ("batch", "threads", "streams")},
        "failed": "does not fit: its inputs take 4 GB",
    }
    return {
        "schema": 1,
        "title": "lite0: onnxruntime float32",
        "created": "2026-05-04T10:31:07+00:00",
        "points": points,
        "best": {
            "min_throughput": None,
            "max_p99_ms": 60.0,
            "point": 14,
            "nearest": None,
            "why": "highest throughput of 9 combinations with a p99 of at most 60 ms (17 ran)",
        },
        "energy": {"measured": False, "how": "not measurable here: no RAPL counter of a package"},
        "cost": {
            "price_per_hour": 0.4,
            "per_million": [
                None if one["failed"] else 0.4 / 3600 / one["throughput"] * 1e6 for one in points
            ],
        },
        "notes": ["left out, because this process may use 2 cores: threads=2 with streams=2"],
        "environment": runs.good()["environment"],
    }
