"""`sigma-monitor chain`: exit codes, output, and bad input that leaves nothing behind."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sigma_monitor.cli import main
from tests.lineage.documents import broken, documents, write_lines

N = 40
PROMPTS = [f"prompt {i // 2}" for i in range(N)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three healthy generations, one that warns and one that collapsed, and embeddings."""
    monkeypatch.chdir(tmp_path)
    chain = {"0": 400, "1": 400, "2": 400, "poor": 45, "dead": 2}
    for seed, (name, vocabulary) in enumerate(chain.items()):
        texts = documents(N, vocabulary=vocabulary, seed=seed, words=30)
        write_lines(tmp_path / f"{name}.jsonl", texts, PROMPTS)
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", rng.standard_normal((N, 5)))
    return tmp_path


def run(capsys, *arguments):
    code = main(["chain", *arguments])
    return code, capsys.readouterr()


CONTROL = ["--control", "1.jsonl", "2.jsonl"]


def test_a_healthy_chain_exits_with_0_and_says_so(folder, capsys):
    code, printed = run(capsys, "0.jsonl", "1.jsonl", *CONTROL)
    assert code == 0
    assert "encoder hashing-256" in printed.out
    assert "HEALTHY: nothing watched is far from the reference" in printed.out
    assert "unreliable" not in printed.out


def test_a_collapsed_generation_exits_with_1(folder, capsys):
    code, printed = run(capsys, "0.jsonl", "dead.jsonl", *CONTROL)
    assert code == 1
    assert "Generation 1 is COLLAPSED: effective rank 0." in printed.out


def test_a_warning_exits_with_3_where_that_was_asked_for(folder, capsys):
    code, printed = run(capsys, "0.jsonl", "poor.jsonl", *CONTROL)
    assert (code, "Generation 1 is WARNING" in printed.out) == (0, True)
    arguments = ["0.jsonl", "poor.jsonl", *CONTROL, "--fail-on", "warning"]
    assert run(capsys, *arguments)[0] == 3
    arguments[1] = "dead.jsonl"
    assert run(capsys, *arguments)[0] == 1


def test_json_has_everything(folder, capsys):
    arguments = ["0.jsonl", "poor.jsonl", *CONTROL, "--prompt-key", "prompt", "--json"]
    _, printed = run(capsys, *arguments)
    body = json.loads(printed.out)
    assert (body["kind"], body["status"], body["encoder"]) == ("lineage", "WARNING", "hashing-256")
    assert [one["source"] for one in body["controls"]] == ["1.jsonl", "2.jsonl"]
    assert body["generations"][1]["within_prompt"]["effective_rank"]["value"] > 1
    assert body["generations"][0]["tracks"] is None


def test_without_a_control_a_plain_warning(folder, capsys):
    code, printed = run(capsys, "0.jsonl", "1.jsonl")
    assert code == 0
    assert "No control: " in printed.out
    assert "unreliable" in printed.out


def test_embeddings_and_the_published_preset(folder, capsys):
    code, printed = run(capsys, "a.npy", "b.npy", "--preset", "paper", "--sample", "30", "--json")
    assert code == 0
    body = json.loads(printed.out)
    assert body["generations"][1]["tracks"]["n_observed"] == 30
    assert body["generations"][1]["track_drift"]["track_two"] != 0
    assert any("published with all-MiniLM-L6-v2" in note for note in body["notes"])


def test_a_second_run_goes_on_from_the_cache(folder, capsys):
    arguments = ["0.jsonl", "dead.jsonl", "--cache", "cache", "--json"]
    first = run(capsys, *arguments)[1].out
    kept = {path: path.stat().st_mtime_ns for path in (folder / "cache").iterdir()}
    assert len(kept) == 2
    assert run(capsys, *arguments)[1].out == first
    assert {path: path.stat().st_mtime_ns for path in (folder / "cache").iterdir()} == kept


def test_all_documents_can_be_streamed(folder, capsys):
    code, printed = run(capsys, "0.jsonl", "dead.jsonl", *CONTROL, "--sample", "all")
    assert code == 1
    assert "have no intervals" in printed.out


BAD = {
    "no such file": (["0.jsonl", "missing.jsonl"], "missing.jsonl: no such file"),
    "empty generation": (["0.jsonl", "empty.jsonl"], "(empty.jsonl) has no documents"),
    "one line": (["0.jsonl", "line.jsonl"], "(line.jsonl) has 1 document:"),
    "other number": (["0.jsonl", "longer.jsonl"], "(longer.jsonl) has 41 documents and gener"),
    "other number in the control": (
        ["0.jsonl", "--control", "longer.jsonl"],
        "control 0 (longer.jsonl) has 41 documents and generation 0 (0.jsonl) 40",
    ),
    "other prompts": (
        ["0.jsonl", "prompts.jsonl", "--prompt-key", "prompt"],
        "(prompts.jsonl) has other prompts than generation 0",
    ),
    "not UTF-8": (["0.jsonl", "latin.jsonl"], "latin.jsonl, line 2: this is not text in UTF-8"),
    "wrong key": (["0.jsonl", "--text-key", "body"], "no key 'body'; there is 'text', 'prompt'"),
    "wrong prompt key": (["0.jsonl", "--prompt-key", "q"], "no key 'q'; there is 'text', 'prompt'"),
    "embeddings with NaN": (["a.npy", "nan.npy"], "(nan.npy): embeddings has 1 of 40 rows"),
    "texts and embeddings": (["0.jsonl", "a.npy"], "one is texts and the other embeddings"),
    "too few rows": (["a.npy", "--preset", "paper", "--sample", "5"], "5 rows of 5 features"),
    "fewer controls": (["0.jsonl", "1.jsonl", "--control", "2.jsonl"], "--control has 1 gen"),
    "small sample": (["0.jsonl", "--sample", "1"], "sample=1"),
}


@pytest.mark.parametrize(("arguments", "said"), BAD.values(), ids=BAD)
def test_bad_input_exits_with_2_names_it_and_leaves_nothing(arguments, said, folder, capsys):
    texts = documents(N + 1)
    write_lines(folder / "empty.jsonl", [])
    write_lines(folder / "line.jsonl", texts[:1])
    write_lines(folder / "longer.jsonl", texts)
    write_lines(folder / "prompts.jsonl", texts[:N], PROMPTS[::-1])
    (folder / "latin.jsonl").write_bytes('{"text": "a"}\n{"text": "é"}\n'.encode("latin-1"))
    rows = np.load(folder / "a.npy")
    rows[7, 2] = np.nan
    np.save(folder / "nan.npy", rows)
    before = sorted(folder.rglob("*"))
    code, printed = run(capsys, *arguments)
    assert code == 2
    assert printed.err.startswith("sigma-monitor: ")
    assert said in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""
    assert sorted(folder.rglob("*")) == before


def test_an_encoder_that_gives_nan_is_bad_input(folder, capsys, monkeypatch):
    monkeypatch.setattr("sigma_monitor.lineage.embed.named_encoder", _broken_encoder)
    before = sorted(folder.rglob("*"))
    code, printed = run(capsys, "0.jsonl", "1.jsonl", "--cache", "cache")
    assert (code, printed.out) == (2, "")
    assert "encoder broken gave NaN or infinity" in printed.err
    assert sorted(folder.rglob("*")) == before


def _broken_encoder(spec):
    from sigma_monitor.probing import Encoder

    return Encoder("broken", broken)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: GEN"),
        (["0.jsonl", "--sample", "some"], "'some' is neither a whole number nor all"),
        (["0.jsonl", "--preset", "x"], "invalid choice: 'x'"),
    ],
)
def test_bad_usage_exits_with_2(arguments, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["chain", *arguments])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err
