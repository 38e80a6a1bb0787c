"""The tensors of a module, its refusals, and its behavior as a torch module."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

import onnx_ir as ir  # noqa: E402

from onnx_expand.errors import ModelError, UnsupportedError  # noqa: E402
from onnx_expand.train import to_torch  # noqa: E402
from onnx_expand.train.names import state_keys  # noqa: E402
from tests.support.classifiers import classifier  # noqa: E402
from tests.support.graphs_text import graph, weights  # noqa: E402
from tests.support.torch_graphs import assert_same, images, parse, with_weights  # noqa: E402


def test_state_dict_keys_are_initializer_names() -> None:
    """Every initializer is in state_dict under its own name, and nothing else is."""
    model = classifier()
    module = to_torch(model)
    assert set(module.state_dict()) == {tensor.name for tensor in model.graph.initializer}
    assert_same(model, images(2, 3, 5, 5))


def test_weights_are_trained_and_settings_are_not() -> None:
    """Running statistics, bounds and scalars are buffers, and gradients reach all parameters."""
    module = to_torch(classifier())
    names = {name for name, _ in module.named_parameters()}
    buffers = {"features.1.running_mean", "features.1.running_var", "limit"}
    assert names == set(module.state_dict()) - buffers
    module.train()
    module(torch.randn(4, 3, 5, 5)).square().sum().backward()
    assert all(tensor.grad is not None for tensor in module.parameters())


def test_a_scalar_is_trained_only_where_a_layer_has_its_weights() -> None:
    """A PRelu slope of one element is a parameter, a factor of one element is not."""
    model = parse(
        "p = PRelu(x, slope) y = Mul(p, factor)",
        "(float[n, 3] x) => (float[n, 3] y)",
        "float[1] slope = {0.25}, float[1] factor = {2}",
    )
    assert [name for name, _ in to_torch(model).named_parameters()] == ["slope"]


def test_a_shared_weight_stays_shared() -> None:
    """Two nodes that read one initializer train one parameter."""
    model = parse("h = MatMul(x, w) y = MatMul(h, w)", "(float[n, 3] x) => (float[n, 3] y)")
    module = to_torch(with_weights(model, w=images(3, 3)))
    assert len(list(module.parameters())) == 1
    x = torch.randn(2, 3, dtype=torch.float32)
    module(x).sum().backward()
    weight = module.get_parameter("w").detach().requires_grad_()
    (x @ weight @ weight).sum().backward()
    assert torch.allclose(module.get_parameter("w").grad, weight.grad)


def test_an_initializer_that_is_an_input_is_a_parameter() -> None:
    """A caller of the module does not pass it."""
    model = parse(
        "y = MatMul(x, w)", "(float[n, 2] x, float[2, 2] w) => (float[n, 2] y)",
        "float[2, 2] w = {1, 2, 3, 4}",
    )  # fmt: skip
    module = to_torch(model)
    assert [name for name, _ in module.named_parameters()] == ["w"]
    assert module(torch.ones(1, 2)).tolist() == [[4.0, 6.0]]


def test_an_unused_initializer_is_kept() -> None:
    """An unused initializer is in state_dict, and is not trained."""
    model = parse("y = Relu(x)", "(float[n] x) => (float[n] y)", "float[2] w = {1, 2}")
    module = to_torch(model)
    assert list(module.state_dict()) == ["w"]
    assert not list(module.parameters())


def test_names_that_torch_cannot_have_are_mapped() -> None:
    """Empty parts, names of module attributes, and paths through a tensor are renamed."""
    names = ["a", "a.b", "a..b", "forward", "/conv/Conv_1:0", "x.training", "class", 'a"\\\n']
    keys = state_keys(names)
    assert keys["a"] == "a"
    assert keys["/conv/Conv_1:0"] == "/conv/Conv_1:0"
    assert keys["class"] == "class_"
    assert len(set(keys.values())) == len(names)
    model = parse("y = Sum(x)", "(float[2] x) => (float[2] y)")
    for index, name in enumerate(names):
        array = np.full(2, index, np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        model.graph.node[0].input.append(name)
    module = to_torch(model)
    assert module.initializers == keys
    assert_same(model, images(2))
    copied = pickle.loads(pickle.dumps(module))
    assert torch.equal(copied(torch.ones(2)), module(torch.ones(2)))


def test_inputs_may_have_any_names() -> None:
    """Inputs named like keywords, or with dots, are arguments too."""
    model = parse("y = Sub(a, b)", "(float[n] a, float[n] b) => (float[n] y)")
    for value, name in zip(model.graph.input, ("lambda", "x.1"), strict=True):
        value.name = name
    model.graph.node[0].input[:] = ["lambda", "x.1"]
    assert_same(model, images(3), images(3, seed=1))


def test_the_module_copies_and_pickles() -> None:
    """A copy has the same function and keys, but separate tensors."""
    module = to_torch(classifier())
    x = torch.randn(2, 3, 5, 5)
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(copied(x), module(x))
        assert list(copied.state_dict()) == list(module.state_dict())
        assert copied.initializers == module.initializers
        with torch.no_grad():
            copied.get_parameter("head.weight").zero_()
        assert not torch.equal(copied(x), module(x))


def test_batch_normalization_obeys_training() -> None:
    """Training mode uses batch statistics, and updates running ones by 1 - momentum."""
    model = parse(
        "y = BatchNormalization<momentum=0.75>(x, s, b, m, v)",
        "(float[n, 1, 2, 2] x) => (float[n, 1, 2, 2] y)",
        "float[1] s = {1}, float[1] b = {0}, float[1] m = {0}, float[1] v = {1}",
    )
    module = to_torch(model)
    x = torch.randn(8, 1, 2, 2) * 3 + 5
    before = module(x)
    assert module.state_dict()["m"].item() == 0
    module.train()
    assert module(x).mean().abs().item() < 1e-5
    state = module.state_dict()
    assert state["m"].item() == pytest.approx(0.25 * x.mean().item(), rel=1e-5)
    assert state["v"].item() == pytest.approx(0.75 + 0.25 * x.var().item(), rel=1e-5)
    module.eval()
    assert not torch.equal(module(x), before)


@pytest.mark.parametrize(
    "body",
    [
        "y = BatchNormalization(x, s, b, b, s)",
        "i = Identity(b) j = Identity(s) y = BatchNormalization(x, s, b, i, j)",
        "h = BatchNormalization(x, s, b, m, v) y = BatchNormalization(h, s, b, m, s)",
        "h = BatchNormalization(x, s, b, m, v) y = BatchNormalization(h, t, b, m, v)",
    ],
)
def test_statistics_that_are_tied_to_weights_are_named(body: str) -> None:
    """Exporters tie equal tensors; a step would train statistics, so the user is warned."""
    model = parse(
        body,
        "(float[n, 2, 3, 3] x) => (float[n, 2, 3, 3] y)",
        "float[2] s = {1, 2}, float[2] t = {1, 3}, float[2] b = {0, 1}, float[2] m = {0, 1}, "
        "float[2] v = {1, 2}",
    )
    with pytest.warns(UserWarning, match=r"BatchNormalization.*one tensor with other weights"):
        module = to_torch(model)
    module.train()
    module(torch.randn(4, 2, 3, 3)).square().sum().backward()
    assert module.get_parameter("s").grad is not None


def test_one_normalization_called_twice_keeps_its_statistics() -> None:
    """All four tensors are shared on purpose, and the statistics follow the batches."""
    model = parse(
        "h = BatchNormalization(x, s, b, m, v) y = BatchNormalization(h, s, b, m, v)",
        "(float[n, 2, 3, 3] x) => (float[n, 2, 3, 3] y)",
        "float[2] s = {1, 2}, float[2] b = {0, 1}, float[2] m = {0, 1}, float[2] v = {1, 2}",
    )
    module = to_torch(model).train()
    before = module.get_buffer("m").clone()
    module(torch.randn(4, 2, 3, 3))
    assert not torch.equal(module.get_buffer("m"), before)


def test_dropout_obeys_training() -> None:
    """Elements are zeroed in training mode only."""
    module = to_torch(parse("y = Dropout(x)", "(float[n] x) => (float[n] y)"))
    x = torch.ones(1000)
    assert torch.equal(module(x), x)
    module.train()
    assert 300 < int((module(x) == 0).sum()) < 700


def test_operators_without_translation_are_decomposed() -> None:
    """Schema functions and the model's own functions are computed by their bodies."""
    group = parse(
        "y = GroupNormalization<num_groups=2>(x, s, b)",
        "(float[n, 4, 3, 3] x) => (float[n, 4, 3, 3] y)",
        "float[4] s = {1, 2, 3, 4}, float[4] b = {0, 1, 2, 3}",
        opset=21,
    )
    assert_same(group, images(2, 4, 3, 3))
    assert {name for name, _ in to_torch(group).named_parameters()} == {"s", "b"}
    local = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17, "own": 1]>
        main (float[n, 2] x) => (float[n, 2] y) <float[2, 2] w = {1, 2, 3, 4}>
        { y = own.twice(x, w) }
        <opset_import: ["": 17], domain: "own">
        twice (a, m) => (c) { b = MatMul(a, m)  c = MatMul(b, m) }
    """)
    assert_same(local, images(3, 2))


def test_a_large_weight_survives_decomposition() -> None:
    """Weights too large for the inliner keep their names and values."""
    model = parse(
        "h = MatMul(x, w) y = MeanVarianceNormalization<axes=[1]>(h)",
        "(float[n, 40] x) => (float[n, 40] y)",
    )
    model = with_weights(model, w=images(40, 40))
    module = to_torch(model)
    assert [name for name, _ in module.named_parameters()] == ["w"]
    assert_same(model, images(3, 40))


def test_all_unsupported_nodes_are_named_at_once() -> None:
    """The error lists all operators without a translation before anything runs."""
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17, "com.acme": 1]>
        g (float[n] x) => (float[n] y) { a = com.acme.Fancy(x)  b = com.acme.Odd(a) y = Relu(b) }
    """)
    with pytest.raises(UnsupportedError, match=r"2 nodes: 'a' \(com.acme.Fancy\), 'b' \("):
        to_torch(model)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("y, m = Dropout(x) z = Not(m)", "output 1"),
        ("y = LpPool<kernel_shape=[2, 2], ceil_mode=1>(x)", "ceil_mode"),
        ("y, m, v = BatchNormalization<training_mode=1>(x, s, s, s, s)", "training mode"),
    ],
)  # fmt: skip
def test_features_that_torch_lacks_are_refused(body: str, message: str) -> None:
    """A node that torch would compute differently is refused by name, with the reason."""
    model = parse(
        body, "(float[n, 2, 4, 4] x) => (float[n, 2, a, b] y)", "float[2] s = {1, 1}", 18
    )
    with pytest.raises(UnsupportedError, match=message):
        to_torch(model)


def test_every_kind_of_model_is_accepted(tmp_path: Path) -> None:
    """A path, a proto and an onnx-ir model give equal modules, and none is changed."""
    model = classifier()
    before = model.SerializeToString()
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    x = torch.randn(2, 3, 5, 5)
    wanted = to_torch(model)(x)
    assert torch.equal(to_torch(path)(x), wanted)
    assert torch.equal(to_torch(str(path))(x), wanted)
    intermediate = ir.serde.deserialize_model(model)
    module = to_torch(intermediate)
    assert torch.equal(module(x), wanted)
    with torch.no_grad():
        module.get_parameter("head.weight").zero_()
    assert model.SerializeToString() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    with pytest.raises(ModelError, match="no such file"):
        to_torch(tmp_path / "other.onnx")


def test_computed_statistics_are_not_running_statistics() -> None:
    """Weight standardization by a BatchNormalization trains as it evaluates."""
    model = graph(
        """
        g (float[N,3,5,5] x) => (float[N,4,3,3] y) {
            s = Constant<value_ints=[1,4,-1]>()
            f = Reshape(w, s)
            m3 = ReduceMean<axes=[0,2], keepdims=1>(f)
            d = Sub(f, m3)
            q = Mul(d, d)
            m = ReduceMean<axes=[0,2], keepdims=0>(f)
            v = ReduceMean<axes=[0,2], keepdims=0>(q)
            b = BatchNormalization<epsilon=0.01>(f, scale, bias, m, v)
            t = Constant<value_ints=[4,3,3,3]>()
            k = Reshape(b, t)
            y = Conv(x, k)
        }
        """,
        {**weights(w=(4, 3, 3, 3), scale=(4,)), "bias": np.zeros(4, np.float32)},
    )
    module = to_torch(model)
    x = torch.randn(2, 3, 5, 5)
    expected = module(x)
    module.train()
    torch.testing.assert_close(module(x), expected)
    module(x).square().sum().backward()
    assert all(p.grad is not None for p in module.parameters())
    assert {name for name, _ in module.named_parameters()} == {"w", "scale", "bias"}


def test_weights_that_a_batch_normalization_standardizes() -> None:
    """In training mode on a weight there is no warning, and equal results after training."""
    model = graph(
        """
        g (float[N,3,5,5] x) => (float[N,4,3,3] y) {
            s = Constant<value_ints=[1,4,-1]>()
            f = Reshape(w, s)
            b, u, v = BatchNormalization<training_mode=1>(f, scale, bias, zeros, ones)
            t = Constant<value_ints=[4,3,3,3]>()
            k = Reshape(b, t)
            y = Conv(x, k)
        }
        """,
        {
            **weights(w=(4, 3, 3, 3), scale=(4,)),
            **{"bias": np.zeros(4, np.float32), "zeros": np.zeros(4, np.float32)},
            "ones": np.ones(4, np.float32),
        },
    )
    module = to_torch(model)
    x = torch.randn(2, 3, 5, 5)
    expected = module(x)
    module.train()
    torch.testing.assert_close(module(x), expected)
    filters = module.get_parameter("w").detach().reshape(4, -1)
    deviation = filters.std(dim=1, unbiased=False, keepdim=True)
    own = (filters - filters.mean(dim=1, keepdim=True)) / deviation
    own = own * module.get_parameter("scale").detach().reshape(-1, 1)
    wanted = torch.nn.functional.conv2d(x, own.reshape(4, 3, 3, 3))
    torch.testing.assert_close(expected, wanted, rtol=1e-3, atol=1e-4)
