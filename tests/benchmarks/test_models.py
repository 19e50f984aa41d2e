"""The benchmarked models: what is loaded is what is said, and what is absent is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from burnish.errors import InvalidInput

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"


def _data(name: str) -> Path:
    if not (DATA / name).exists():
        pytest.skip(f"needs {name} in ../shared/data, which is absent")
    return DATA


@pytest.mark.parametrize("name", ["resnet20", "gru"])
def test_absent_data_is_told(load: Any, tmp_path: Path, name: str) -> None:
    models = load("models")
    with pytest.raises(InvalidInput, match="the data is absent"):
        models.load(name, models.Sources(data=tmp_path, cache=tmp_path))


def test_samples_are_drawn_and_cut_by_the_seed(load: Any) -> None:
    sources = load("models").Sources
    assert sorted(sources().order(50)) == list(range(50))
    assert sources(num_validation=7).order(50) == sources().order(50)[:7]
    assert sources(seed=1).order(50) != sources().order(50)


def test_batches_keep_samples_targets_and_groups_together(load: Any) -> None:
    model = load("models.model")
    x = torch.arange(10.0)[:, None]
    cut = model.batches((x,), torch.arange(10), 4, torch.arange(10) // 5)
    assert [len(batch.target) for batch in cut] == [4, 4, 2]
    for batch in cut:
        assert torch.equal(batch.args[0][:, 0], batch.target.float())
        assert torch.equal(batch.groups, batch.target // 5)


def test_resnet20_answers_as_its_weights_promise(load: Any) -> None:
    pytest.importorskip("PIL.Image", reason="needs pillow, of the extra 'examples'")
    models = load("models")
    model = models.load("resnet20", models.Sources(_data("cifar10-jpeg.zip"), num_validation=640))
    assert sum(len(batch.target) for batch in model.calibration) == 512
    assert sum(len(batch.target) for batch in model.validation) == 640
    with torch.inference_mode():
        hits = [
            (model.network(*batch.args).argmax(1) == batch.target).float()
            for batch in model.validation
        ]
    assert float(torch.cat(hits).mean()) == pytest.approx(0.878, abs=0.035)  # of all 10,000


def test_the_gru_holds_three_people_out(load: Any, monkeypatch: Any, tmp_path: Path) -> None:
    gru, models = load("models.gru"), load("models")
    monkeypatch.setattr(gru, "EPOCHS", 1)
    monkeypatch.setattr(gru, "STRIDE", 512)
    sources = models.Sources(data=_data(gru.FILE), cache=tmp_path)
    model = gru.load(sources)
    people = torch.cat([batch.groups for batch in model.validation])
    assert len(people.unique()) == 3
    again = gru.load(sources)  # from the cache
    call = model.validation[0].args
    with torch.inference_mode():
        assert torch.equal(model.network(*call), again.network(*call))
        assert torch.equal(gru.network(sources)(*call), again.network(*call))


VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##aff", "##able", "cafe", "!", "$", "中"]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("unaffable", ["un", "##aff", "##able"]),
        ("Café!", ["cafe", "!"]),
        ("un$中un", ["un", "$", "中", "un"]),
        ("unaffordable un", ["[UNK]", "un"]),
        ("\tun\u0000  cafe\n", ["un", "cafe"]),
        ("x" * 101, ["[UNK]"]),
        ("", []),
    ],
)
def test_texts_become_the_longest_known_pieces(
    load: Any, tmp_path: Path, text: str, pieces: list[str]
) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY), encoding="utf-8")
    words = load("models.wordpiece").WordPiece(tmp_path / "vocab.txt")
    assert words.pieces(text) == [VOCABULARY.index(piece) for piece in pieces]


def test_texts_are_cut_and_padded(load: Any, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY), encoding="utf-8")
    words = load("models.wordpiece").WordPiece(tmp_path / "vocab.txt")
    ids, mask = words.encode(["un un un", "cafe"], 4)
    assert ids.tolist() == [[2, 4, 4, 3], [2, 7, 3, 0]]
    assert mask.tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]


def test_padding_changes_no_answer_of_the_encoder(load: Any) -> None:
    torch.manual_seed(0)
    network = load("networks.minilm").Classifier(5).eval()
    ids = torch.randint(1, 1000, (2, 6))
    mask = torch.ones_like(ids)
    padded = torch.nn.functional.pad(ids, (0, 4))
    with torch.inference_mode():
        plain = network(ids, mask)
        torch.testing.assert_close(network(padded, (padded > 0).long()), plain)
        assert not torch.allclose(network(padded, torch.ones_like(padded)), plain)


def test_a_value_that_never_changes_gets_no_weight(load: Any) -> None:
    minilm = load("models.minilm")
    torch.manual_seed(0)
    embedded = torch.randn(154, minilm.HIDDEN)
    embedded[:, 7] = 1e-31 * torch.randn(154)
    labels = torch.arange(154) % minilm.CLASSES
    head = minilm._train_head(embedded, labels)
    assert head["weight"].abs().max() < 100
    fits = (embedded @ head["weight"].T + head["bias"]).argmax(1) == labels
    assert float(fits.float().mean()) > 0.9
