"""Small models compute on one thread, large ones on as many as the user has set; the user's number
is the same afterwards."""

import pytest
import torch

from notice_lib import answers, load_model, load_pairs, site_grid, sweep
from notice_lib.heads import image_attention
from notice_lib.models import threads
from notice_lib.patching import reference


@pytest.fixture(autouse=True)
def three_threads():
    """A user's own number of threads, which each test must leave as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    after = torch.get_num_threads()
    torch.set_num_threads(before)
    assert after == 3


@pytest.fixture(scope="module", params=["blip-mini", "llava-mini"])
def model(request):
    return load_model(request.param)


@pytest.fixture
def seen(model):
    """How many threads each forward of a leaf module had."""
    numbers = set()
    handles = [
        module.register_forward_hook(lambda *_: numbers.add(torch.get_num_threads()))
        for module in model.model.modules()
        if not list(module.children())
    ]
    yield numbers
    for handle in handles:
        handle.remove()


def _everything(model):
    """The usual ways in which the library makes a model compute."""
    pairs = load_pairs("svo", n=2)
    pair = pairs[0]
    answers(model, pairs)
    sites = site_grid(model, layers=[1], position="correct")
    sweep(model, pairs, sites)
    sweep(model, pairs, sites, engine=reference.patch)
    inputs = model.inputs(pair.image("clean"), pair.prompt)
    image_attention(model, inputs)
    reference.record(model, inputs, [("mlp", 0)])


def test_a_small_model_computes_on_one_thread(model, seen):
    _everything(model)
    assert seen == {1}


def test_a_large_model_keeps_the_users_threads(model, seen, monkeypatch):
    monkeypatch.setattr(threads, "SMALL", 1_000_000)
    _everything(model)
    assert seen == {3}


@pytest.mark.parametrize(("device", "computed_on"), [("cpu", 1), ("meta", 3)])
def test_a_small_model_elsewhere_keeps_the_users_threads(device, computed_on):
    """As on a GPU, whose kernels need no thread here. Its last weights decide, too."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2, device=device))
    with threads.threads_for(model):
        assert torch.get_num_threads() == computed_on


def test_the_number_is_restored_after_an_exception(model):
    with pytest.raises(ZeroDivisionError), model.computing():
        assert torch.get_num_threads() == 1
        raise ZeroDivisionError
