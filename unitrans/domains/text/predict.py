"""What a trained text model says about new texts: hidden words, continuations, classes, tags, values, vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unitrans.domains.text.source import around, joined, segments_of
from unitrans.domains.text.tokenizer import Encoded, TextTokenizer, has_tokenizer, load_tokenizer
from unitrans.models.images import mean_per_sample
from unitrans.models.text_heads import sample_tokens
from unitrans.objectives.answers import answers, choose, says_yes
from unitrans.objectives.base import Predicts

TOKENS = 4096  # of a batch, about
Text = str | list[str] | tuple[str, str]  # a text, its words, or two texts


class Tokens(NamedTuple):
    """A text as the model takes it: ids int64 [n]; the word that each token is of, -1 for special ones; segments int64
    [n], 1 in the second of two texts."""

    ids: np.ndarray
    word: np.ndarray
    segments: np.ndarray


def tokenizer_of(folder: str | Path) -> TextTokenizer:
    """The tokenizer of a run, found from the run or one of its checkpoints. ValueError if there is none."""
    folder = Path(folder).expanduser().resolve()
    for place in (folder, *folder.parents[:2]):
        if has_tokenizer(place):
            return load_tokenizer(str(place))
    raise ValueError(f"{folder}: there is no tokenizer in it or above it (tokenizer.json): name a run folder")


class TextPredictor:
    """A trained model and its tokenizer.

    model: a MaskedSignalModel with a text encoder; it is put into eval mode.
    """

    def __init__(self, model: Any, tokenizer: TextTokenizer) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.config = model.encoder.config
        self.objective = model.objective
        self.shortened = 0  # texts of which only the beginning was seen

    # ---- texts to batches -------------------------------------------------------------------------------------------

    def ids_of(self, text: Text) -> Tokens:
        """Tokens of a text (of words, of two texts) as the model was trained on them, its beginning if it is longer
        than the model takes."""
        t, limit = self.tokenizer, self.config.max_position_embeddings
        if isinstance(text, tuple):
            first, second = t.encode(list(text))
            (ids, _, word), begin, cut = joined(t, first, second, limit, self.config.causal)
            self.shortened += cut
            return Tokens(ids.astype(np.int64), word, segments_of(len(ids), begin))
        encoded = t.encode([text], words=isinstance(text, list))[0]  # type: ignore[arg-type]
        before, after = (t.begin, []) if self.config.causal else (t.prefix, t.suffix)
        room = limit - len(before) - len(after)
        self.shortened += len(encoded.ids) > room
        part = (encoded.ids[:room], encoded.word_start[:room], encoded.word[:room])
        ids, _, word = around(before, after, *part)
        return Tokens(ids.astype(np.int64), word, segments_of(len(ids), None))

    def _batches(self, texts: Sequence[Text]) -> Iterator[tuple[list[Tokens], dict[str, Any]]]:
        """Texts as tokens, and what the encoder takes: one stream with its plans."""
        waiting: list[Tokens] = []
        for number, text in enumerate(texts):
            found = self.ids_of(text)
            if not len(found.ids):
                raise ValueError(f"text {number + 1}: there is no token in {text!r}")
            waiting.append(found)
            if sum(len(one.ids) for one in waiting) >= TOKENS or number == len(texts) - 1:
                inputs: dict[str, Any] = {
                    "input_ids": torch.from_numpy(np.concatenate([one.ids for one in waiting])),
                    "plans": self.config.plans([len(one.ids) for one in waiting]),
                }
                if self.config.type_vocab_size > 1:
                    inputs["token_type_ids"] = torch.from_numpy(
                        np.concatenate([one.segments for one in waiting])
                    )
                yield waiting, inputs
                waiting = []

    # ---- answers ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def fill_mask(self, text: str, top_k: int = 5) -> list[dict[str, Any]]:
        """The likeliest tokens for every mask of a text.

        Args:
            text: with the mask token of the tokenizer in it; [MASK] and <mask> are understood everywhere.
            top_k: candidates for each.

        Returns:
            For every mask and candidate {"mask", "token", "probability", "text"}, likeliest first; text has the
            candidate in this place alone.

        Raises:
            ValueError: a text without a mask, or a model that was not trained to fill them.
        """
        self._only("tokens", "mlm", "fill masks")
        mask = str(self.tokenizer.tokenizer.mask_token)
        for word in ("[MASK]", "<mask>"):
            text = text.replace(word, mask)
        ids = self.ids_of(text).ids
        places = (ids == self.tokenizer.mask_token_id).nonzero()[0].tolist()
        if not places:
            raise ValueError(f"text: expected {mask} where a word is to be filled in, got {text!r}")
        stream = torch.from_numpy(ids)
        rows = self.model.encoder.features(stream, self.config.plans([len(ids)]))[places]
        table = self.model.encoder.embeddings.word_embeddings.weight
        chances = self.model.head.scores(rows, table).float().softmax(1)
        best = chances.topk(min(top_k, chances.shape[1]))
        special = set(self.tokenizer.special_ids)
        found = []
        for number, place in enumerate(places):
            for token, chance in zip(
                best.indices[number].tolist(), best.values[number].tolist(), strict=True
            ):
                filled = ids.copy()
                filled[place] = token
                kept = [
                    int(i)
                    for i in filled
                    if i not in special or i == self.tokenizer.mask_token_id or i == token
                ]
                word = self.tokenizer.pieces([token])[0].strip()
                found.append(
                    {
                        "mask": number + 1,
                        "token": word,
                        "probability": chance,
                        "text": self.tokenizer.text(kept),
                    }
                )
        return found

    @torch.no_grad()
    def continue_text(self, prompt: str, seed: int = 0, **sampling: Any) -> str:
        """A text with what the model writes behind it; sampling as in `unitrans.models.text_heads.sample_tokens`."""
        self._only("next_tokens", "clm", "write")
        encoded = self.tokenizer.encode([prompt])
        ids = [*self.tokenizer.begin, *(encoded[0].ids.tolist() if encoded else [])]
        if not ids:
            raise ValueError("prompt: expected some text, as this tokenizer has no token to begin with")
        end = self.tokenizer.end[0] if self.tokenizer.end else None
        generator = torch.Generator().manual_seed(seed)
        new = list(
            sample_tokens(
                self.model.encoder,
                torch.tensor(ids),
                end_token_id=end,
                generator=generator,
                **sampling,
            )
        )
        return self.tokenizer.text([*ids[len(self.tokenizer.begin) :], *new])

    @torch.no_grad()
    def classify(self, texts: Sequence[str | tuple[str, str]]) -> list[dict[str, Any]]:
        """For every text or pair of texts {"label", "probability", "probabilities": name -> share}; where several
        answers may be yes {"labels", "probabilities"}; of regression {target: value}."""
        labels = self.objective.labels
        if labels is None or labels.kind not in ("class", "multi", "value"):
            raise ValueError(
                f"expected a model trained to classify or to predict values, got objective {self._called}"
            )
        found: list[dict[str, Any]] = []
        for _, inputs in self._batches(texts):
            for row in answers(labels, self.model(**inputs).prediction):
                if labels.kind == "value":
                    found.append(dict(zip(labels.names, row.tolist(), strict=True)))
                    continue
                shares = dict(zip(labels.names, row.tolist(), strict=True))
                if labels.kind == "multi":
                    yes = [name for name, _ in says_yes(labels, row)]
                    found.append({"labels": yes, "probabilities": shares})
                    continue
                best = choose(labels, row)
                found.append({"label": best.name, "probability": best.probability, "probabilities": shares})
        return found

    @torch.no_grad()
    def tag(self, texts: Sequence[list[str]]) -> list[list[tuple[str, str | None]]]:
        """Every word of every text with its class; None for words behind what the model can see."""
        self._only("word_classes", "token_classification", "tag words")
        names, found = self.objective.labels.names, []
        taken = 0
        for parts, inputs in self._batches(texts):
            classes = self.model(**inputs).prediction.tolist()
            start = 0
            for tokens in parts:
                first: dict[int, str] = {}
                for place, number in enumerate(tokens.word.tolist()):
                    if number >= 0:
                        first.setdefault(number, names[classes[start + place]])
                words = texts[taken]
                found.append([(text, first.get(number)) for number, text in enumerate(words)])
                start, taken = start + len(tokens.ids), taken + 1
        return found

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> Tensor:
        """One vector per text, fp32 [n, C]: the mean of the rows of its tokens, special ones included."""
        parts = [
            mean_per_sample(
                self.model.encoder.features(**inputs),
                inputs["plans"].sample_index,
                inputs["plans"].token_counts,
            ).float()
            for _, inputs in self._batches(texts)
        ]
        return torch.cat(parts) if parts else torch.zeros(0, self.config.num_features)

    def _only(self, predicts: Predicts, objective: str, what: str) -> None:
        if self.objective.predicts != predicts:
            raise ValueError(
                f"expected a model of objective {objective} to {what}, got one of {self._called}"
            )

    @property
    def _called(self) -> str:
        """The objective of the model, as it is named on the command line."""
        return str(self.model.config.objective)


# ---- questions on the command line --------------------------------------------------------------------------------


def _fill_mask(model: Any, folder: Path, text: str, options: Mapping[str, Any]) -> Iterator[str]:
    top_k = options["top_k"] or 5
    for row in TextPredictor(model, tokenizer_of(folder)).fill_mask(text, top_k):
        yield f"{row['mask']}  {row['probability']:.4f}  {row['token']:<16}  {row['text']}"


def _prompt(model: Any, folder: Path, text: str, options: Mapping[str, Any]) -> Iterator[str]:
    for name, least in (("max_new_tokens", 1), ("temperature", 0)):
        if options[name] < least:
            raise ValueError(f"--{name.replace('_', '-')}: expected {least} or more, got {options[name]}")
    yield TextPredictor(model, tokenizer_of(folder)).continue_text(
        text,
        seed=options["seed"],
        max_new_tokens=options["max_new_tokens"],
        temperature=options["temperature"],
        top_k=options["top_k"],
    )


def _embed(model: Any, folder: Path, text: str, options: Mapping[str, Any]) -> Iterator[str]:
    vector = TextPredictor(model, tokenizer_of(folder)).embed([text])[0]
    yield " ".join(f"{value:.6g}" for value in vector.tolist())


#: Flags of ``unitrans predict`` that ask about one text -> lines of the answer.
QUESTIONS: dict[str, Callable[[Any, Path, str, Mapping[str, Any]], Iterator[str]]] = {
    "fill_mask": _fill_mask,
    "prompt": _prompt,
    "embed": _embed,
}


def row_reader(
    names: Sequence[str], reading: Mapping[str, Any], column: str | None
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """A function from a row of a table to a sample; see ``unitrans.domains.base.Domain``."""
    wanted = [column] if column is not None else [reading.get("text_column") or "text", "text"]
    chosen = next((name for name in wanted if name in names), None)
    if chosen is None:
        raise ValueError(
            f"expected a column {wanted[0]!r} with the texts, got {', '.join(names)}: name it with --column"
        )
    second = reading.get("second_column")
    if second is not None and second not in names:
        raise ValueError(
            f"expected a column {second!r} with the second texts, as in the training data, got {', '.join(names)}"
        )
    tokenizer, limit, causal = tokenizer_of(Path(reading["folder"])), reading["limit"], reading["causal"]

    def read(row: Mapping[str, Any]) -> dict[str, Any]:
        first = _tokens_of(row, chosen, tokenizer)
        if second is not None:
            (ids, _, _), begin, _ = joined(
                tokenizer, first, _tokens_of(row, second, tokenizer), limit, causal
            )
            made = {"input_ids": ids.astype(np.int64)}
            return made | (
                {"token_type_ids": segments_of(len(ids), begin)} if reading["segments"] > 1 else {}
            )
        before, after = (tokenizer.begin, tokenizer.end) if causal else (tokenizer.prefix, tokenizer.suffix)
        kept = first.ids[: limit - len(before) - len(after)]
        return {"input_ids": np.concatenate([before, kept, after]).astype(np.int64)}

    return read


def _tokens_of(row: Mapping[str, Any], column: str, tokenizer: TextTokenizer) -> Encoded:
    """The tokens of a cell. ValueError where there are none."""
    text = row.get(column)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"there is no text in the column {column}")
    encoded = tokenizer.encode([text.strip()])[0]
    if not len(encoded.ids):
        raise ValueError(f"there is no token in {text!r}")
    return encoded
