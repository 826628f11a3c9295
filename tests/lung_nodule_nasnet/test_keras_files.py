"""Keras files as Keras 2 wrote them, made by hand: loaded layer by layer, refused when they are another network's."""
import h5py
import numpy as np
import pytest

from lung_nodule_nasnet import quiet  # noqa: F401  before keras
from lung_nodule_nasnet.checkpoint import load_checkpoint, set_weights
from lung_nodule_nasnet.config import Config
from lung_nodule_nasnet.nasnet_v2 import nasnet_gcn
from shared_data.errors import InputError
from shared_data.settings import to_plain


@pytest.fixture(scope="module")
def network():
    return nasnet_gcn(32, 96, 2, 0.05)


@pytest.fixture(scope="module")
def layers(network):
    """[(name that our network does not use, [(name of the variable, random values)])], layers without weights too."""
    rng = np.random.default_rng(0)
    return [(f"layer_{k}", [(variable.path.split("/")[-1], rng.normal(size=variable.shape).astype(np.float32))
                            for variable in layer.weights]) for k, layer in enumerate(network.layers)]


def write_keras_file(path, layers, whole_model):
    with h5py.File(path, "w") as file:
        group = file.create_group("model_weights") if whole_model else file
        group.attrs.update({"backend": b"tensorflow", "keras_version": b"2.2.4",
                            "layer_names": [name.encode() for name, _ in layers]})
        for name, variables in layers:
            layer = group.create_group(name)
            layer.attrs["weight_names"] = [f"{name}/{role}:0".encode() for role, _ in variables]
            for role, values in variables:
                layer[f"{name}/{role}:0"] = values


@pytest.mark.parametrize("whole_model", [False, True])
def test_every_weight_finds_its_place(network, layers, whole_model, tmp_path):
    path = tmp_path / "authors model.hdf5"
    write_keras_file(path, layers, whole_model)
    state, groups = load_checkpoint(path)
    assert state["config"] == to_plain(Config()) and not groups
    for variable in network.variables:
        variable.assign(np.zeros(variable.shape))
    set_weights(network, [], path)
    for layer, (_, variables) in zip(network.layers, layers):
        assert len(layer.weights) == len(variables)
        assert all(np.array_equal(variable, values) for variable, (_, values) in zip(layer.weights, variables))


def test_other_networks_and_damaged_files_are_refused(network, layers, tmp_path):
    convolution = next(k for k, (_, variables) in enumerate(layers) if variables)
    name, [(role, values), *rest] = layers[convolution]

    def changed(*variables):
        return [*layers[:convolution], (name, [*variables, *rest]), *layers[convolution + 1:]]

    write_keras_file(tmp_path / "shape.h5", changed((role, values[..., :-1])), False)
    write_keras_file(tmp_path / "nan.h5", changed((role, values * np.nan)), False)
    write_keras_file(tmp_path / "more.h5", [*layers, ("another", [("bias", np.zeros(2))])], False)
    write_keras_file(tmp_path / "fewer.h5", layers[:-3], False)
    (tmp_path / "cut.h5").write_bytes((tmp_path / "nan.h5").read_bytes()[:5000])
    (tmp_path / "text.h5").write_text("hello")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = np.zeros(3)
    for wrong, word in (("shape", f"named {network.layers[convolution].name}"), ("nan", "not numbers"),
                        ("more", "Layer count"), ("fewer", "Layer count"), ("cut", "not a Keras file"),
                        ("text", "not a Keras file"), ("other", "not a Keras file"), ("absent", "no such checkpoint")):
        with pytest.raises(InputError, match=word) as error:
            set_weights(network, [], tmp_path / f"{wrong}.h5")
        assert f"{wrong}.h5" in str(error.value) and "\n" not in str(error.value)
