"""What a forward pass could change is as it was, also after an exception."""

import contextlib
import random

import numpy as np
import pytest
import torch
from torch import nn

from sigma_monitor.probing.guard import frozen_generators, untouched
from tests.probing.models import Plain, tiny

endings = pytest.mark.parametrize("fails", [False, True], ids=["returns", "raises"])


@contextlib.contextmanager
def guarded(model, fails):
    """`untouched`, left in an orderly way or by an exception."""
    with contextlib.suppress(ZeroDivisionError), untouched(model):
        yield
        if fails:
            raise ZeroDivisionError


def test_an_exception_passes_through():
    with pytest.raises(ZeroDivisionError), untouched(nn.Identity()):
        _ = 1 / 0


class Table(nn.Module):
    """Owns buffers of every kind and plain attributes of every kind."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.arange(4.0))
        self.register_buffer("hidden", torch.ones(2), persistent=False)
        self.register_buffer("empty", None)
        self.length, self.scale, self.kind, self.cached = 4, 1.5, "default", None


@endings
def test_modes_are_restored_per_module(fails):
    model = Plain().train()
    model.norm.eval()  # frozen by its user
    model.block[2].eval()
    before = [module.training for module in model.modules()]
    assert True in before
    assert False in before
    with guarded(model, fails):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == before


def in_place(module):
    module.table.mul_(2)


def in_place_past_autograd(module):
    module.table.data.mul_(2)


def through_a_view(module):
    module.table[1:3].zero_()


def rebinding(module):
    module.table = torch.full((9,), 7.0)


def registering_again(module):
    module.register_buffer("table", torch.full((9,), 7.0))


def in_place_and_rebinding(module):
    module.table.zero_()
    module.table = torch.zeros(9)


def filling_an_empty_one(module):
    module.empty = torch.ones(3)


def emptying(module):
    module.table = None


def adding(module):
    module.register_buffer("extra", torch.ones(3))


@pytest.mark.parametrize(
    "change",
    [
        in_place,
        in_place_past_autograd,
        through_a_view,
        rebinding,
        registering_again,
        in_place_and_rebinding,
        filling_an_empty_one,
        emptying,
        adding,
    ],
    ids=lambda change: change.__name__,
)
@endings
def test_buffers_are_restored_in_value_and_binding(change, fails):
    model = nn.Sequential(Table(), nn.Linear(2, 2))
    bound = dict(model[0]._buffers)
    values = {name: None if b is None else b.clone() for name, b in bound.items()}
    with guarded(model, fails):
        change(model[0])
    assert list(model[0]._buffers) == list(bound)
    for name, buffer in model[0]._buffers.items():
        assert buffer is bound[name]
        assert buffer is None or torch.equal(buffer, values[name])


LAYOUTS = [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc]


@pytest.mark.filterwarnings("ignore:Sparse CS:UserWarning")  # that it is in beta state
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@endings
def test_sparse_buffers_are_restored_like_others(layout, fails):
    model = Table()
    model.register_buffer("graph", torch.eye(3).to_sparse(layout=layout))
    graph = model.graph
    with guarded(model, fails):
        model.graph.mul_(2)
        assert torch.equal(graph.to_dense(), 2 * torch.eye(3))  # or there was nothing to restore
        model.graph = None
    assert model.graph is graph
    assert torch.equal(graph.to_dense(), torch.eye(3))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested:UserWarning")
@pytest.mark.parametrize(
    "buffer",
    [
        lambda: torch.ones(3, device="meta"),
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
    ],
    ids=["meta", "nested", "jagged"],
)
def test_buffers_without_comparable_values_are_left_alone(buffer):
    model = Table()
    model.register_buffer("odd", buffer())
    odd = model.odd
    with untouched(model):
        model.table.zero_()
        model.odd = None
    assert model.odd is odd
    assert torch.equal(model.table, torch.arange(4.0))


class Uncomparable(torch.Tensor):
    """As a library's own tensors may be, in any operation."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.equal:
            raise RuntimeError("not to be compared")
        return super().__torch_function__(function, types, args, kwargs or {})


class Sharded(nn.Linear):
    """As FSDP2 leaves a module, and deaf to the call where it is told to be."""

    def __init__(self, error=None):
        super().__init__(2, 2)
        self.weight.to_local = lambda: None
        self.error, self.reshards = error, 0

    def reshard(self):
        self.reshards += 1
        if self.error is not None:
            raise self.error


def spoil(tables):
    for table in tables:
        table.table.zero_()
        table.length = 99
    tables[0].after.zero_()


@endings
def test_whatever_cannot_be_restored_the_rest_is(fails):
    tables, shards = [Table(), Table()], [Sharded(), Sharded(OSError("lost")), Sharded()]
    tables[0].register_buffer("odd", torch.ones(2).as_subclass(Uncomparable))
    tables[0].register_buffer("after", torch.ones(2))
    model = nn.Sequential(*shards, *tables).train()
    with pytest.raises((OSError, RuntimeError)), guarded(model, fails):
        spoil(tables)
    assert all(torch.equal(table.table, torch.arange(4.0)) for table in tables)
    assert [table.length for table in tables] == [4, 4]
    assert torch.equal(tables[0].after, torch.ones(2))
    assert [shard.reshards for shard in shards] == [1, 1, 1]
    assert all(module.training for module in model.modules())


def test_a_buffer_that_was_not_written_is_not_written_back():
    """A write would break a backward pass that had saved the buffer."""
    model = Table()
    version = model.table._version
    with untouched(model):
        model.table.sum()
    assert model.table._version == version


@endings
def test_plain_attributes_of_buffer_owners_are_restored(fails):
    model = nn.Sequential(Table())
    owner = model[0]
    with guarded(model, fails):
        owner.length, owner.scale, owner.kind, owner.cached = 99, 0.1, "dynamic", 7
    assert (owner.length, owner.scale, owner.kind, owner.cached) == (4, 1.5, "default", None)


@endings
def test_a_dynamic_rotary_embedding_forgets_a_long_probe(fails):
    model = tiny(
        "llama",
        max_position_embeddings=8,
        rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0},
    )
    short, long = torch.arange(1, 7)[None], torch.arange(1, 33)[None]
    with torch.no_grad():
        expected = model(short).logits
        before = dict(model.model.rotary_emb.named_buffers())
        with guarded(model, fails):
            model(long)
            grown = model.model.rotary_emb.inv_freq.clone()
        after = dict(model.model.rotary_emb.named_buffers())
        assert not torch.equal(grown, before["inv_freq"])  # or there was nothing to restore
        assert all(after[name] is before[name] for name in before)
        assert torch.equal(model(short).logits, expected)


def draws():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def generator_states():
    numpy_state = np.random.get_state()
    return (
        random.getstate(),
        (numpy_state[0], numpy_state[1].tolist(), *numpy_state[2:]),
        torch.get_rng_state().tolist(),
    )


@endings
def test_generators_of_python_numpy_and_torch_are_restored(fails):
    random.seed(4711)  # another state than the guard's own seed leads to
    np.random.seed(4711)
    torch.manual_seed(4711)
    np.random.randn()  # leaves half a pair behind, part of the state too
    before = generator_states()
    with guarded(nn.Identity(), fails):
        draws()
        assert all(a != b for a, b in zip(generator_states(), before, strict=True))
    assert generator_states() == before


def test_generators_are_seeded_inside_by_the_given_seed():
    def inside(seed):
        draws()  # wherever they stood before
        with frozen_generators(seed):
            return draws()

    assert inside(0) == inside(0)
    assert all(a != b for a, b in zip(inside(0), inside(1), strict=True))
    assert all(0 <= x < 1 for x in inside(2**40))  # numpy takes 32 bits only


@pytest.mark.parametrize("outer", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@endings
def test_grad_mode_is_off_inside_and_as_found_outside(outer, fails):
    with outer():
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        with guarded(nn.Identity(), fails):
            assert not torch.is_grad_enabled()
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before


@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("cache", [True, False])
@endings
def test_autocast_and_its_cache_flag_are_as_found(autocast, cache, fails):
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast, cache_enabled=cache):
        with guarded(nn.Identity(), fails):
            # Cached inside, weights cast without gradients would serve the training forward.
            assert not torch.is_autocast_cache_enabled()
            assert torch.is_autocast_enabled("cpu") is autocast
        assert torch.is_autocast_enabled("cpu") is autocast
        assert torch.is_autocast_cache_enabled() is cache
        assert torch.get_autocast_dtype("cpu") is torch.bfloat16
    assert torch.is_autocast_cache_enabled()


def test_parameters_and_gradients_are_not_touched():
    model = Plain().train()
    ids = torch.arange(12).view(3, 4)
    model(ids).sum().backward()
    before = [(p.detach().clone(), p.grad.clone(), p.requires_grad) for p in model.parameters()]
    with untouched(model):
        model(ids)
    for parameter, (value, gradient, requires_grad) in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, value)
        assert torch.equal(parameter.grad, gradient)
        assert parameter.requires_grad is requires_grad
