"""Digests that tell apart what is ours."""

from __future__ import annotations

from entrypoint.kept import digest

TEXT = b'{"image": "fa4-cu128", "driver": "580.159.04"}' * 100


def test_one_place_that_differs_is_another_digest() -> None:
    """Wherever it is, and however long the content."""
    changed = [TEXT[:at] + b"?" + TEXT[at + 1 :] for at in range(len(TEXT))]

    assert len({digest.of(TEXT), *map(digest.of, changed)}) == len(TEXT) + 1


def test_parts_that_change_places_are_another_digest() -> None:
    a, b = b"CUDA_VISIBLE_DEVICES=0", b"HIP_VISIBLE_DEVICES=01"

    assert digest.of(a + b"\n" + b) != digest.of(b + b"\n" + a)


def test_it_is_as_long_as_names_of_files_may_be() -> None:
    assert [len(digest.of(content)) for content in (b"", b"{}", TEXT)] == [32, 32, 32]


def test_the_order_of_keys_does_not_matter() -> None:
    """And that of a list does."""
    assert digest.of_value({"a": 1, "b": [1, 2]}) == digest.of_value({"b": [1, 2], "a": 1})
    assert digest.of_value([1, 2]) != digest.of_value([2, 1])
