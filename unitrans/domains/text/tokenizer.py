"""Tokenizers: trained on the documents of a run, or read from a folder or the hub; all in Hugging Face's format."""

from __future__ import annotations

import json
import os
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from unitrans.data.sources import ask_hub
from unitrans.stored import read_json

PAD, UNK, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
WORDPIECE_SPECIALS = (PAD, UNK, CLS, SEP, MASK)
END_OF_TEXT = "<|endoftext|>"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


@dataclass
class Encoded:
    """Tokens of a text without special ones: ids int32 [n]; word_start bool [n]: where a word begins; word int32 [n]:
    which word of the text a token is of (-1 without words)."""

    ids: np.ndarray
    word_start: np.ndarray
    word: np.ndarray


class TextTokenizer:
    """A tokenizer of transformers and what this domain asks of it.

    tokenizer: a PreTrainedTokenizer of any kind. prefix, suffix: special tokens around every sample of an encoder that
    sees both sides; between: those between two texts. begin, end: around a document of a causal model (empty where the
    tokenizer has no such token).
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        empty, word = (self._plain(text, special=True) for text in ("", "a"))
        same = 0
        while same < len(empty) and same < len(word) and empty[same] == word[same]:
            same += 1
        self.prefix, self.suffix = empty[:same], empty[same:]
        begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
        self.begin = [begin] if begin is not None else []
        self.end = [end] if end is not None else []
        text = word[same : len(word) - len(self.suffix)]
        pair = list(tokenizer("a", "a", verbose=False)["input_ids"])
        self.between = pair[same + len(text) : len(pair) - len(self.suffix) - len(text)] or self.end

    def __len__(self) -> int:
        return len(self.tokenizer)

    @property
    def mask_token_id(self) -> int | None:
        """The token that stands for a hidden one."""
        found = self.tokenizer.mask_token_id
        return None if found is None else int(found)

    @property
    def special_ids(self) -> list[int]:
        """Tokens that are no part of a text."""
        return sorted({int(token) for token in self.tokenizer.all_special_ids})

    @property
    def tells_words(self) -> bool:
        """Whether word_start means anything."""
        return bool(self.tokenizer.is_fast)

    def _plain(self, text: str, special: bool) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])

    def encode(self, texts: Sequence[str] | Sequence[list[str]], *, words: bool = False) -> list[Encoded]:
        """Tokens of texts (or of lists of words) without special ones and without a limit."""
        if not len(texts):
            return []
        found = self.tokenizer(
            list(texts),
            add_special_tokens=False,
            is_split_into_words=words,
            padding=False,
            truncation=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        encoded = []
        for index, ids in enumerate(found["input_ids"]):
            tokens = np.asarray(ids, dtype=np.int32)
            if self.tokenizer.is_fast:
                of_word = found.word_ids(index)
                word = np.asarray([-1 if w is None else w for w in of_word], dtype=np.int32)
                start = np.append(True, word[1:] != word[:-1])[: len(tokens)]
            else:
                word, start = np.full(len(tokens), -1, np.int32), np.ones(len(tokens), bool)
            encoded.append(Encoded(tokens, start, word))
        return encoded

    def text(self, ids: Sequence[int]) -> str:
        """What tokens say."""
        return str(self.tokenizer.decode(list(ids)))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Every token as a person would write it, with a space in front where a word begins."""
        shown = []
        for place, token in enumerate(self.tokenizer.convert_ids_to_tokens([int(i) for i in ids])):
            if token in (None, ""):
                shown.append("")
            elif token.startswith("##"):
                shown.append(token[2:])
            elif token.startswith(("Ġ", "▁")) or self._is_byte_level():
                piece = self.tokenizer.convert_tokens_to_string([token])
                shown.append(piece if piece.strip() or not token.startswith("▁") else " ")
            else:
                shown.append((" " if place else "") + token)
        return shown

    def _is_byte_level(self) -> bool:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        return backend is not None and type(backend.decoder).__name__ == "ByteLevel"

    def save(self, folder: Path) -> None:
        """Writes what AutoTokenizer reads."""
        self.tokenizer.save_pretrained(str(folder))
        config = folder / "tokenizer_config.json"
        stored = read_json(config)
        if stored.get("tokenizer_class") == "TokenizersBackend":  # a name that transformers 4 does not know
            stored["tokenizer_class"] = "PreTrainedTokenizerFast"
            config.write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")


def train_tokenizer(
    texts: Iterable[str], kind: str, vocab_size: int, lowercase: bool, longest: int
) -> TextTokenizer:
    """A tokenizer made for these texts.

    Args:
        texts: read once.
        kind: "wordpiece", with the special tokens of BERT at 0 .. 4; or "bpe", byte-level as in GPT-2, with
            <|endoftext|> at 0.
        vocab_size: most tokens it may have, special ones included.
        lowercase: ignore case and accents (wordpiece only).
        longest: tokens of the longest sample, for whoever opens it later.
    """
    from transformers import PreTrainedTokenizerFast

    tokenizer, names = (
        _wordpiece(list(texts), vocab_size, lowercase) if kind == "wordpiece" else _bpe(texts, vocab_size)
    )
    inputs = ["input_ids", "attention_mask"]
    return TextTokenizer(
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            model_max_length=longest,
            model_input_names=["input_ids", "token_type_ids", "attention_mask"]
            if kind == "wordpiece"
            else inputs,
            **names,
        )
    )


def _wordpiece(texts: list[str], vocab_size: int, lowercase: bool) -> tuple[Any, dict[str, str]]:
    """The trainer numbers pieces inside words by chance, and breaks ties by these numbers: so they are given to it in
    order, as if they were special tokens, and the tokenizer is built anew from the vocabulary."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(normalizer.normalize_str(text))
    most = sorted((c for c in counts if not c.isspace()), key=lambda c: (-counts[c], c))[
        : min(1000, vocab_size // 4)
    ]
    inside = sorted(c for c in most if unicodedata.category(c)[0] != "P" and c not in string.punctuation)
    given = [*WORDPIECE_SPECIALS, *("##" + c for c in inside)]
    trained = Tokenizer(models.WordPiece(unk_token=UNK))
    trained.normalizer, trained.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        initial_alphabet=sorted(most),
        limit_alphabet=len(most),
        special_tokens=given,
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)
    vocabulary = trained.get_vocab(with_added_tokens=True)
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=UNK, max_input_chars_per_word=100))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    pair = [(name, vocabulary[name]) for name in (CLS, SEP)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}", pair=f"{CLS} $A {SEP} $B:1 {SEP}:1", special_tokens=pair
    )
    names = {"unk_token": UNK, "pad_token": PAD, "cls_token": CLS, "sep_token": SEP, "mask_token": MASK}
    return tokenizer, names


def _bpe(texts: Iterable[str], vocab_size: int) -> tuple[Any, dict[str, str]]:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[END_OF_TEXT],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer, dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)


def load_tokenizer(name: str, added: tuple[str, ...] = ()) -> TextTokenizer:
    """The tokenizer in a folder or of the hub, with words added. ValueError in one sentence for what cannot be had."""
    folder = Path(os.path.expanduser(name))
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"data.tokenizer: {name!r} is a file, expected a folder with {TOKENIZER_FILES[0]}")
    if not folder.is_dir():
        return _loaded(name, name, added, 0)
    files = [folder / file for file in TOKENIZER_FILES]
    changed = sum(file.stat().st_mtime_ns for file in files if file.is_file())
    return _loaded(str(folder.resolve()), name, added, changed)


@lru_cache(maxsize=4)
def _loaded(place: str, name: str, added: tuple[str, ...], changed: int) -> TextTokenizer:
    from transformers import AutoTokenizer

    # What is in a folder or the cache needs no hub, and transformers would ask one that is out of reach for a minute.
    # It would also ask on the terminal whether to run code of the folder: none is run.
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever transformers, tokenizers and transports raise
        if place != name or Path(place).is_dir():
            reason = f"the folder has no tokenizer that can be read ({_first_words(error)})"
            raise ValueError(f"data.tokenizer: {name!r}: {reason}") from None
        tokenizer = _of_hub(name)
    if added:
        tokenizer.add_tokens(list(added))
    return TextTokenizer(tokenizer)


def _of_hub(name: str) -> Any:
    """A tokenizer of the hub that is not in the cache. ValueError in one sentence, after some seconds at most."""
    from huggingface_hub import constants
    from transformers import AutoTokenizer

    found, reason, _ = ask_hub(name, None, "model", constants.ENDPOINT)
    if found is None:
        raise ValueError(f"data.tokenizer: there is no folder {name!r}, and {reason}")
    try:
        return AutoTokenizer.from_pretrained(found[0], revision=found[1], trust_remote_code=False)
    except Exception as error:  # as above
        raise ValueError(
            f"data.tokenizer: {name!r} on the hub has no tokenizer that can be read ({_first_words(error)})"
        ) from None


def _first_words(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer."""
    names = (*TOKENIZER_FILES, "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model")
    return any((folder / name).is_file() for name in names)
