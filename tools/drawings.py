"""Draws the pictures of docs/architecture.md from real plans, so that they show what the code does.

    .venv/bin/python tools/drawings.py        writes docs/images/plan-*.svg; a test compares them with the plans

Fills are light with dark signs on them, and everything outside of a cell is mid-grey: readable on white and on black.
"""

from collections.abc import Callable
from pathlib import Path

import torch

from unitrans import Plan

IMAGES = Path(__file__).parents[1] / "docs/images"
FILLS = "#a8d5ff #ffd59e #b9e8b0 #f3b8d6 #d5c6f7 #fff0a3 #a9e8e0 #f7bfb0 #d3d9a0 #c9d3df".split()
EMPTY, GREY, INK, CELL = "#d0d0d0", "#808080", "#1b1b1b", 26


class Drawing:
    """Shapes, and how far they reach."""

    def __init__(self) -> None:
        self.shapes: list[str] = []
        self.width = self.height = 0.0

    def cell(self, x: float, y: float, fill: str, label: object = "", size: float = CELL) -> None:
        """A square with its upper left corner at (x, y) and a sign in it."""
        self.shapes.append(
            f'<rect x="{x:g}" y="{y:g}" width="{size:g}" height="{size:g}" fill="{fill}" stroke="#fff"/>'
        )
        if label != "":
            middle = f'x="{x + size / 2:g}" y="{y + size / 2 + 4:g}" text-anchor="middle"'
            self.shapes.append(f'<text {middle} font-size="11" fill="{INK}">{label}</text>')
        self.reach(x + size, y + size)

    def text(self, x: float, y: float, words: str) -> None:
        self.shapes.append(f'<text x="{x:g}" y="{y:g}" font-size="13" fill="{GREY}">{words}</text>')
        self.reach(x + 7 * len(words), y + 4)

    def line(self, x1: float, y1: float, x2: float, y2: float) -> None:
        self.shapes.append(
            f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{GREY}" stroke-width="2"/>'
        )

    def reach(self, x: float, y: float) -> None:
        self.width, self.height = max(self.width, x), max(self.height, y)

    def svg(self) -> str:
        """The file; the font is the reader's."""
        width, height = self.width + 8, self.height + 8
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}"'
        return "\n".join([f'{head} font-family="sans-serif">', *self.shapes, "</svg>", ""])


def groups_of(plan: Plan) -> list[list[int]]:
    """The rows of the stream that each group lists."""
    index = torch.arange(plan.num_tokens) if plan.token_index is None else plan.token_index
    return [index[a:b].tolist() for a, b in zip(plan.cu_seqlens[:-1], plan.cu_seqlens[1:], strict=True)]


def places_of(plan: Plan) -> dict[int, int]:
    """row of the stream -> place inside its group."""
    rows = [row for group in groups_of(plan) for row in group]
    if plan.position is not None:
        return dict(zip(rows, plan.position.tolist(), strict=True))
    return {row: place for group in groups_of(plan) for place, row in enumerate(group)}


def group_number(plan: Plan) -> dict[int, int]:
    return {row: number for number, group in enumerate(groups_of(plan)) for row in group}


def pairs_of(plan: Plan) -> dict[tuple[int, int], int]:
    """(query row, key row) that attend -> the entry of the bias plane they read, -1 for none."""
    found = {}
    for g, rows in enumerate(groups_of(plan)):
        left, right = (-1, -1) if plan.reach is None else plan.reach[g].tolist()
        place = places_of(plan)
        for i, query in enumerate(rows):
            for j, key in enumerate(rows):
                if (left >= 0 and j < i - left) or (right >= 0 and j > i + right):
                    continue
                entry = -1
                if (
                    plan.bias_offset is not None
                    and plan.bias_row_stride is not None
                    and plan.bias_offset[g] >= 0
                ):
                    entry = int(plan.bias_offset[g] + place[query] * plan.bias_row_stride[g] + place[key])
                found[query, key] = entry
    return found


def grid(
    drawing: Drawing, x: float, y: float, plan: Plan, width: int, rows_at: dict[tuple[int, int], int]
) -> None:
    """A map: every token in the colour of its group, with its place; hidden ones grey."""
    number, place = group_number(plan), places_of(plan)
    for r in range(max(r for r, _ in rows_at) + 1):
        for c in range(width):
            row = rows_at[r, c]
            fill = EMPTY if row < 0 else FILLS[number[row] % len(FILLS)]
            drawing.cell(x + c * CELL, y + r * CELL, fill, "" if row < 0 else place[row])


def matrix(
    drawing: Drawing, x: float, y: float, plan: Plan, label: Callable[[int], object], size: float = CELL
) -> None:
    """Who attends to whom, queries down and keys across; `label` gets the bias entry of a pair."""
    pairs, number = pairs_of(plan), group_number(plan)
    for query in range(plan.num_tokens):
        for key in range(plan.num_tokens):
            seen = (query, key) in pairs
            fill = FILLS[number[query] % len(FILLS)] if seen else EMPTY
            drawing.cell(
                x + key * size, y + query * size, fill, label(pairs[query, key]) if seen else "", size
            )


def stream(drawing: Drawing, x: float, y: float, plan: Plan, label: Callable[[int], object]) -> None:
    """The rows of the stream in their order."""
    number = group_number(plan)
    for row in range(plan.num_tokens):
        drawing.cell(
            x + row * CELL, y, FILLS[number[row] % len(FILLS)] if row in number else EMPTY, label(row)
        )


def windows() -> str:
    """Windows of 4x4 on a map of 8x8, as they are and shifted by 2."""
    drawing, everything = Drawing(), {(r, c): 8 * r + c for r in range(8) for c in range(8)}
    for left, shift in ((4, 0), (252, 2)):
        plan = Plan.windows((8, 8), 4, shift)
        drawing.text(left, 16, f"shift_size={shift}: {plan.num_groups} groups")
        grid(drawing, left, 26, plan, 8, everything)
    return drawing.svg()


def visible() -> str:
    """The same windows where two thirds of the map are hidden, and the entries that one group reads."""
    drawing = Drawing()
    seen = torch.zeros(1, 4, 4, dtype=torch.bool)
    for r, c in ((0, 0), (0, 3), (1, 1), (2, 0), (2, 1), (3, 3)):
        seen[0, r, c] = True
    plan = Plan.visible_windows(seen, 2)
    numbers = torch.where(seen[0].flatten(), seen[0].flatten().cumsum(0) - 1, -1).view(4, 4)
    drawing.text(4, 16, "the map: place in its window")
    grid(drawing, 4, 26, plan, 4, {(r, c): int(numbers[r, c]) for r in range(4) for c in range(4)})
    drawing.text(4, 160, "the stream: rows 0 to 5")
    stream(drawing, 4, 170, plan, lambda row: row)
    drawing.text(250, 16, "the plane [4, 4] that all windows share:")
    drawing.text(250, 33, "entries read by the first group")
    read = {entry for (query, _), entry in pairs_of(plan).items() if query in groups_of(plan)[0]}
    for entry in range(plan.bias_size):
        fill = FILLS[0] if entry in read else EMPTY
        drawing.cell(250 + entry % 4 * CELL, 43 + entry // 4 * CELL, fill, entry)
    return drawing.svg()


def text() -> str:
    """Sentences of 4, 2 and 3 tokens, both ways and causal."""
    drawing = Drawing()
    for left, reach in ((4, None), (270, (-1, 0))):
        plan = Plan.from_lengths([4, 2, 3], reach=reach)
        drawing.text(left, 16, "from_lengths([4, 2, 3]" + ("" if reach is None else ", reach=(-1, 0)") + ")")
        stream(drawing, left, 26, plan, lambda row: row)
        matrix(drawing, left, 66, plan, lambda entry: "")
    return drawing.svg()


def graphs() -> str:
    """A path of three nodes and a pair: a plane for each."""
    drawing = Drawing()
    plan = Plan.from_lengths([3, 2], bias="ragged")
    spots = [(24, 50), (64, 90), (104, 50), (164, 50), (164, 96)]
    for a, b in ((0, 1), (1, 2), (3, 4)):
        drawing.line(*(value + 13 for value in (*spots[a], *spots[b])))
    drawing.text(4, 16, "nodes: rows of the stream")
    for row, (x, y) in enumerate(spots):
        drawing.cell(x, y, FILLS[group_number(plan)[row]], row)
    drawing.text(250, 16, "pairs: entry of the bias [N, 13]")
    matrix(drawing, 250, 26, plan, lambda entry: entry)
    return drawing.svg()


def joint() -> str:
    """An image in shifted windows, two causal sentences and a graph in one call."""
    drawing = Drawing()
    parts = [
        Plan.windows((3, 3), 2, 1),
        Plan.from_lengths([4, 3], reach=(-1, 0)),
        Plan.from_lengths([4], bias="ragged"),
    ]
    plan = Plan.cat(parts, planes="concatenated")
    drawing.text(
        4,
        16,
        f"image, two sentences, a graph: one stream of {plan.num_tokens} rows, {plan.num_groups} groups",
    )
    matrix(drawing, 4, 26, plan, lambda entry: "", size=15)
    return drawing.svg()


DRAWINGS = {"windows": windows, "visible": visible, "text": text, "graphs": graphs, "joint": joint}


def main() -> None:
    for name, draw in DRAWINGS.items():
        (IMAGES / f"plan-{name}.svg").write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
