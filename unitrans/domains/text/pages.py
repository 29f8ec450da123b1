"""Sentences with what was asked and what the model says: predictions.html, and a few of them on the screen."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unitrans.domains.base import Sample
from unitrans.domains.text.source import IGNORED
from unitrans.domains.text.tokenizer import TextTokenizer
from unitrans.objectives.answers import answers, choose, in_units, says_yes
from unitrans.objectives.base import Labels

SHOWN = 3  # sentences on the screen
_WIDTH = 48  # tokens of each of them
_STYLE = """body { font: 16px/1.9 Georgia, serif; max-width: 52em; margin: 2em auto; padding: 0 1em; color: #222 }
h1 { font-size: 1.3em } p { border-bottom: 1px solid #ddd; padding-bottom: .8em; white-space: pre-wrap }
small { color: #777; font-family: sans-serif; display: block }
.right { background: #d3efd8; border-radius: 3px; padding: 0 .15em }
.wrong { background: #f8d6d2; border-radius: 3px; padding: 0 .15em }
.wrong s { color: #999 } .other { color: #999; font-size: .8em }"""


def write_predictions(
    directory: Path,
    tokenizer: TextTokenizer,
    samples: Sequence[Sample],
    predictions: Sequence[torch.Tensor],
    objective: Any,
) -> list[Path]:
    """Writes predictions.html for corrupted samples and prints the first ones; returns the file."""
    if objective.predicts in ("tokens", "next_tokens"):
        rows = [
            _token_row(tokenizer, s, p.long().numpy(), objective.predicts == "next_tokens")
            for s, p in zip(samples, predictions, strict=True)
        ]
        if objective.predicts == "tokens":
            title = "Hidden tokens: [what the model says] where it is right, [what it says|the true one] elsewhere"
        else:
            title = (
                "The likeliest next tokens: [the model's] where it is right, [the model's|the true one] else"
            )
        _print(title, tokenizer, samples, predictions, objective.predicts == "next_tokens")
    elif objective.predicts == "word_classes":
        title = "Words and the classes the model gives them"
        rows = [
            _tag_row(tokenizer, s, p.long().numpy(), objective.labels.names)
            for s, p in zip(samples, predictions, strict=True)
        ]
    else:
        title = "Documents and what the model says about them"
        rows = [
            _label_row(tokenizer, s, p, objective.labels) for s, p in zip(samples, predictions, strict=True)
        ]
    path = directory / "predictions.html"
    body = "\n".join(
        f"<p><small>{html.escape(str(sample['id']))}</small>{row}</p>"
        for sample, row in zip(samples, rows, strict=True)
    )
    path.write_text(
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n<h1>{html.escape(title)}</h1>\n{body}\n</html>\n",
        encoding="utf-8",
    )
    return [path]


def _asked(sample: Sample, prediction: np.ndarray, following: bool) -> Iterator[tuple[int, int, np.ndarray]]:
    """(place of a token, what it is, the candidates for it, likeliest first), one after the other. following:
    row i predicts the token behind it."""
    shift = int(following)
    for row in (sample["labels"] != IGNORED).nonzero()[0]:
        yield int(row) + shift, int(sample["labels"][row]), prediction[row]


def _token_row(tokenizer: TextTokenizer, sample: Sample, prediction: np.ndarray, following: bool) -> str:
    ids = sample["input_ids"].copy()
    asked = {place: (truth, guesses) for place, truth, guesses in _asked(sample, prediction, following)}
    for place, (truth, _) in asked.items():
        ids[place] = truth
    parts = []
    for place, piece in enumerate(tokenizer.pieces(ids.tolist())):
        if sample["special"][place] and place not in asked:
            continue
        text = html.escape(piece)
        if place not in asked:
            parts.append(text)
            continue
        truth, guesses = asked[place]
        words = [word.strip() or "?" for word in tokenizer.pieces(guesses.tolist())]
        space = " " if piece.startswith(" ") else ""
        candidates = f' title="{html.escape(", ".join(words))}"'
        said = html.escape(words[0])
        if guesses[0] == truth:
            parts.append(f'{space}<span class="right"{candidates}>{said}</span>')
        else:
            parts.append(f'{space}<span class="wrong"{candidates}><s>{said}</s> {text.strip()}</span>')
    return "".join(parts).strip()


def _print(
    title: str,
    tokenizer: TextTokenizer,
    samples: Sequence[Sample],
    predictions: Sequence[torch.Tensor],
    following: bool,
) -> None:
    """A few sentences as plain text."""
    print(f"\n{title}:")
    for sample, prediction in list(zip(samples, predictions, strict=True))[:SHOWN]:
        asked = {
            p: (truth, guesses) for p, truth, guesses in _asked(sample, prediction.long().numpy(), following)
        }
        ids = sample["input_ids"].copy()
        for place, (truth, _) in asked.items():
            ids[place] = truth
        parts = []
        for place, piece in enumerate(tokenizer.pieces(ids.tolist())[:_WIDTH]):
            if sample["special"][place] and place not in asked:
                continue
            if place in asked:
                truth, guesses = asked[place]
                said = tokenizer.pieces([int(guesses[0])])[0].strip()
                space = " " if piece.startswith(" ") else ""
                piece = f"{space}[{said}]" if guesses[0] == truth else f"{space}[{said}|{piece.strip()}]"
            parts.append(piece)
        print("  " + " ".join("".join(parts).split()) + (" ..." if len(ids) > _WIDTH else ""))


def _tag_row(tokenizer: TextTokenizer, sample: Sample, prediction: np.ndarray, names: Sequence[str]) -> str:
    parts = []
    for place, piece in enumerate(tokenizer.pieces(sample["input_ids"].tolist())):
        if sample["special"][place]:
            continue
        text, truth = html.escape(piece), int(sample["labels"][place])
        if truth == IGNORED:
            parts.append(text)
        elif prediction[place] == truth:
            parts.append(f'{text}<span class="other">/{html.escape(names[truth])}</span>')
        else:
            said = html.escape(names[int(prediction[place])])
            parts.append(f'{text}<span class="wrong other">/<s>{said}</s> {html.escape(names[truth])}</span>')
    return "".join(parts).strip()


def _label_row(tokenizer: TextTokenizer, sample: Sample, prediction: torch.Tensor, labels: Any) -> str:
    ids, special = sample["input_ids"], sample["special"]
    parts = np.split(np.arange(len(ids)), [sample["second"]] if "second" in sample else [])
    texts = [tokenizer.text(ids[part][~special[part]].tolist()) for part in parts]
    text = "<br>".join(html.escape(one) for one in texts)
    if labels.kind == "multi":
        return f"{text}<br>{_answers(prediction, np.ravel(sample['label']), labels)}"
    if labels.kind == "value":
        said, truth = (
            np.round(in_units(labels, np.ravel(x)), 4).tolist() for x in (prediction.numpy(), sample["label"])
        )
        return f'{text}<br><span class="right">{said}</span> <span class="other">true: {truth}</span>'
    best = choose(labels, answers(labels, prediction.view(-1)))
    said, truth = html.escape(best.name), html.escape(labels.names[int(sample["label"])])
    said = f"{said} ({best.probability:.0%})"
    if best.number == int(sample["label"]):
        return f'{text}<br><span class="right">{said}</span>'
    return f'{text}<br><span class="wrong">{said}</span> <span class="other">true: {truth}</span>'


def _answers(prediction: torch.Tensor, truth: np.ndarray, labels: Labels) -> str:
    """What is said to hold, and what does: yes (1), no (0), unknown (NaN)."""
    chances = answers(labels, prediction.view(-1))
    said = ", ".join(f"{name} ({chance:.0%})" for name, chance in says_yes(labels, chances)) or "none"
    true = ", ".join(name for name, yes in zip(labels.names, truth, strict=True) if yes == 1) or "none"
    right = ((chances > 0.5) == (truth == 1))[np.isfinite(truth)].all()
    kind = "right" if right else "wrong"
    return f'<span class="{kind}">{html.escape(said)}</span> <span class="other">true: {html.escape(true)}</span>'
