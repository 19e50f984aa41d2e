"""BERT's tokenizer: words split at spaces and punctuation, then into the longest known pieces.

Uncased: lower case, accents taken off (Devlin et al., 2018; WordPiece: Wu et al., 2016). Chinese
characters are words of their own. Equal to the `tokenizers` package on all texts of Banking77.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

PADDING, UNKNOWN, START, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
LONGEST = 100  # characters of a word that is still looked up


class WordPiece:
    """Texts to ids. `vocabulary` holds one piece a line, "##" before those inside a word."""

    def __init__(self, vocabulary: Path) -> None:
        pieces = vocabulary.read_text(encoding="utf-8").splitlines()
        self._ids: Mapping[str, int] = {piece: index for index, piece in enumerate(pieces)}

    def encode(self, texts: list[str], length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask, int64 [n, length]; longer texts are cut, shorter ones padded."""
        ids = torch.full((len(texts), length), self._ids[PADDING])
        mask = torch.zeros_like(ids)
        for row, text in enumerate(texts):
            found = [self._ids[START], *self.pieces(text)[: length - 2], self._ids[END]]
            ids[row, : len(found)] = torch.tensor(found)
            mask[row, : len(found)] = 1
        return ids, mask

    def pieces(self, text: str) -> list[int]:
        """The ids of a text's pieces, without start and end."""
        return [index for word in _words(text) for index in self._split(word)]

    def _split(self, word: str) -> list[int]:
        found: list[int] = []
        start = 0
        while start < len(word) <= LONGEST:
            prefix = "##" if start else ""
            for stop in range(len(word), start, -1):
                index = self._ids.get(prefix + word[start:stop])
                if index is not None:
                    found.append(index)
                    start = stop
                    break
            else:
                break
        return found if start == len(word) else [self._ids[UNKNOWN]]


def _words(text: str) -> Iterator[str]:
    word = ""
    for character in unicodedata.normalize("NFD", text.lower()):
        kind = unicodedata.category(character)
        if kind == "Mn" or (kind.startswith("C") and not character.isspace()):
            continue
        alone = _is_punctuation(character, kind) or _is_chinese(character)
        if alone or character.isspace():
            if word:
                yield word
            word = ""
            if alone:
                yield character
        else:
            word += character
    if word:
        yield word


def _is_punctuation(character: str, kind: str) -> bool:
    """All of ASCII that is neither letter, digit nor space counts, "$" and "^" included."""
    return kind.startswith("P") or ("!" <= character <= "~" and not character.isalnum())


def _is_chinese(character: str) -> bool:
    return "\u4e00" <= character <= "\u9fff" or "\u3400" <= character <= "\u4dbf"
