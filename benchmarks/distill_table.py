"""What a teacher gives its student: four tables, paired with the student that had none.

    python benchmarks/distill_table.py [--parts seeds signals texts people] [--quick]

"seeds": ResNet-56 to ResNet-20 on CIFAR-10, six epochs, three seeds. "signals": the same with every
signal, two epochs, one seed. "texts": MiniLM-L6 to three layers on Banking77, with labels, with a
handful, with none. "people": LSTM(64) to LSTM(8) on a watch's windows, people held out. What a row
learned is kept when it is done: a run that was ended carries on, as long as no file that decides
the outcome has changed.

Left out: tuning. Signals have the weights and temperatures they have by default, training settings
are one for all rows of a part, and none was chosen by looking at a row.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
for _folder in (ROOT / "src", ROOT / "examples"):
    sys.path.insert(0, str(_folder))

from training.document import Script, run  # noqa: E402
from training.images import seeds, signals  # noqa: E402
from training.people import people  # noqa: E402
from training.texts import texts  # noqa: E402

SCRIPT = Script(
    "distill_table",
    "What a teacher gives its student, on images, texts and a watch's windows.",
    {"seeds": 45, "signals": 45, "texts": 20, "people": 8},
    rooms=("burnish/distill",),
)

if __name__ == "__main__":
    parts = {"seeds": seeds, "signals": signals, "texts": texts, "people": people}
    sys.exit(run(SCRIPT, parts))
