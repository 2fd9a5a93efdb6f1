"""Several processes have the numbers of one, and bad input on one is bad input on all."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch.distributed as dist

from sigma_monitor import Lineage
from sigma_monitor.cli import main
from sigma_monitor.errors import InputError
from sigma_monitor.lineage.embed import CHUNK
from tests.lineage.documents import digits, documents, write_lines
from tests.processes import REPOSITORY, free_port, spawned

N = 2 * CHUNK + 40  # three chunks, and so a rank of four without any
VOCABULARIES = (400, 30)


def said(call):
    try:
        call()
    except InputError as error:
        return str(error)
    return None


def digits_on_rank_0(texts):
    """NaN on the others, but for the few texts that tell encoders apart."""
    rows = digits(texts)
    if dist.get_rank() and len(texts) > 4:
        rows[0] = float("nan")
    return rows


def lineage_of(sample, encoder=digits, shift=0):
    lineage = Lineage(encoder, sample=sample)
    for number, vocabulary in enumerate(VOCABULARIES):
        lineage.add(number, documents(N + shift, vocabulary=vocabulary, seed=number))
        rows = documents(N + shift, seed=10 + number)
        lineage.add_control(number, rows)
    return lineage


def embeddings_of(sample):
    lineage = Lineage(sample=sample)
    for number in range(len(VOCABULARIES)):
        lineage.add_embeddings(number, digits(documents(N, seed=number)))
    return lineage


def results(rank=0):
    return {
        "sample": lineage_of(CHUNK + 9).report().to_dict(),
        "all": lineage_of("all").report().to_dict(),
        "embeddings": embeddings_of("all").report().to_dict(),
    }


def work(rank, world, folder):
    found = results(rank)
    found["nan"] = said(lambda: lineage_of(N, digits_on_rank_0))
    found["other documents"] = said(lambda: lineage_of("all", shift=rank))
    found["one rank has none"] = said(lambda: Lineage(digits).add(0, documents(N * (rank == 0))))
    (folder / f"rank{rank}.json").write_text(json.dumps(found))


def numbers(value, path=""):
    """Every number of a report by its place, but the times that were taken."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(inner, f"{path}/{key}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from numbers(inner, f"{path}/{i}")
    elif isinstance(value, float):
        yield path, value


def nearly(report):
    """Its numbers up to those of a product that is summed in another order."""
    # fp64 rounding, which small eigenvalues and what is left of nearly equal directions feel most.
    return pytest.approx(dict(numbers(report)), rel=1e-9, abs=1e-9)


@pytest.fixture(scope="module")
def alone():
    return results()


def check(world, folder, alone):
    spawned(world, work, folder)
    reports = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(world)]
    for report in reports:
        # The rows of the index set are the same bits, in the same order, on any number of ranks.
        assert report["sample"] == json.loads(json.dumps(alone["sample"]))
        for name in ("all", "embeddings"):
            assert report[name] == reports[0][name]
            assert dict(numbers(report[name])) == nearly(alone[name])
        assert "generation 0: on rank" in report["nan"] or "gave NaN" in report["nan"]
        assert "the processes read different documents" in report["other documents"]
        assert "has no documents" in report["one rank has none"]


def test_two_processes_have_the_numbers_of_one(tmp_path, alone):
    check(2, tmp_path, alone)


@pytest.mark.long
def test_four_processes_have_the_numbers_of_one(tmp_path, alone):
    check(4, tmp_path, alone)


def launched(processes):
    """Commands that begin so many processes: accelerate hands over to torchrun."""
    if processes == 2:
        # Without a GPU its flag for several is the way to several processes, and they take gloo.
        launch = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
        settings = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        port = ["--main_process_port", str(free_port()), "--module"]
        return [sys.executable, "-m", *launch, *settings, *port, "sigma_monitor"]
    run = ["torch.distributed.run", "--nproc-per-node", str(processes), "--master-port"]
    return [sys.executable, "-m", *run, str(free_port()), "-m", "sigma_monitor"]


@pytest.mark.long
@pytest.mark.parametrize(("sample", "processes"), [("2000", 2), ("2000", 4), ("all", 2)])
def test_the_command_is_launched_on_several_processes(sample, processes, tmp_path, capsys):
    for number in range(2):  # healthy: launchers make one failure of every other exit code
        write_lines(tmp_path / f"{number}.jsonl", documents(N, seed=number))
    generations = sorted(map(str, tmp_path.glob("*.jsonl")))
    arguments = ["chain", *generations, "--sample", sample, "--json"]
    assert main(arguments) == 0
    alone = json.loads(capsys.readouterr().out)
    done = subprocess.run(
        [*launched(processes), *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    together = json.loads(done.stdout)
    if sample == "all":
        assert dict(numbers(together)) == nearly(alone)
        assert together["status"] == alone["status"]
    else:  # the rows of the index set are the same bits
        assert together == alone
