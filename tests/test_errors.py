"""What is said of errors that are not ours."""

import pytest

from sigma_monitor.errors import described, traced

URL = "https://user:S3CRETpass@example.org/hook/T0KENabcdef?key=T0KENabcdef"


def failing():
    try:
        raise OSError(f"Max retries exceeded with url: /hook/T0KENabcdef ({URL})")
    except OSError as error:
        raise ValueError(f"cannot log to '{URL}'") from error


def test_neither_message_nor_traceback_hold_an_address():
    with pytest.raises(ValueError, match="T0KEN") as caught:
        failing()
    assert described(caught.value) == "ValueError: cannot log to 'https://…'"
    text = traced(caught.value)
    assert "T0KEN" not in text
    assert "S3CRET" not in text
    for part in ("in failing", "OSError: Max retries", "ValueError: cannot log to 'https://…'"):
        assert part in text


def test_a_message_that_cannot_be_read_is_none():
    class Unspeakable(Exception):
        def __str__(self):
            raise RuntimeError

    assert described(Unspeakable()) == "Unspeakable: its message cannot be read"
    assert "Unspeakable" in traced(Unspeakable())
