"""The probe set: chosen once by seed, known by its content, taken without disturbing the host."""

import random

import datasets
import numpy as np
import pytest
import torch
import transformers
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from sigma_monitor import ProbeSet
from sigma_monitor.errors import InputError
from tests.probing.models import token_ids


class Words:
    """A tokenizer: one token per letter, unknown to transformers, padding or special tokens."""

    def __call__(self, texts, truncation, max_length):
        assert truncation
        return {"input_ids": [[ord(letter) for letter in text][:max_length] for text in texts]}


TEXTS = [chr(97 + i % 26) * (1 + i % 7) for i in range(60)]
ITEMS = [{"input_ids": row, "labels": row.clone()} for row in token_ids(60, 7)]


def collate(items):
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


class Stream(IterableDataset):
    def __init__(self, lengths=(5,) * 60):
        self.lengths, self.taken = lengths, 0

    def __iter__(self):
        for i, length in enumerate(self.lengths):
            self.taken += 1
            yield {"input_ids": torch.full((length,), i)}


def stream_loader(**options):
    return DataLoader(Stream(), **{"batch_size": 4, **options})


CONSTRUCTORS = {
    "texts": lambda **o: ProbeSet.from_texts(TEXTS, Words(), **o),
    "dataset": lambda **o: ProbeSet.from_dataset(ITEMS, **o),
    "collated": lambda **o: ProbeSet.from_dataset(ITEMS, collate_fn=collate, **o),
    "hub_dataset": lambda **o: ProbeSet.from_dataset(
        datasets.Dataset.from_list([{k: v.tolist() for k, v in item.items()} for item in ITEMS]),
        **o,
    ),
    "dataloader": lambda **o: ProbeSet.from_dataloader(
        DataLoader(ITEMS, batch_size=4, shuffle=True), **o
    ),
    "stream": lambda **o: ProbeSet.from_dataloader(stream_loader(), **o),
}
constructors = pytest.mark.parametrize("make", CONSTRUCTORS.values(), ids=CONSTRUCTORS)
by_seed = pytest.mark.parametrize(
    "make", [CONSTRUCTORS[name] for name in CONSTRUCTORS if name != "stream"]
)


def ids(probes):
    return probes.tensors["input_ids"].tolist()


@constructors
def test_the_same_seed_chooses_the_same_examples(make):
    first, second = make(n=8, seed=5), make(n=8, seed=5)
    assert ids(first) == ids(second)
    assert first.fingerprint == second.fingerprint
    assert len(first) == 8


@by_seed
def test_another_seed_chooses_others(make):
    assert ids(make(n=8, seed=0)) != ids(make(n=8, seed=1))


def test_the_choice_is_one_of_distinct_examples_from_everywhere():
    probes = ProbeSet.from_dataset([{"input_ids": [i]} for i in range(1000)], n=100)
    chosen = [row[0] for row in ids(probes)]
    assert len(set(chosen)) == 100
    # A tenth of them in each tenth, 2.8 above or below in the mean.
    assert all(1 <= sum(i // 100 == part for i in chosen) <= 20 for part in range(10))
    assert chosen != sorted(chosen)  # so the first n are a random subset too


@constructors
def test_fewer_examples_than_asked_for_are_all_taken(make):
    assert len(make(n=10_000)) == 60


@constructors
def test_the_default_is_128_at_most(make):
    assert len(make()) == 60
    assert len(ProbeSet.from_texts(TEXTS * 3, Words())) == 128


@constructors
def test_examples_are_cut_to_max_length(make):
    long, short = make(n=60), make(n=60, max_length=3)
    assert {tensor.shape[1] for tensor in short.tensors.values()} == {3}
    assert ids(short) == [row[:3] for row in ids(long)]


@constructors
def test_no_global_generator_is_touched(make):
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    make(n=8)
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


@constructors
@pytest.mark.parametrize("held_out", [True, False])
def test_it_is_remembered_whether_the_examples_are_held_out(make, held_out):
    assert make(n=3, held_out=held_out).held_out is held_out
    assert make(n=3, held_out=held_out).first(2).held_out is held_out


@constructors
@pytest.mark.parametrize("n", [0, -1])
def test_a_probe_set_of_no_example_is_refused(make, n):
    with pytest.raises(InputError, match=f"n={n}"):
        make(n=n)


def test_texts_of_unequal_length_are_padded_on_the_right_and_masked():
    probes = ProbeSet.from_texts(["ab", "abcd"], Words())
    order = {2: 0, 4: 1}
    for row, mask in zip(ids(probes), probes.tensors["attention_mask"].tolist(), strict=True):
        length = sum(mask)
        assert mask == [1] * length + [0] * (4 - length)
        assert row == [97, 98, 99, 100][:length] + [0] * (4 - length)
        order.pop(length)
    assert order == {}


@pytest.fixture
def tokenizer(data):
    return transformers.AutoTokenizer.from_pretrained(data / "stories260k")


STORIES = ["Once upon a time there was a dog.", "The end.", "Tom and Lily went to the park."]


def test_a_real_tokenizer_without_padding_token_serves(tokenizer):
    assert tokenizer.pad_token is None
    probes = ProbeSet.from_texts(STORIES, tokenizer, max_length=6)
    decoded = {
        tokenizer.decode(row[mask == 1], skip_special_tokens=True)
        for row, mask in zip(
            probes.tensors["input_ids"], probes.tensors["attention_mask"], strict=True
        )
    }
    expected = {
        tokenizer.decode(tokenizer(text)["input_ids"][:6], skip_special_tokens=True)
        for text in STORIES
    }
    assert decoded == expected
    assert tokenizer.pad_token is None


def test_the_tokenizer_is_not_changed(tokenizer):
    """What it would truncate to rides along when it is saved beside a checkpoint."""
    before = tokenizer.backend_tokenizer.to_str()
    ProbeSet.from_texts(STORIES, tokenizer, max_length=6)
    assert tokenizer.backend_tokenizer.to_str() == before


def test_one_string_is_no_list_of_texts():
    with pytest.raises(InputError, match="list of texts"):
        ProbeSet.from_texts("abc", Words())


def test_a_text_without_tokens_is_refused_with_their_number():
    with pytest.raises(InputError, match="2 of 3 probe texts"):
        ProbeSet.from_texts(["", "a", ""], Words())


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: ProbeSet.from_texts([], Words()), "texts"),
        (lambda: ProbeSet.from_dataset([]), "dataset"),
        (lambda: ProbeSet.from_dataset([], collate_fn=collate), "dataset"),
        (lambda: ProbeSet.from_dataloader(DataLoader([], batch_size=2)), "dataset"),
        (lambda: ProbeSet.from_dataloader(DataLoader(Stream(()), batch_size=2)), "no batch"),
        (lambda: ProbeSet.from_tensors({}), "no tensor"),
        (lambda: ProbeSet.from_tensors({"input_ids": torch.zeros(0, 5)}), "at least one"),
    ],
)
def test_nothing_to_choose_from_is_refused(make, what):
    with pytest.raises(InputError, match=what):
        make()


def test_a_dataset_that_has_no_length_is_refused_with_a_remedy():
    with pytest.raises(InputError, match="from_texts"):
        ProbeSet.from_dataset(Stream())


@pytest.mark.parametrize("item", [(torch.ones(3), 1), torch.ones(3), "text"])
def test_an_item_that_is_no_mapping_is_refused_with_a_remedy(item):
    with pytest.raises(InputError, match=r"collate_fn=, or ProbeSet\.from_tensors"):
        ProbeSet.from_dataset([item])


def test_a_batch_that_is_no_mapping_is_refused_with_a_remedy():
    loader = DataLoader(TensorDataset(token_ids(5)), batch_size=2)
    with pytest.raises(InputError, match="from_tensors"):
        ProbeSet.from_dataloader(loader)


def test_rows_of_unequal_length_are_padded_by_kind():
    items = [
        {"input_ids": [1, 2, 3], "labels": [1, 2, 3], "weight": 0.5},
        {"input_ids": [4], "labels": [4], "weight": 1.5},
    ]
    tensors = ProbeSet.from_dataset(items).tensors
    rows = {tuple(row.tolist()): i for i, row in enumerate(tensors["input_ids"])}
    assert set(rows) == {(1, 2, 3), (4, 0, 0)}
    short = rows[4, 0, 0]
    assert tensors["attention_mask"][short].tolist() == [1, 0, 0]
    assert tensors["labels"][short].tolist() == [4, -100, -100]
    assert tensors["weight"][short] == 1.5


def test_a_mask_that_the_examples_bring_is_kept():
    probes = ProbeSet.from_dataset([{"input_ids": [1, 2, 3], "attention_mask": [0, 1, 1]}])
    assert probes.tensors["attention_mask"].tolist() == [[0, 1, 1]]


def test_columns_that_are_no_numbers_are_left_out_as_in_a_collated_batch():
    items = [{"text": "ab", "input_ids": torch.tensor([1, 2])}] * 3
    collated = DataLoader(items, batch_size=3)
    assert set(ProbeSet.from_dataloader(collated).tensors) == {"input_ids"}
    assert set(ProbeSet.from_dataset(items).tensors) == {"input_ids", "attention_mask"}


def test_a_collate_fn_that_draws_is_repeatable_and_leaves_no_trace():
    def noisy(items):
        return {"input_ids": collate(items)["input_ids"] + torch.randint(0, 9, (1,))}

    before = torch.get_rng_state()
    first = ProbeSet.from_dataset(ITEMS, collate_fn=noisy, n=5)
    torch.rand(3)
    second = ProbeSet.from_dataset(ITEMS, collate_fn=noisy, n=5)
    torch.set_rng_state(before)
    assert first.fingerprint == second.fingerprint


class Watched:
    """A map-style dataset that counts what is taken from it."""

    def __init__(self):
        self.taken = 0

    def __len__(self):
        return len(ITEMS)

    def __getitem__(self, index):
        self.taken += 1
        return ITEMS[index]


def test_a_map_style_loader_is_not_iterated():
    class Loader(DataLoader):
        def __iter__(self):
            raise AssertionError("the host's loader is not ours to iterate")

    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    dataset = Watched()
    probes = ProbeSet.from_dataloader(
        Loader(dataset, batch_size=4, shuffle=True, generator=generator, collate_fn=collate), n=5
    )
    assert torch.equal(generator.get_state(), before)
    assert dataset.taken == len(probes) == 5
    assert probes.source == "dataloader"


def test_a_stream_gives_its_first_batches_and_no_more_than_needed():
    loader = stream_loader()
    probes = ProbeSet.from_dataloader(loader, n=6)
    assert [row[0] for row in ids(probes)] == list(range(6))
    assert loader.dataset.taken == 8


def test_batches_of_unequal_length_from_a_stream_are_padded_together():
    loader = DataLoader(Stream((3, 3, 5, 5)), batch_size=2)
    probes = ProbeSet.from_dataloader(loader)
    assert probes.tensors["attention_mask"].sum(1).tolist() == [3, 3, 5, 5]


def test_the_generator_of_a_streaming_loader_is_not_touched():
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    ProbeSet.from_dataloader(stream_loader(generator=generator), n=6)
    assert torch.equal(generator.get_state(), before)


def test_any_iterable_of_batches_is_a_loader():
    probes = ProbeSet.from_dataloader([{"input_ids": token_ids(4)}, {"input_ids": token_ids(4)}])
    assert len(probes) == 8


def test_ready_tensors_are_used_all_and_as_they_are():
    tensors = {"input_ids": token_ids(200, 300), "pixel_values": torch.rand(200, 2, 2)}
    probes = ProbeSet.from_tensors(tensors)
    assert len(probes) == 200
    assert all(torch.equal(probes.tensors[name], tensors[name]) for name in tensors)


def test_what_the_caller_does_to_the_tensors_afterwards_does_not_reach_the_probe_set():
    tensor = token_ids(4)
    probes = ProbeSet.from_tensors({"input_ids": tensor})
    tensor.zero_()
    assert torch.equal(probes.tensors["input_ids"], token_ids(4))


@pytest.mark.parametrize(
    ("tensors", "named"),
    [
        ({"input_ids": token_ids(4), "mask": torch.ones(3, 9)}, "'mask': 3"),
        ({"input_ids": torch.tensor(3)}, "'input_ids' is a Tensor"),
        ({"input_ids": [[1, 2]]}, "'input_ids' is a list"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_and_named(tensors, named):
    with pytest.raises(InputError, match=named):
        ProbeSet.from_tensors(tensors)


BASE = {"input_ids": token_ids(4, 6)}


def other_value(tensors):
    tensors["input_ids"][2, 3] += 1


def other_dtype(tensors):
    tensors["input_ids"] = tensors["input_ids"].view(torch.float64)  # of the same bits


def other_shape(tensors):
    tensors["input_ids"] = tensors["input_ids"].reshape(6, 4)


def other_order(tensors):
    tensors["input_ids"] = tensors["input_ids"].flip(0)


def other_name(tensors):
    tensors["inputs"] = tensors.pop("input_ids")


def one_more(tensors):
    tensors["attention_mask"] = torch.ones(4, 6)


def one_less(tensors):
    tensors["input_ids"] = tensors["input_ids"][:3]


CHANGES = [other_value, other_dtype, other_shape, other_order, other_name, one_more, one_less]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_the_fingerprint_changes_with_the_content(change):
    tensors = {name: tensor.clone() for name, tensor in BASE.items()}
    change(tensors)
    assert ProbeSet.from_tensors(tensors).fingerprint != ProbeSet.from_tensors(BASE).fingerprint


def test_the_fingerprint_changes_with_nothing_else():
    expected = ProbeSet.from_tensors({**BASE, "mask": torch.ones(4)}).fingerprint
    strided = token_ids(4, 6).t().contiguous().t()
    assert not strided.is_contiguous()
    assert ProbeSet.from_tensors({"mask": torch.ones(4), "input_ids": strided}).fingerprint == (
        expected
    )
    assert (
        ProbeSet({**BASE, "mask": torch.ones(4)}, held_out=False, source="elsewhere").fingerprint
        == expected
    )


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.bfloat16, torch.float16, torch.float64]
)
def test_every_dtype_has_a_fingerprint_by_its_bits(dtype):
    zeros, ones = (
        ProbeSet.from_tensors({"x": make(3, 2, dtype=dtype)}) for make in (torch.zeros, torch.ones)
    )
    assert zeros.fingerprint != ones.fingerprint


@pytest.mark.parametrize(("n", "kept"), [(1, 1), (2, 2), (4, 4), (99, 4)])
def test_first_is_the_beginning_and_has_its_own_fingerprint(n, kept):
    probes = ProbeSet.from_tensors(BASE)
    part = probes.first(n)
    assert torch.equal(part.tensors["input_ids"], BASE["input_ids"][:n])
    assert len(part) == kept
    assert (part.fingerprint == probes.fingerprint) is (kept == 4)
    assert part.source == probes.source


@pytest.mark.parametrize("size", [1, 3, 4, 100])
def test_batches_are_all_examples_in_order(size):
    tensors = {**BASE, "mask": torch.ones(4)}
    probes = ProbeSet.from_tensors(tensors)
    batches = [probes.batch(number, size) for number in range(-(-len(probes) // size))]
    assert [len(batch["mask"]) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    assert 1 <= len(batches[-1]["mask"]) <= size
    for name, tensor in tensors.items():
        assert torch.equal(torch.cat([batch[name] for batch in batches]), tensor)


def test_examples_of_nothing_but_padding_are_refused_with_their_number():
    mask = torch.ones(4, 6)
    mask[1:3] = 0
    with pytest.raises(InputError, match="2 of 4 probe examples are nothing but padding"):
        ProbeSet.from_tensors({**BASE, "attention_mask": mask})


def test_a_probe_set_made_before_cuda_begins_queues_no_seed(monkeypatch):
    queued = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", queued.append)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    ProbeSet.from_dataset([{"input_ids": [1, 2, 3]}] * 4)
    assert queued == []
