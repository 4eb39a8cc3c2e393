"""The paper's networks and torchvision's, built by name."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import warnings

import pytest
import torch
from torch import nn

from prunecca import models

_LARGEST = [token for width in (64, 128, 256, 512) for token in (f"{width}*", f"{width}*", "MP")]
# Ansuini et al. 2020, Tables 2 and 3: (widths with * for BatchNorm, hidden width, epochs, patience, p_conv).
PAPER = {
    "cifar2": (["16*", "16", "MP"], "256", 50, None, 0.1),
    "cifar4": (["16*", "16", "MP", "32*", "32", "MP"], "256", 50, None, 0.1),
    "cifar6": (["64*", "64", "MP", "128*", "128", "MP", "256*", "256", "MP"], "256", 100, None, 0.1),
    "cifar8": (_LARGEST, "1024*", 200, 20, 0.2),
    "cifar10": (_LARGEST, "1024*", 200, 20, 0.2),
}


@pytest.mark.parametrize("name", PAPER)
def test_paper_networks_have_the_layers_of_table_2(name):
    conv, fc, epochs, patience, p_conv = PAPER[name]
    problem, model = models.PROBLEMS[name], models.build(name)
    assert (problem.epochs, problem.patience, problem.batch) == (epochs, patience, 128)
    assert problem.validation == (0.1 if patience else 0.0)
    assert problem.rates == {"conv": p_conv, "fc": 0.2}

    found = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            assert (module.kernel_size, module.padding, module.stride) == ((3, 3), (1, 1), (1, 1))
            assert module.bias is not None
            found.append(str(module.out_channels))
        elif isinstance(module, nn.BatchNorm2d):
            found[-1] += "*"
        elif isinstance(module, nn.MaxPool2d):
            found.append("MP")
    assert found == conv
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert [layer.out_features for layer in linear] == [int(fc.rstrip("*")), problem.classes]
    assert [d.p for d in model.modules() if isinstance(d, nn.Dropout)] == [0.5]
    assert any(isinstance(module, nn.BatchNorm1d) for module in model.modules()) == fc.endswith("*")


def test_a_problem_is_hashable_and_its_rates_are_a_mapping_that_cannot_be_changed():
    rates = {"conv": 0.3, "fc": 0.5}
    problem = models.Problem("mine", "digits", 3, "8 MP", "16", rates=rates)
    other = dataclasses.replace(problem, rates={"conv": 0.3, "fc": 0.4})
    assert len({problem, other, models.Problem("mine", "digits", 3, "8 MP", "16", rates=dict(rates))}) == 2
    rates["conv"] = 0.9
    assert problem.rates == {"conv": 0.3, "fc": 0.5}
    for change in (
        lambda: problem.rates.update(conv=0.9),
        lambda: problem.rates.__setitem__("conv", 0.9),
        lambda: problem.rates.pop("conv"),
    ):
        with pytest.raises(TypeError, match="the rates of a problem cannot be changed; make another problem"):
            change()
    for twin in (copy.deepcopy(problem), pickle.loads(pickle.dumps(problem)), dataclasses.replace(problem)):
        assert twin == problem
        assert hash(twin) == hash(problem)
    stored = json.loads(json.dumps(dataclasses.asdict(problem)))
    assert stored["rates"] == {"conv": 0.3, "fc": 0.5}
    assert models.Problem(**stored) == problem


def test_representation_layers_come_after_the_activation_and_in_order_of_depth():
    model = models.build("cifar4").eval()
    assert model.representation_layers == ["conv1", "conv2", "pool1", "conv3", "conv4", "pool2", "fc1"]
    order, lowest = [], []

    def note(name, output):
        order.append(name)
        lowest.append(output.min().item())

    for name in model.representation_layers:
        model.get_submodule(name).register_forward_hook(lambda _m, _x, output, name=name: note(name, output))
    model(torch.randn(4, 3, 32, 32))
    assert order == model.representation_layers
    assert min(lowest) == 0


@pytest.mark.parametrize("name", ["cifar2", "cifar10", "digits4", "vgg19", "resnet18"])
def test_representation_layers_each_fire_once(name):
    model = models.build(name).eval()
    fired = []
    for layer in model.representation_layers:
        model.get_submodule(layer).register_forward_hook(lambda *_, layer=layer: fired.append(layer))
    with torch.no_grad():
        logits = model(torch.randn(2, 3, 32, 32))
    assert fired == model.representation_layers
    assert logits.shape == (2, models.PROBLEMS[name].classes)


def test_a_seed_fixes_the_parameters_and_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    first, second, other = (models.build("digits4", seed=seed) for seed in (5, 5, 6))
    assert torch.equal(torch.random.get_rng_state(), before)
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(first.conv1[0].weight, other.conv1[0].weight)


@pytest.mark.parametrize("name", ["digits3", "cifar8"])
def test_copies_and_pickles_give_the_same_answers(name):
    model = models.build(name).eval()
    x = torch.randn(2, 3, 32, 32)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), model(x))
        assert twin.representation_layers == model.representation_layers


def test_the_whole_network_compiles_into_one_graph():
    model = models.build("digits2").eval()
    x = torch.randn(2, 3, 32, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, while tracing
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        assert torch.equal(compiled(x), model(x))


def test_classes_dropout_and_image_size_can_be_chosen():
    model = models.build("cifar2", classes=7, dropout=0.1, image_size=48)
    assert model.dropout1.p == 0.1
    assert model(torch.randn(2, 3, 48, 48)).shape == (2, 7)
    assert models.build("mobilenet_v2", classes=3, dropout=0.3).eval()(torch.randn(2, 3, 32, 32)).shape == (2, 3)


def test_small_images_keep_their_resolution_in_resnet():
    small, large = models.build("resnet18", image_size=32).eval(), models.build("resnet18", image_size=224).eval()
    assert small.relu(small.bn1(small.conv1(torch.zeros(1, 3, 32, 32)))).shape == (1, 64, 32, 32)
    assert "maxpool" in large.representation_layers
    assert large.conv1.stride == (2, 2)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("cifar3",), "no problem 'cifar3' .did you mean 'cifar\\d*'.*cifar2, 4, 6, 8 or 10.*torchvision"),
        (("digits11",), "no problem 'digits11'.*digits2 to digits10"),
        (("cifar2", 1), "classes is 1; .* at least 2"),
        (("cifar2", 2, 1.0), "dropout is 1.0; expected a probability"),
        ((models.Problem("mine", "any", 2, "16 max", "8"),), "'max' is not a layer"),
        (
            (models.Problem("mine", "any", 2, "4 MP 4 MP 4 MP 4 MP 4 MP 4 MP", "8"),),
            "image_size is 32; 6 poolings need",
        ),
        ((models.Problem("mine", "any", 2, network="lenet"),), "torchvision has no classifier 'lenet'"),
    ],
)
def test_mistakes_are_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        models.build(*arguments)
