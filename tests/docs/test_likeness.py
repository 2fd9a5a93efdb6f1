"""The helper that compares output can say no."""

import pytest

from tests.docs.likeness import alike

PRINTED = "one 1.5\ntwo 2 [1, 3]\nthree -47.3*\n"


@pytest.mark.parametrize(
    ("shown", "exact"),
    [
        (PRINTED, True),
        ("one 1.5\n...\nthree -47.3*", True),
        ("one 1.5\n...", True),
        ("one 9\ntwo 8 [7, 9]\nthree 0.1", False),
        ("two 8   [7, 9]", False),
        ("one 3e-5\n...\nthree 7", False),
    ],
)
def test_what_is_like_it(shown, exact):
    assert alike(shown, PRINTED, exact=exact)


@pytest.mark.parametrize(
    ("shown", "exact"),
    [
        ("", True),
        ("one 1.5", True),
        ("one 1.6\ntwo 2 [1, 3]\nthree -47.3*", True),
        ("...\ntwo 2 [1, 3]", True),
        ("three 1\none 1", False),
        ("one 1\nthree 1", False),
        ("four 1", False),
        ("one one", False),
    ],
)
def test_what_is_not(shown, exact):
    assert not alike(shown, PRINTED, exact=exact)
