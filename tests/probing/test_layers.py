"""Where hidden states are read, and what is said when there are none."""

import pytest
import torch
from torch import nn

from sigma_monitor.errors import InputError, ProbeError
from sigma_monitor.probing import Probe, ProbeSet
from sigma_monitor.probing.layers import transformers_models, without_wrapper
from tests.probing.models import LAYERS, VOCABULARY, WIDTH, Plain, hooks_of, tiny, token_ids

IDS = token_ids()


def read(model, ids=IDS, **options):
    return Probe(**options).read(model, ProbeSet.from_tensors({"input_ids": ids}))


def rows(hidden):
    """All tokens but the first, as pooling has them."""
    return hidden[:, 1:].flatten(0, 1)


@torch.no_grad()
def hidden_states(kind, ids=IDS):
    """Of a model of its own: asking for them leaves hooks behind."""
    return tiny(kind)(ids, output_hidden_states=True, use_cache=False).hidden_states


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_last_is_what_the_head_reads(kind):
    assert torch.equal(read(tiny(kind)).layers["last"].embeddings, rows(hidden_states(kind)[-1]))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("index", [0, -LAYERS])
def test_an_index_is_the_output_of_that_block(kind, index):
    reading = read(tiny(kind), layers=index)
    assert list(reading.layers) == [str(index)]
    # Entry 0 of the hidden states is the token embedding.
    assert torch.equal(reading.layers[str(index)].embeddings, rows(hidden_states(kind)[1]))


def test_the_last_block_comes_before_the_final_norm():
    model = tiny("llama")
    reading = read(model, layers=[-1, LAYERS - 1, "last"])
    block = reading.layers["-1"].embeddings
    assert torch.equal(reading.layers[str(LAYERS - 1)].embeddings, block)
    with torch.no_grad():
        normed = model.model.norm(block)
    # Rows in another shape may be reduced in another order: a few roundings of values near 1.
    torch.testing.assert_close(normed, reading.layers["last"].embeddings, rtol=0, atol=1e-5)
    assert not torch.equal(block, reading.layers["last"].embeddings)


@pytest.mark.parametrize(
    ("kind", "name"), [("llama", "model.layers.0"), ("gpt2", "transformer.h.0")]
)
def test_a_dotted_name_is_that_module(kind, name):
    reading = read(tiny(kind), layers=name)
    assert list(reading.layers) == [name]
    assert torch.equal(reading.layers[name].embeddings, rows(hidden_states(kind)[1]))


@pytest.mark.parametrize("layers", [["last", 0, "model.norm"], ("last", 0, "model.norm")])
def test_several_layers_come_from_one_pass(layers):
    model = tiny("llama")
    calls = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    reading = read(model, layers=layers)
    assert calls == [1]
    assert set(reading.layers) == {"last", "0", "model.norm"}
    for layer in layers:
        alone = read(model, layers=layer).layers[str(layer)]
        assert torch.equal(reading.layers[str(layer)].embeddings, alone.embeddings)


@pytest.mark.parametrize("index", [LAYERS, -LAYERS - 1, 99])
def test_an_index_outside_is_refused_with_the_range(index):
    with pytest.raises(InputError, match=rf"layers={index}.* {-LAYERS} and {LAYERS - 1}"):
        read(tiny("llama"), layers=index)


@pytest.mark.parametrize("name", ["model.layers.9", "nothing", "Last"])
def test_an_unknown_name_is_refused_and_named(name):
    with pytest.raises(InputError, match=name):
        read(tiny("llama"), layers=name)


def test_no_layer_at_all_is_refused():
    with pytest.raises(InputError, match=r"layers=\[\]"):
        read(tiny("llama"), layers=[])


@pytest.mark.parametrize("layers", ["last", 0])
def test_a_model_of_another_kind_needs_a_name_or_an_embed_fn(layers):
    with pytest.raises(InputError) as refused:
        read(Plain(), layers=layers)
    assert all(part in str(refused.value) for part in ("embed_fn", "embed, block, norm, head"))
    assert read(Plain(), layers="block").layers["block"].embeddings.shape == (6 * 8, WIDTH)


def test_an_encoder_alone_is_read_at_its_output():
    with torch.no_grad():
        expected = tiny("bert")(IDS).last_hidden_state
    reading = read(tiny("bert"))
    assert torch.equal(reading.layers["last"].embeddings, rows(expected))
    assert reading.loss is None
    assert read(tiny("bert"), layers=0).layers["0"].embeddings.shape == (6 * 8, WIDTH)


def test_an_encoder_decoder_is_read_at_its_encoder():
    with torch.no_grad():
        expected = tiny("t5").encoder(IDS).last_hidden_state
    reading = read(tiny("t5"), layers=["last", 0])
    assert torch.equal(reading.layers["last"].embeddings, rows(expected))
    assert reading.layers["0"].embeddings.shape == (6 * 8, WIDTH)
    assert reading.loss is None


class Compiled(nn.Module):
    """As torch.compile wraps a module, but never to be called."""

    def __init__(self, original):
        super().__init__()
        self._orig_mod = original

    def forward(self, *_, **__):
        raise AssertionError("a probe must not make new graphs")


def test_a_compiled_model_is_read_uncompiled():
    reading = read(Compiled(tiny("llama")))
    assert torch.equal(reading.layers["last"].embeddings, rows(hidden_states("llama")[-1]))


@pytest.mark.parametrize("inner", [nn.DataParallel, Compiled])
@pytest.mark.parametrize("outer", [nn.DataParallel, Compiled])
def test_wrappers_come_off_in_any_order(inner, outer):
    model = tiny("llama")
    assert without_wrapper(outer(inner(model))) is model


class Wrapper(nn.Module):
    """As PEFT wraps a model."""

    def __init__(self, base):
        super().__init__()
        self.inner = base

    def get_base_model(self):
        return self.inner

    def forward(self, input_ids):
        return self.inner(input_ids)


def test_a_model_with_an_adapter_is_read_through_it():
    reading = read(Wrapper(tiny("llama")))
    assert torch.equal(reading.layers["last"].embeddings, rows(hidden_states("llama")[-1]))


@pytest.mark.parametrize("shape", [(WIDTH,), (9, WIDTH)], ids=["examples", "tokens"])
def test_an_embed_fn_replaces_the_layers(shape):
    model, seen = Plain().train(), []

    def embed(given, batch):
        seen.append((given is model, given.training, torch.is_grad_enabled(), set(batch)))
        hidden = given.embed(batch["input_ids"])
        return hidden if len(shape) == 2 else hidden.mean(1)

    reading = read(model, embed_fn=embed, layers="ignored")
    expected = model.embed(IDS).detach()
    assert seen == [(True, False, False, {"input_ids"})]
    assert torch.equal(
        reading.layers["last"].embeddings,
        rows(expected) if len(shape) == 2 else expected.mean(1),
    )
    assert not reading.layers["last"].embeddings.requires_grad
    assert reading.loss is None
    assert model.training


@pytest.mark.parametrize("given", [torch.zeros(6), torch.zeros(6, 2, 3, 4, 1), None, "rows"])
def test_what_is_no_hidden_state_is_refused_with_what_it_is(given):
    with pytest.raises(ProbeError, match="expected hidden states of shape") as refused:
        read(Plain(), embed_fn=lambda model, batch: given)
    found = str(tuple(given.shape)) if isinstance(given, torch.Tensor) else type(given).__name__
    assert found in str(refused.value)


def test_positions_of_an_image_are_tokens():
    model = Plain()
    model.embed = nn.Sequential(model.embed, nn.Unflatten(1, (3, 3)))  # (examples, 3, 3, WIDTH)
    model.forward = lambda input_ids: model.image(model.embed(input_ids).movedim(3, 1))
    model.image = nn.Identity()
    reading = read(model, layers="image")
    with torch.no_grad():
        expected = model.embed[0](IDS)
    assert torch.equal(reading.layers["image"].embeddings, rows(expected))


def test_a_speech_encoder_says_which_of_its_frames_are_padding():
    """It makes one frame of three samples, and its mask counts samples."""
    model = Plain()

    def forward(input_ids, attention_mask):
        return model.frames(model.embed(input_ids)[:, ::3])

    model.frames, model.forward = nn.Identity(), forward
    model._get_feature_vector_attention_mask = lambda frames, mask: mask[:, ::3][:, :frames]
    mask = torch.ones_like(IDS)
    mask[1, 3:] = 0
    probes = ProbeSet.from_tensors({"input_ids": IDS, "attention_mask": mask})
    reading = Probe(layers="frames").read(model, probes)
    # The first frame is left out where there are more.
    assert reading.layers["frames"].groups.tolist() == [0, 0, 1, 2, 2, 3, 3, 4, 4, 5, 5]


class SentenceTransformer(nn.Sequential):
    """As much of one as is called: features in, features and sentence embeddings out."""

    def forward(self, features):
        assert set(features) == {"input_ids", "attention_mask"}
        hidden = self[0](features["input_ids"], features["attention_mask"])
        features["sentence_embedding"] = hidden.last_hidden_state[:, 0]
        return features


@pytest.mark.parametrize("columns", [("",), ("anchor_", "positive_")], ids=["one", "several"])
def test_sentence_transformers_are_read_at_the_embeddings_of_the_first_text(columns):
    bert, mask = tiny("bert"), torch.ones_like(IDS)
    tensors = {}
    for number, column in enumerate(columns):
        tensors |= {f"{column}input_ids": IDS + number, f"{column}attention_mask": mask}
    reading = Probe(layers=["last", 0]).read(
        SentenceTransformer(bert), ProbeSet.from_tensors(tensors)
    )
    with torch.no_grad():
        expected = bert(IDS, mask, output_hidden_states=True)
    assert torch.equal(reading.layers["last"].embeddings, expected.last_hidden_state[:, 0])
    assert torch.equal(reading.layers["0"].embeddings, rows(expected.hidden_states[1]))
    assert reading.loss is None


def test_a_layer_that_the_forward_pass_leaves_out_is_refused():
    model = Plain()
    model.spare = nn.Linear(WIDTH, WIDTH)
    with pytest.raises(ProbeError, match="layer spare was not used"):
        read(model, layers="spare")


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert", "t5"])
@pytest.mark.parametrize("fails", [False, True], ids=["returns", "raises"])
def test_no_hook_is_left(kind, fails):
    model = tiny(kind)
    before = hooks_of(model)
    if fails:  # in mid-pass, with the hooks in place: the id is outside the vocabulary
        with pytest.raises(IndexError):
            read(model, torch.full((2, 5), VOCABULARY), layers=["last", 0])
    else:
        read(model, layers=["last", 0])
    assert hooks_of(model) == before


def test_a_hook_of_the_user_stays():
    model, seen = tiny("llama"), []
    model.model.register_forward_hook(lambda *_: seen.append(1))
    read(model)
    assert hooks_of(model) == 1
    assert seen == [1]


class Narrow(nn.Module):
    """Names what it takes, and keeps what it was given."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Embedding(VOCABULARY, WIDTH)

    def forward(self, input_ids, labels=None, use_cache=None, logits_to_keep=0):
        self.given = {"labels": labels, "use_cache": use_cache, "logits_to_keep": logits_to_keep}
        return self.layer(input_ids)


class Wide(Narrow):
    """Takes anything."""

    def forward(self, **inputs):
        self.given = {name: tensor.tolist() for name, tensor in inputs.items()}
        return self.layer(inputs["input_ids"])


@pytest.mark.parametrize(
    ("model", "given"),
    [
        (Narrow(), {"labels": None, "use_cache": False, "logits_to_keep": 1}),
        (Wide(), {"input_ids": IDS.tolist(), "extra": IDS.tolist()}),
    ],
    ids=["named", "any"],
)
def test_the_model_gets_what_it_accepts_without_labels_and_cache(model, given):
    tensors = {"input_ids": IDS, "labels": IDS, "extra": IDS}
    Probe(layers="layer").read(model, ProbeSet.from_tensors(tensors))
    assert model.given == given


class Holder(nn.Module):
    """Modules under names, as a user's own module holds them."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


def found(**parts):
    return list(transformers_models(Holder(**parts)))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert", "t5"])
def test_a_transformers_model_is_found_in_an_attribute_and_its_parts_are_not(kind):
    assert found(head=nn.Linear(2, 2), model=tiny(kind)) == ["model"]
    assert found(part=Holder(deep=tiny(kind))) == ["part.deep"]
    assert found(adapted=Wrapper(tiny(kind))) == ["adapted"]


def test_one_model_under_two_names_is_one_model():
    model = tiny("llama")
    assert found(model=model, again=model) == ["model"]
    assert found(body=model.model, model=model) == ["model"]
    assert found(model=model, body=model.model) == ["model"]


def test_two_models_are_two_and_none_is_none():
    assert found(student=tiny("llama"), teacher=tiny("llama")) == ["student", "teacher"]
    assert found(net=Plain()) == []
    assert transformers_models(tiny("llama")).keys() == {"model"}  # below it, not itself


def test_a_compiled_model_is_found_whole():
    model = torch.compile(tiny("llama"))  # nothing is compiled before the first call
    assert transformers_models(Holder(model=model)) == {"model": model}
