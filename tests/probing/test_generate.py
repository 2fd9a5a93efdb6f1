"""What a model writes: the same text as other loops give, exact entropies, the host left alone."""

import contextlib
import copy
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch import nn

from sigma_monitor.errors import InputError, ProbeError
from sigma_monitor.probing import ProbeSet, Writer
from tests.integrations.bitwise import differences
from tests.probing.models import VOCABULARY, WIDTH, Plain, hooks_of, padded, tiny, token_ids

LENGTH = 20
IDS = token_ids(12, LENGTH)
PROMPT = 6


def probes_of(**tensors):
    return ProbeSet.from_tensors(tensors or {"input_ids": IDS})


def greedy(**options):
    return Writer(**{"temperature": 0, "prompt_tokens": PROMPT, "new_tokens": 9, **options})


class Fixed(nn.Module):
    """Gives logits that are a function of the text so far, (examples, tokens) -> (examples, V)."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits
        self.seen = []

    def forward(self, input_ids):
        self.seen.append(input_ids.clone())
        logits = self.logits(input_ids)
        return SimpleNamespace(logits=logits[:, None].expand(-1, input_ids.shape[1], -1))


def constant(logits):
    """The same next-token distribution whatever was written."""
    row = torch.as_tensor(logits, dtype=torch.float32)
    return Fixed(lambda ids: row.expand(len(ids), -1))


class Watched(nn.Module):
    """Another model, and the length of what it is given in each call."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.lengths, self.cached = inner, [], []

    def get_base_model(self):  # as an adapter names what it wraps
        return self.inner

    def forward(self, *arguments, **options):
        self.lengths.append(options["input_ids"].shape[1])
        self.cached.append("past_key_values" in options)
        return self.inner(*arguments, **options)


class Bare(nn.Module):
    """The same model without any option: no cache, all logits."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, input_ids):
        return SimpleNamespace(logits=self.inner(input_ids, use_cache=False).logits)


@torch.no_grad()
def by_hand(model, prompts, new_tokens):
    """Greedy text and entropies from the whole text in every pass."""
    text, entropies = prompts, []
    for _ in range(new_tokens):
        chances = model(input_ids=text, use_cache=False).logits[:, -1].double().softmax(-1)
        entropies.append(-(chances * chances.log()).sum(-1))
        text = torch.cat([text, chances.argmax(-1, keepdim=True)], dim=1)
    return text[:, prompts.shape[1] :], torch.stack(entropies).mean(0)


# --- the text ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_greedy_text_is_that_of_generate(kind):
    model = tiny(kind)
    prompts = IDS[:, :PROMPT]
    expected = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        do_sample=False,
        max_new_tokens=9,
        min_new_tokens=9,
        pad_token_id=0,
    )[:, PROMPT:]
    assert len(expected.unique()) > 5  # or there would be little to compare
    written = greedy().write(model, probes_of())
    assert torch.equal(written.tokens, expected)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_greedy_text_and_its_entropies_are_those_of_a_loop_without_cache(kind):
    model = tiny(kind)
    tokens, entropies = by_hand(model, IDS[:, :PROMPT], 9)
    written = greedy().write(model, probes_of())
    assert torch.equal(written.tokens, tokens)
    # fp32 logits, with and without a cache.
    torch.testing.assert_close(written.entropies.double(), entropies, rtol=0, atol=1e-5)


def test_the_cache_is_used_also_behind_an_adapter():
    model = Watched(tiny("llama"))
    written = greedy().write(model, probes_of())
    assert model.lengths == [PROMPT] + 8 * [1]
    assert model.cached == [False] + 8 * [True]
    assert torch.equal(written.tokens, greedy().write(model.inner, probes_of()).tokens)


def test_a_model_without_cache_is_given_the_whole_text():
    seen = constant([1.0, 0.0, 2.0])
    greedy(new_tokens=3).write(seen, probes_of())
    assert [ids.shape[1] for ids in seen.seen] == [PROMPT, PROMPT + 1, PROMPT + 2]
    assert torch.equal(seen.seen[-1][:, :PROMPT], IDS[:, :PROMPT])
    assert bool((seen.seen[-1][:, PROMPT:] == 2).all())
    model = tiny("llama")
    bare, cached = (greedy().write(m, probes_of()) for m in (Bare(model), model))
    assert torch.equal(bare.tokens, cached.tokens)
    torch.testing.assert_close(bare.entropies, cached.entropies, rtol=0, atol=1e-5)


def test_a_model_that_takes_the_option_and_gives_no_cache_is_given_the_whole_text():
    class Without(Bare):
        def forward(self, input_ids, use_cache=True):
            assert use_cache
            return SimpleNamespace(logits=super().forward(input_ids).logits, past_key_values=None)

    model = tiny("llama")
    written = greedy().write(Without(model), probes_of())
    assert torch.equal(written.tokens, greedy().write(model, probes_of()).tokens)


def test_the_context_of_the_host_is_around_every_call_of_the_model():
    model, inside = tiny("llama"), []
    model.register_forward_hook(lambda *_: inside.append(torch.is_autocast_enabled("cpu")))
    writer = greedy()
    writer.context = lambda: torch.autocast("cpu", dtype=torch.bfloat16)
    writer.write(model, probes_of())
    assert inside == [True] * 9
    assert not torch.is_autocast_enabled("cpu")


def test_nothing_stops_early():
    """The end of a text is the tokenizer's affair: every rank makes as many forward passes."""
    model = tiny("llama", eos_token_id=3)
    model.generation_config.eos_token_id = 3
    with torch.no_grad():
        model.lm_head.weight.zero_()  # all tokens alike: the text is token 0 for ever
    assert greedy().write(model, probes_of()).tokens.tolist() == 12 * [9 * [0]]
    always = constant([0.0, 0.0, 0.0, 9.0])
    assert greedy().write(always, probes_of()).tokens.tolist() == 12 * [9 * [3]]


# --- sampling ------------------------------------------------------------------------------------


def sampled(seed=0, model=None, **options):
    writer = Writer(**{"seed": seed, "prompt_tokens": PROMPT, "new_tokens": 9, **options})
    return writer.write(tiny("llama") if model is None else model, probes_of()).tokens


def test_one_seed_writes_one_text_and_another_seed_another():
    first = sampled(seed=0)
    torch.rand(3)  # where the host's generator stands does not matter
    assert torch.equal(sampled(seed=0), first)
    assert not torch.equal(sampled(seed=1), first)
    assert not torch.equal(sampled(temperature=0), first)


def test_one_writer_writes_the_same_text_at_every_check():
    writer, model = Writer(new_tokens=9), tiny("llama")
    first, second = (writer.write(model, probes_of()).tokens for _ in range(2))
    assert torch.equal(first, second)


LOGITS = (2.0, 1.0, 0.0, -1.0, -2.0)
DRAWS = 500 * 8


def draws(temperature):
    """Counts of each token that a model of known logits wrote."""
    probes = probes_of(input_ids=torch.ones(500, 16, dtype=torch.long))
    writer = Writer(examples=500, prompt_tokens=8, new_tokens=8, temperature=temperature)
    tokens = writer.write(constant(LOGITS), probes).tokens
    assert tokens.shape == (500, 8)
    return np.bincount(tokens.flatten().numpy(), minlength=len(LOGITS))


def chi_square(counts, temperature):
    weights = np.exp(np.array(LOGITS) / temperature)
    expected = DRAWS * weights / weights.sum()
    assert expected.min() > 0.5
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_tokens_come_with_the_chance_that_the_temperature_gives_them(temperature):
    counts = draws(temperature)
    # One seed, so one outcome: a right sampler fails here once in a million seeds.
    limit = chi2.ppf(1 - 1e-6, df=len(LOGITS) - 1)
    assert chi_square(counts, temperature) < limit
    for other in {1.0, 0.5, 2.0} - {temperature}:
        assert chi_square(counts, other) > 10 * limit


def test_draws_are_independent_from_token_to_token_and_from_text_to_text():
    probes = probes_of(input_ids=torch.ones(500, 16, dtype=torch.long))
    writer = Writer(examples=500, prompt_tokens=8, new_tokens=8)
    tokens = writer.write(constant([0.0, 0.0]), probes).tokens.double() * 2 - 1
    for one, two in ((tokens[:, 1:], tokens[:, :-1]), (tokens[1:], tokens[:-1])):
        products = (one * two).flatten()
        assert abs(float(products.mean())) < 5 / math.sqrt(len(products))  # five standard errors


# --- entropies -----------------------------------------------------------------------------------


def entropies_of(model, **options):
    written = Writer(**{"prompt_tokens": PROMPT, "new_tokens": 4, **options}).write(
        model, probes_of()
    )
    return written.entropies.tolist()


@pytest.mark.parametrize("temperature", [0, 0.5, 1.0])
def test_entropy_is_that_of_the_model_at_temperature_one(temperature):
    p = [0.5, 0.25, 0.125, 0.125]
    found = entropies_of(constant(np.log(p)), temperature=temperature)
    assert found == pytest.approx(12 * [1.75 * math.log(2)], rel=1e-6)


def test_entropy_of_a_uniform_distribution_is_the_log_of_the_vocabulary():
    assert entropies_of(constant(torch.zeros(97))) == pytest.approx(12 * [math.log(97)], rel=1e-6)


@pytest.mark.parametrize("others", [-1e4, -math.inf])
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_entropy_of_a_certain_token_is_zero(others, temperature):
    model = constant([others, 0.0, others])
    assert entropies_of(model, temperature=temperature) == 12 * [0.0]
    assert sampled(model=model, temperature=temperature).tolist() == 12 * [9 * [1]]


def test_entropy_is_the_mean_over_the_tokens_of_each_text():
    def logits(ids):
        """Uniform over two tokens where the text is of even length, and of an odd first token."""
        open_ = (ids.shape[1] % 2 == 0) & (ids[:, :1] % 2 == 1)
        return torch.where(open_, torch.zeros(2), torch.tensor([0.0, -1e4]))

    found = entropies_of(Fixed(logits), new_tokens=5)  # lengths 6 to 10: three of them even
    odd = (IDS[:, 0] % 2 == 1).tolist()
    assert 0 < sum(odd) < 12
    assert found == pytest.approx([0.6 * math.log(2) * is_odd for is_odd in odd], rel=1e-6)


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_logits_of_nan_give_entropies_of_nan_and_no_error(temperature):
    def logits(ids):
        sick = ids[:, :1] % 2 == 1
        return torch.where(sick, torch.full((5,), math.nan), torch.zeros(5))

    written = greedy(temperature=temperature).write(Fixed(logits), probes_of())
    assert written.entropies.isnan().tolist() == (IDS[:, 0] % 2 == 1).tolist()
    assert written.tokens.shape == (12, 9)
    assert int(written.tokens.min()) >= 0
    assert int(written.tokens.max()) < 5


def test_logits_of_infinity_give_entropies_of_nan_and_no_error():
    found = entropies_of(constant([math.inf, 0.0]))
    assert all(map(math.isnan, found))


# --- prompts -------------------------------------------------------------------------------------


def prompts_of(probes, **options):
    """The first thing a model is given."""
    model = constant(torch.zeros(VOCABULARY))
    written = greedy(**options).write(model, probes)
    return model.seen[0], written.tokens


def test_the_side_of_the_padding_does_not_matter():
    lengths = [9, 4, 7, 20, 12, 4, 20, 11]
    right, left = (probes_of(**padded(lengths, left=side)) for side in (False, True))
    assert not torch.equal(right.tensors["input_ids"], left.tensors["input_ids"])
    expected = token_ids(len(lengths), 20)[[0, 2, 3, 4, 6, 7], :7]  # median 9, asked for 7
    for probes in (right, left):
        prompts, _ = prompts_of(probes, prompt_tokens=7)
        assert torch.equal(prompts, expected)
        prompts, _ = prompts_of(probes, prompt_tokens=7, examples=2)
        assert torch.equal(prompts, expected[:2])
    model = tiny("llama")
    one, two = (greedy().write(model, probes) for probes in (right, left))
    assert torch.equal(one.tokens, two.tokens)
    assert torch.equal(one.entropies, two.entropies)


@pytest.mark.parametrize(
    ("lengths", "asked", "length", "chosen"),
    [
        ([9, 9, 9, 9], 4, 4, [0, 1, 2, 3]),
        ([9, 9, 9, 9], 16, 4, [0, 1, 2, 3]),  # half of the probe length
        ([10, 10], 16, 5, [0, 1]),
        ([10, 2, 10, 10], 4, 4, [0, 2, 3]),
        ([10, 2, 2, 3], 4, 2, [0, 1, 2, 3]),  # half of the examples are as long
        ([10, 1, 3], 4, 3, [0, 2]),
        ([10, 1, 1, 1], 4, 1, [0, 1, 2, 3]),
        ([2, 2], 16, 1, [0, 1]),
    ],
)
def test_prompts_are_as_long_as_half_of_the_probe_length_and_of_the_examples_allow(
    lengths, asked, length, chosen
):
    prompts, _ = prompts_of(probes_of(**padded(lengths)), prompt_tokens=asked)
    assert torch.equal(prompts, token_ids(len(lengths), max(lengths))[chosen, :length])


@pytest.mark.parametrize("seed", range(20))
def test_at_least_half_of_the_examples_are_continued(seed):
    rng = random.Random(seed)
    lengths = [rng.randint(1, 20) for _ in range(rng.randint(1, 12))]
    prompts, _ = prompts_of(probes_of(**padded([*lengths, 20])), prompt_tokens=rng.randint(1, 20))
    long_enough = [n for n in [*lengths, 20] if n >= prompts.shape[1]]
    assert len(prompts) == len(long_enough) >= (len(lengths) + 1) / 2


@pytest.mark.parametrize(
    ("prompt_tokens", "new_tokens", "width", "written"),
    [(6, 9, 20, 9), (6, 48, 20, 14), (16, 48, 20, 10), (16, 48, 2, 1), (1, 19, 20, 19)],
)
def test_prompt_and_text_together_are_no_longer_than_the_probe_examples(
    prompt_tokens, new_tokens, width, written
):
    model = constant(torch.zeros(VOCABULARY))
    probes = probes_of(input_ids=token_ids(3, width))
    options = {"prompt_tokens": prompt_tokens, "new_tokens": new_tokens}
    tokens = greedy(**options).write(model, probes).tokens
    assert tokens.shape == (3, written)
    assert max(ids.shape[1] for ids in model.seen) + 1 <= width


def test_the_first_examples_are_continued_as_many_as_asked_for():
    prompts, tokens = prompts_of(probes_of(), examples=5)
    assert torch.equal(prompts, IDS[:5, :PROMPT])
    assert len(tokens) == 5
    assert len(prompts_of(probes_of(), examples=64)[0]) == 12


def test_a_mask_of_another_shape_is_not_taken_for_one_of_tokens():
    prompts, _ = prompts_of(probes_of(input_ids=IDS, attention_mask=torch.ones(12, 1, LENGTH)))
    assert torch.equal(prompts, IDS[:, :PROMPT])


# --- micro-batches and memory --------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 5, 12])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_size_of_the_micro_batches_does_not_change_greedy_text(kind, size):
    whole, split = greedy(), greedy()
    split.micro_batch = size
    one, two = (writer.write(tiny(kind), probes_of()) for writer in (whole, split))
    assert torch.equal(one.tokens, two.tokens)
    torch.testing.assert_close(one.entropies, two.entropies, rtol=0, atol=1e-5)


class Cramped(nn.Module):
    """Has room for so many texts at a time, or for fewer once they have grown."""

    def __init__(self, room, error, grown=None):
        super().__init__()
        self.inner = Bare(tiny("llama"))
        self.room, self.error, self.grown, self.sizes = room, error, grown or room, []

    def forward(self, input_ids):
        self.sizes.append(len(input_ids))
        if len(input_ids) > (self.grown if input_ids.shape[1] > PROMPT + 3 else self.room):
            raise self.error
        return self.inner(input_ids)


OUT_OF_MEMORY = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "runtime": RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cpu": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
}
out_of_memory = pytest.mark.parametrize("error", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)


@out_of_memory
def test_micro_batches_halve_until_they_fit_and_that_is_remembered(error):
    model, writer = Cramped(3, error), greedy(new_tokens=2)
    expected = greedy(new_tokens=2).write(tiny("llama"), probes_of())
    first = writer.write(model, probes_of())
    # From 64 to 32, 16, 8, 4 and 2 of the 12 texts, which take two passes each.
    assert model.sizes == [12, 12, 12, 8, 4, *(12 * [2])]
    model.sizes.clear()
    second = writer.write(model, probes_of())
    assert model.sizes == 12 * [2]
    for written in (first, second):
        assert torch.equal(written.tokens, expected.tokens)


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_text_that_outgrows_the_memory_half_way_is_begun_anew(temperature):
    model = Cramped(12, OUT_OF_MEMORY["cuda"], grown=3)
    writer, fresh = greedy(temperature=temperature), greedy(temperature=temperature)
    written = writer.write(model, probes_of())
    assert writer.micro_batch == fresh.micro_batch // 32 == 2
    fresh.micro_batch = 2
    assert torch.equal(written.tokens, fresh.write(Cramped(12, None), probes_of()).tokens)


@out_of_memory
def test_one_text_that_does_not_fit_is_an_error_with_a_remedy(error):
    model = Cramped(0, error).train()
    with pytest.raises(ProbeError, match="fewer new tokens") as raised:
        greedy().write(model, probes_of())
    assert raised.value.__cause__ is error
    assert model.training


def test_another_runtime_error_is_not_taken_for_a_lack_of_memory():
    model = Cramped(0, RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        greedy().write(model, probes_of())
    assert model.sizes == [12]


# --- what cannot be used -------------------------------------------------------------------------


def test_an_encoder_decoder_is_refused_before_it_is_called():
    with pytest.raises(InputError, match=r"encoder-decoder.*channels=\(\"representation\",\)"):
        greedy().write(tiny("t5"), probes_of())


@pytest.mark.parametrize("model", [tiny("bert"), Plain()], ids=["no_head", "no_logits"])
def test_a_model_without_logits_is_a_clear_error(model):
    with pytest.raises(ProbeError, match=rf"{type(model).__name__} gives no logits"):
        greedy().write(model, probes_of())


def test_logits_of_one_position_are_not_those_of_a_language_model():
    class Classifier(nn.Module):
        def forward(self, input_ids):
            return SimpleNamespace(logits=torch.zeros(len(input_ids), 2))

    with pytest.raises(ProbeError, match="gives no logits"):
        greedy().write(Classifier(), probes_of())


@pytest.mark.parametrize(
    "tensors",
    [
        {"pixels": torch.zeros(3, 4, 4)},
        {"input_ids": torch.ones(3, 1, dtype=torch.long)},
        {"input_ids": torch.ones(3, dtype=torch.long)},
        {"input_ids": torch.ones(3, 4, 4, dtype=torch.long)},
    ],
    ids=["no_ids", "one_token", "one_dimension", "three_dimensions"],
)
def test_probes_that_nothing_can_be_continued_of_are_a_clear_error(tensors):
    with pytest.raises(InputError, match=r"no input_ids of two tokens or more"):
        greedy().write(tiny("llama"), probes_of(**tensors))


@pytest.mark.parametrize("name", ["examples", "prompt_tokens", "new_tokens"])
@pytest.mark.parametrize("count", [0, -1, 2.5])
def test_counts_that_are_none_are_refused(name, count):
    with pytest.raises(InputError, match=rf"{name}={count}"):
        Writer(**{name: count})


@pytest.mark.parametrize("count", [math.nan, math.inf])
def test_counts_that_are_no_number_are_refused_likewise(count):
    with pytest.raises(InputError):
        Writer(examples=count)


@pytest.mark.parametrize("name", ["examples", "new_tokens", "prompt_tokens"])
def test_a_whole_float_is_refused_or_can_be_used(name):
    with contextlib.suppress(InputError):
        Writer(**{name: 4.0}).write(tiny("llama"), probes_of())


@pytest.mark.parametrize("temperature", [-0.1, math.inf, math.nan])
def test_temperatures_that_are_none_are_refused(temperature):
    with pytest.raises(InputError, match=rf"temperature={temperature}"):
        Writer(temperature=temperature)


# Log likelihoods over 1e-42 leave the range of fp32.
@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-42, 5e-324])
def test_a_temperature_near_zero_takes_the_likeliest_token(temperature):
    model = tiny("llama")
    expected = greedy().write(model, probes_of()).tokens
    assert torch.equal(greedy(temperature=temperature).write(model, probes_of()).tokens, expected)


# --- the host left alone -------------------------------------------------------------------------


class Restless(nn.Module):
    """Changes whatever a forward pass can change, and fails at the n-th one."""

    def __init__(self, fails_at=None):
        super().__init__()
        self.plain = Plain()
        self.register_buffer("calls", torch.zeros(()))
        self.longest = 0
        self.fails_at = fails_at
        self.draws = []

    def forward(self, input_ids):
        assert not self.training
        assert not torch.is_grad_enabled()
        self.calls += 1
        self.longest = max(self.longest, input_ids.shape[1])
        self.draws.append((random.random(), float(np.random.rand()), float(torch.rand(()))))
        if self.calls == self.fails_at:
            raise RuntimeError("enough")
        self.plain.norm.running_mean.mul_(2).add_(1)
        return SimpleNamespace(logits=self.plain(input_ids))


def process_state(model):
    return {
        "tensors": dict(model.named_parameters()) | dict(model.named_buffers()),
        "gradients": {name: p.grad for name, p in model.named_parameters()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "hooks": hooks_of(model),
        "longest": getattr(model, "longest", None),
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "grad_enabled": torch.is_grad_enabled(),
        "autocast_cache": torch.is_autocast_cache_enabled(),
    }


@pytest.mark.parametrize("temperature", [0, 1.0])
@pytest.mark.parametrize("fails_at", [None, 1, 3], ids=["returns", "fails", "fails_half_way"])
def test_the_model_and_the_process_are_as_found(temperature, fails_at):
    model = Restless(fails_at).train()
    model.plain.norm.eval()  # frozen by its user
    model.plain.block.register_forward_hook(lambda *_: None)
    model.plain(IDS).sum().backward()
    random.seed(4711)  # another state than the writer's seed leads to
    np.random.seed(4711)
    torch.manual_seed(4711)
    np.random.randn()  # leaves half a pair behind, part of the state too
    before = copy.deepcopy(process_state(model))
    buffers = {name: id(buffer) for name, buffer in model.named_buffers()}
    with contextlib.suppress(RuntimeError):
        greedy(temperature=temperature).write(model, probes_of())
    assert len(model.draws) == (fails_at or 9)  # or nothing was to be put back
    assert differences(before, process_state(model)) == []
    assert buffers == {name: id(buffer) for name, buffer in model.named_buffers()}


@pytest.mark.parametrize("fails", [False, True], ids=["returns", "raises"])
def test_a_dynamic_rotary_embedding_forgets_a_long_text(fails):
    """The probe examples are longer than the model was made for, and so is the text."""
    model = tiny(
        "llama",
        max_position_embeddings=8,
        rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0},
    )
    rotary = model.model.rotary_emb
    grown = []

    def look(*_):
        grown.append(rotary.inv_freq.clone())
        if fails and len(grown) == 7:
            raise RuntimeError("enough")

    handle = rotary.register_forward_hook(look)
    before = {name: (buffer, buffer.clone()) for name, buffer in rotary.named_buffers()}
    with contextlib.suppress(RuntimeError):
        greedy().write(model, probes_of())
    handle.remove()
    assert not torch.equal(grown[-1], before["inv_freq"][1])  # or there was nothing to restore
    for name, buffer in rotary.named_buffers():
        assert buffer is before[name][0]
        assert torch.equal(buffer, before[name][1])


def test_the_probe_set_is_not_written_into():
    class Overwriting(Bare):
        def forward(self, input_ids):
            output = super().forward(input_ids.clone())
            input_ids.zero_()
            return output

    probes = probes_of(input_ids=IDS.clone())
    Writer(examples=12, prompt_tokens=6).write(Overwriting(tiny("llama")), probes)
    assert torch.equal(probes.tensors["input_ids"], IDS)


def test_a_compiled_model_is_read_through_its_wrapper():
    """No new graph for lengths that training never has."""
    model = tiny("llama")
    compiled = torch.compile(model, backend="eager")
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    written = greedy().write(compiled, probes_of())
    assert torch.equal(written.tokens, greedy().write(model, probes_of()).tokens)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before


def test_half_precision_logits_are_read_in_single_precision():
    model = constant(torch.zeros(WIDTH))
    logits = torch.tensor([1.0, 1.0 + 2**-7, 0.0], dtype=torch.bfloat16)
    model.logits = lambda ids: logits.expand(len(ids), -1)
    written = greedy().write(model, probes_of())
    assert written.entropies.dtype is torch.float32
    assert set(written.tokens.flatten().tolist()) == {1}
    chances = logits.double().softmax(-1)
    expected = float(-(chances * chances.log()).sum())
    assert written.entropies.tolist() == pytest.approx(12 * [expected], rel=1e-6)
