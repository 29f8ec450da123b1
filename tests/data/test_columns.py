"""One rule says what the cells of a column mean."""

import math

import pytest

from unitrans.data.columns import cell_text, is_number, type_column
from unitrans.data.labels import (
    class_names,
    class_number,
    column_notes,
    describe,
    label_columns,
    target_columns,
)
from unitrans.objectives.base import Labels


@pytest.mark.parametrize("text", ["0", "10", "-1", "+1", "1.0", ".5", "5.", "1e-3", "0.0"])
def test_numbers(text):
    assert is_number(text)


@pytest.mark.parametrize(
    "text", ["010", "00", "", "-", ".", "e5", "1_000", "1e999", "nan", "inf", "1,5", "\u0661"]
)
def test_words_that_are_no_numbers(text):
    assert not is_number(text)


def test_zeros_in_front_make_a_column_words():
    column = type_column("code", ["010", "10", "7"])
    assert column.kind == "text" and class_names(["010", "10", "7"], column) == ["010", "10", "7"]
    assert (
        class_number("010", ["010", "10", "7"], column) == 0
        and class_number("10", ["010", "10", "7"], column) == 1
    )


def test_a_number_is_one_class_however_it_is_written():
    cells = ["0", "0.0", "1", "1.0", 1, 1.0, "+1"]
    column = type_column("y", cells)
    names = class_names(cells, column)
    assert names == ["0", "1"] and [class_number(cell, names, column) for cell in cells] == [
        0,
        0,
        1,
        1,
        1,
        1,
        1,
    ]
    words = type_column("y", ["1", "1.0", "one"])
    assert class_names(["1", "1.0", "one"], words) == ["1", "1.0", "one"]


def test_na_and_none_are_classes_among_words_and_empty_among_numbers():
    words = type_column("region", ["EU", "NA", "None", ""])
    assert class_names(["EU", "NA", "None", ""], words) == ["EU", "NA", "None"] and words.text(" ") is None
    numbers = type_column("y", ["1", "NA", "", "2"])
    assert numbers.kind == "number" and numbers.text("NA") is None and math.isnan(numbers.number("None"))
    named = type_column("region", ["EU", "NA", "x"], ["x"])
    assert named.text("x") is None and named.text("NA") == "NA"
    strict = type_column("y", ["1", "NA"], [])
    assert strict.kind == "text" and strict.text("NA") == "NA"
    assert (
        "1 cells such as 'NA' count as empty"
        in column_notes(["1", "NA"], {"y": type_column("y", ["1", "NA"])})[0]
    )


def test_white_space_makes_no_class():
    cells = ["long", "long ", "short"]
    columns = label_columns(cells, "label")
    assert class_names(cells, columns["label"]) == ["long", "short"]
    assert column_notes(cells, columns) == ["column label: 'long' and 'long ' are one class, long"]


def test_answers_of_signs():
    signs, plain = type_column("a", ["-1", "1", ""]), type_column("b", ["0", "1"])
    assert [signs.answer(cell) for cell in ("-1", "1", "1.0")] == [0, 1, 1] and math.isnan(signs.answer(""))
    assert plain.answer("True") == 1 and plain.answer("false") == 0
    with pytest.raises(ValueError, match="expected 1 or 0, got '-1'"):
        plain.answer("-1")


def test_cells_of_files_with_types():
    assert [cell_text(cell) for cell in (1.0, 2.5, 3, None, math.nan, True, "  a ", "")] == [
        "1", "2.5", "3", None, None, "True", "a", None,
    ]  # fmt: skip


def test_labels_of_runs_that_kept_no_columns():
    assert class_number("1.0", ("0", "1")) == 1 and class_number("0", ("0.0", "1.0")) == 0
    assert class_number("True", ("0", "1")) == 1 and class_number(True, ("0", "1")) == 1
    assert class_number(1, ("cat", "dog")) == 1 and class_number("1", ("cat", "dog")) is None


def test_targets_with_commas():
    assert target_columns("a,b", ["a", "b"]) == ["a", "b"] and target_columns("a, b", ["a, b"]) == "a, b"
    assert target_columns('"a, b",c', ["a, b", "c"]) == ["a, b", "c"] and target_columns("x", []) == "x"
    with pytest.raises(ValueError, match="different columns"):
        target_columns("a,a", ["a"])


def test_labels_in_a_line():
    assert (
        describe(Labels("class", ("cat", "dog"), (3, 1200)))
        == "2 classes of training samples: cat 3, dog 1,200"
    )
    assert describe(None) is None
    many = Labels("class", tuple(map(str, range(20))), (1,) * 20)
    assert describe(many).endswith("and 8 more")
