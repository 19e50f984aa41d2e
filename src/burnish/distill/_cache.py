"""The teachers' logits on disk, so that a teacher answers each sample once.

Logits are kept sample by sample, under a hash of the tensors the sample consists of when it reaches
the models, augmentation included. Whatever the order and the batches, a sample that was seen before
is found, and one that was augmented otherwise is another sample: a wrong row cannot be found. So
data without augmentation are answered once for all epochs and runs, and augmented data once for
each draw that comes again (the same seed, the same epoch).

That last case is where a cache silently grows stale: an augmentation that is not seeded gives
samples nobody will see again. `fit` says which draw decided an epoch's order and augmentation; an
epoch that was cached whole is noted under its draw, and a sample missing from such a draw is
refused. So are logits of a teacher with other weights or in another precision. Weights do not tell
of the code around them, so the first batch that is found is answered again, and compared.

Files are safetensors, each with what it belongs to in its header, written whole or not at all under
names of their own: runs may share a folder, and an interrupted one leaves what it had finished.

Left out: a limit on the folder's size (it holds classes * samples * draws numbers), features, and
several processes, which would each see a part of an epoch.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import torch.distributed

from burnish.errors import BurnishError, Damaged, InvalidInput
from burnish.files import replacing
from burnish.goal import Call, Inputs, sample_hashes
from burnish.train import Moment

FORMAT = "burnish teacher outputs 1"
KEY_BYTES = 12  # of a sample's hash
HELD = 256 * 2**20  # bytes not yet written
TOLERANCE = {"float32": 1e-3, "other": 3e-2}  # of an answer given again, relative to its largest
KEYS = "keys"


class OutputCache:
    """A folder of logits, for one set of teachers.

    Args:
        folder: made where it is absent.
        teachers: a hash of each teacher.
        inputs: the task's example call, which says where samples lie.

    Raises:
        InvalidInput: the path is a file.
    """

    def __init__(self, folder: Path, teachers: Sequence[str], inputs: Inputs) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise InvalidInput(f"cache={str(folder)!r} is a file: name a folder")
        self.teachers = list(teachers)
        self.inputs = inputs
        self.identity: dict[str, Any] | None = None
        self.blocks: list[list[torch.Tensor]] = []  # of each batch, the rows of each teacher
        self.places: dict[bytes, tuple[int, int]] = {}
        self.whole: set[str] = set()
        self.unwritten: list[tuple[list[bytes], list[torch.Tensor]]] = []
        self.draw: str | None = None
        self.from_start = False
        self.compared = False

    def answers(
        self, call: Call, moment: Moment, ask: Callable[[], list[torch.Tensor]]
    ) -> list[torch.Tensor]:
        """Each teacher's logits for a batch: kept ones, or those `ask` gives, which are then kept.

        Raises:
            InvalidInput: the folder is stale, or holds something else; logits whose samples do not
                lie along axis 0; several processes.
            Damaged: a file does not read.
        """
        leaves = self.inputs.bind(call.args, call.kwargs)
        if all(leaf.batch_axis() is None for leaf in leaves):
            raise InvalidInput(
                "cache=… keeps outputs sample by sample, and the call has no batch axis"
            )
        keys = [bytes.fromhex(one) for one in sample_hashes(leaves)]
        device = leaves[0].tensor.device
        self._open(_precision(device))
        self._enter(moment)
        found = self._find(keys, device)
        if found is None:
            if str(moment.draw) in self.whole:
                raise InvalidInput(
                    f"the cached outputs in {self.folder} are stale: an epoch of draw "
                    f"{moment.draw} was cached whole, and batch {moment.batch} of it now holds "
                    "samples that were not there. The data changed, or their augmentation is not "
                    "decided by fit's seed: name another folder, or train without a cache"
                )
            logits = ask()
            self._keep(keys, logits)
            return logits
        if not self.compared:
            self._compare(found, ask())
        return found

    def close(self, finished: bool) -> None:
        """Write what is not yet written; `finished` where the last epoch came to its end."""
        if self.identity is not None:
            self._write(whole=finished and self.from_start)

    def _open(self, precision: str) -> None:
        """Read the folder, once it is known in which precision the teachers answer."""
        identity = {"format": FORMAT, "teachers": self.teachers, "precision": precision}
        if self.identity is not None:
            assert self.identity == identity, "the precision changed while training"
            return
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            raise InvalidInput(
                "cache=… keeps outputs epoch by epoch, and with several processes each sees a part "
                "of an epoch: fill the cache in one process, or train without it"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(self.folder.glob("[!.]*.safetensors")):
            self._read(path, identity)
        self.identity = identity

    def _read(self, path: Path, identity: Mapping[str, Any]) -> None:
        try:
            with safetensors.safe_open(str(path), framework="pt") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, safetensors.SafetensorError) as error:
            raise Damaged(f"{path} does not read ({error}): delete it") from None
        if header.get("format") != FORMAT:
            raise InvalidInput(f"{path} holds no outputs of teachers: name another folder")
        for what in ("teachers", "precision"):
            if json.loads(header[what]) != identity[what]:
                raise InvalidInput(
                    f"the cached outputs in {self.folder} are stale: they are of other {what} "
                    f"({header[what]}) than this training has ({json.dumps(identity[what])}); name "
                    "another folder, or delete that one"
                )
        for name, keys in tensors.items():
            number, kind = name.split(".")
            if kind != KEYS:
                continue
            rows = [tensors[f"{number}.{index}"] for index in range(len(self.teachers))]
            self._place([bytes(key) for key in keys.tolist()], rows)
        if header["whole"] == "yes":
            self.whole.add(header["draw"])

    def _enter(self, moment: Moment) -> None:
        """Note a new epoch: the one before was seen to its end."""
        draw = str(moment.draw)
        if draw == self.draw:
            return
        if self.draw is not None:
            self._write(whole=self.from_start)
        self.draw, self.from_start = draw, moment.batch == 0

    def _find(self, keys: Sequence[bytes], device: torch.device) -> list[torch.Tensor] | None:
        places = [self.places.get(key) for key in keys]
        known = [place for place in places if place is not None]
        if len(known) < len(keys):
            return None
        return [
            torch.stack([self.blocks[block][teacher][row] for block, row in known]).to(device)
            for teacher in range(len(self.teachers))
        ]

    def _keep(self, keys: Sequence[bytes], logits: Sequence[torch.Tensor]) -> None:
        for one in logits:
            if one.dim() == 0 or len(one) != len(keys):
                raise InvalidInput(
                    f"the teacher gives logits of shape {list(one.shape)} for a batch of "
                    f"{len(keys)} samples: a cache keeps them sample by sample, along axis 0; wrap "
                    "the model, or train without a cache"
                )
        new = {key: row for row, key in enumerate(keys) if key not in self.places}
        index = torch.tensor(list(new.values()), dtype=torch.int64)
        rows = [one.detach().cpu()[index].contiguous() for one in logits]
        self._place(list(new), rows)
        self.unwritten.append((list(new), rows))
        if sum(row.nbytes for _, block in self.unwritten for row in block) > HELD:
            self._write(whole=False)

    def _place(self, keys: Sequence[bytes], rows: list[torch.Tensor]) -> None:
        for row, key in enumerate(keys):
            self.places[key] = (len(self.blocks), row)
        self.blocks.append(rows)

    def _compare(self, found: Sequence[torch.Tensor], again: Sequence[torch.Tensor]) -> None:
        """InvalidInput where the teacher answers other than it did."""
        self.compared = True
        assert self.identity is not None
        precision = self.identity["precision"]
        tolerance = TOLERANCE.get(precision, TOLERANCE["other"])
        for kept, new in zip(found, again, strict=True):
            largest = float(new.abs().max())
            same = kept.shape == new.shape and torch.allclose(
                kept, new, rtol=0.0, atol=tolerance * largest, equal_nan=True
            )
            if not same:
                raise InvalidInput(
                    f"the cached outputs in {self.folder} are stale: the teacher answers the same "
                    "samples otherwise now, with the same weights, so that its code has changed; "
                    "name another folder, or delete that one"
                )

    def _write(self, whole: bool) -> None:
        """One file of what is unwritten, and of the news that a draw is whole."""
        draw = self.draw
        if draw is None or not (self.unwritten or (whole and draw not in self.whole)):
            return
        assert self.identity is not None
        tensors: dict[str, torch.Tensor] = {}
        for number, (keys, rows) in enumerate(self.unwritten):
            flat = torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8)
            tensors[f"{number}.{KEYS}"] = flat.reshape(len(keys), KEY_BYTES)
            tensors.update({f"{number}.{teacher}": row for teacher, row in enumerate(rows)})
        header = {
            "format": FORMAT,
            "teachers": json.dumps(self.identity["teachers"]),
            "precision": json.dumps(self.identity["precision"]),
            "draw": draw,
            "whole": "yes" if whole else "no",
        }
        try:
            with replacing(self.folder / f"{uuid.uuid4().hex}.safetensors") as path:
                safetensors.torch.save_file(tensors, str(path), metadata=header)
        except (OSError, safetensors.SafetensorError) as error:
            raise BurnishError(
                f"cannot write the teacher's outputs to {self.folder}: {error}; make room, or "
                "train without a cache"
            ) from error
        self.unwritten = []
        if whole:
            self.whole.add(draw)


def _precision(device: torch.device) -> str:
    """What the teachers compute in: autocast's type, or float32."""
    if not torch.is_autocast_enabled(device.type):
        return "float32"
    return str(torch.get_autocast_dtype(device.type)).removeprefix("torch.")
