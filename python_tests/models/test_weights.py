"""Weights from other programs' files: usual wrappings, and faults, without running a pickle."""

from __future__ import annotations

import argparse
import os
import shlex
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sign_ext.models import (
    Normalize,
    Weights,
    build_model,
    load_weights,
    read_weights,
    with_normalization,
)
from sign_ext.training import save_checkpoint

# Where every name begins, for wrappers of a whole network.
PREFIXES = ("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module.")


def network(outputs: int = 3) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(3, 5, 3),
            norm=nn.BatchNorm2d(5),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            head=nn.Linear(5, outputs),
        )
    )


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def check_equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(found[name], value)


STATE = network().state_dict()
OTHER = network().state_dict()


@pytest.mark.parametrize(
    ("content", "undone"),
    [
        (STATE, ()),
        (dict(network().named_parameters()), ()),
        ({"state_dict": STATE, "epoch": 3}, ("state_dict",)),
        ({"model": STATE, "optimizer": {"state": {0: {"step": torch.ones(1)}}}}, ("model",)),
        ({"net": STATE, "acc": 93.5}, ("net",)),
        ({"model_state_dict": STATE, "loss": torch.ones(1)}, ("model_state_dict",)),
        ({"checkpoint": {"model": STATE}, "lr": [0.1]}, ("checkpoint", "model")),
        ({"my_backbone": STATE, "epoch": 3}, ("my_backbone",)),
        ({"ema": {"state_dict": STATE}, "model": OTHER}, ("ema", "state_dict")),
        ({"state_dict": OTHER, "state_dict_ema": STATE}, ("state_dict_ema",)),
        (
            {"model_ema": {"n_averaged": torch.tensor(9), **prefixed(STATE, "module.")}},
            ("model_ema", "module."),
        ),
    ],
)
def test_wrappings_are_undone_and_named(
    tmp_path: Path, content: dict[str, Any], undone: tuple[str, ...]
) -> None:
    path = tmp_path / "net.pth"
    torch.save(content, path)
    weights = read_weights(path)
    assert weights.unwrapped == undone
    if content is not STATE and "stem.weight" in content:  # parameters alone, without statistics
        check_equal(weights.tensors, content)
    else:
        check_equal(weights.tensors, STATE)
    averaged = [name for name in content if "ema" in name]
    plain = [name for name in content if name in ("model", "state_dict")]
    assert len(weights.notes) == bool(averaged and plain)
    for note in weights.notes:
        assert repr(averaged[0]) in note
        assert repr(plain[0]) in note


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors", ".pth.tar"])
def test_names_of_wrappers_are_undone(tmp_path: Path, prefix: str, suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    state = prefixed(STATE, prefix)
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state}, path)
    weights = read_weights(path)
    check_equal(weights.tensors, STATE)
    undone = [part for part in weights.unwrapped if part != "state_dict"]
    assert sorted(undone) == sorted(f"{each}." for each in prefix.split(".") if each)


def test_a_layer_compiled_by_itself(tmp_path: Path) -> None:
    state = {name.replace("stem.", "stem._orig_mod."): value for name, value in STATE.items()}
    torch.save(state, tmp_path / "net.pt")
    weights = read_weights(tmp_path / "net.pt")
    check_equal(weights.tensors, STATE)
    assert weights.unwrapped == ("_orig_mod.",)


class Evil:
    """A pickle that creates a file when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("with_module", [True, False])
def test_a_file_that_needs_code_is_refused_with_the_way_out(
    tmp_path: Path, with_module: bool
) -> None:
    """The line in the message converts the file; it is run here as it is."""
    path = tmp_path / "it's a net.pth"
    inside = network() if with_module else STATE
    wanted = inside.state_dict() if isinstance(inside, nn.Module) else inside
    contents = [
        {"model": inside, "args": argparse.Namespace(lr=0.1)},
        {"state_dict": wanted, "accuracy": np.float64(0.5)},
        inside if with_module else {"epoch": np.int64(3), "model": inside},
    ]
    for content in contents:
        torch.save(content, path)
        with pytest.raises(ValueError, match="reads tensors only") as caught:
            read_weights(path)
        command = shlex.split(str(caught.value).splitlines()[-1])
        assert command[:2] == ["python", "-c"]
        exec(command[2], {})
        check_equal(read_weights(tmp_path / "it's a net.weights.pth").tensors, wanted)


def test_code_in_a_file_does_not_run(tmp_path: Path) -> None:
    path, mark = tmp_path / "net.pth", tmp_path / "ran"
    for protocol in (True, False):
        torch.save(
            {"state_dict": STATE, "x": Evil(mark)}, path, _use_new_zipfile_serialization=protocol
        )
        with pytest.raises(ValueError, match=r"mkdir.*could run code"):
            read_weights(path)
        assert not mark.exists()


def test_torchscript_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.jit.script(network()).save(path)
    with pytest.raises(ValueError, match="TorchScript") as caught:
        read_weights(path)
    exec(shlex.split(str(caught.value).splitlines()[-1])[2], {})
    assert read_weights(tmp_path / "net.weights.pth").tensors.keys() == STATE.keys()


def sparse() -> dict[str, Any]:
    return {"a": torch.eye(3).to_sparse()}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pth", b"", "is empty"),
        ("a.safetensors", b"", "is empty"),
        ("a.pth", b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        ("a.pth", b"\n<!DOCTYPE html><html>", "a web page"),
        ("a.pth", b"nothing of the kind", "damaged, or not a file that torch.save wrote"),
        ("a.pth", b"PK\x03\x04 and then nothing", "damaged"),
        ("a.pth", b"\x80\x02}q\x00.", "damaged|no tensors"),
        ("a.safetensors", b"\x08\0\0\0\0\0\0\0{}      x", "not a whole safetensors file"),
        ("a.h5", b"x", r"read from a file of weights \(\.safetensors, \.pth"),
        ("a.pth", [STATE], "holds a list; accepted: a state_dict"),
        ("a.pth", torch.ones(3), "holds a Tensor"),
        ("a.pth", {}, "no tensors"),
        ("a.pth", {"epoch": 3}, "'epoch' is a int, not a tensor"),
        ("a.pth", {**STATE, "epoch": 3}, "'epoch' is a int, not a tensor"),
        ("a.pth", {"one": STATE, "two": STATE}, r"several sets of tensors \(one, two\)"),
        ("a.pth", sparse(), "'a' is a sparse"),
        ("a.pth", {"a": torch.zeros(1).expand(10**12)}, "'a' is a sparse, quantized or empty"),
        ("a.pth", {"a": torch.empty(3, device="meta")}, "'a' is a sparse, quantized or empty"),
    ],
)
def test_files_without_weights_are_named(
    tmp_path: Path, name: str, content: Any, message: str
) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=message) as caught:
        read_weights(path)
    assert str(path) in str(caught.value)


def test_every_truncation_is_an_error(tmp_path: Path) -> None:
    for name in ("net.pth", "net.safetensors"):
        path = tmp_path / name
        torch.save(STATE, path) if name == "net.pth" else save_file(STATE, path)
        whole = path.read_bytes()
        for size in (1, 7, 9, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:size])
            with pytest.raises(ValueError, match=r"net\.(pth|safetensors)"):
                read_weights(path)


def test_other_kinds_of_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*absent\.pth"):
        read_weights(tmp_path / "absent.pth")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        read_weights(tmp_path)
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(OSError, match="named pipe"):
        read_weights(tmp_path / "pipe.pth")
    torch.save(STATE, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"torch\.save, not by safetensors: call it \.pth"):
        read_weights(tmp_path / "a.safetensors")
    save_file(STATE, tmp_path / "b.pth")
    with pytest.raises(ValueError, match=r"a safetensors file: call it \.safetensors"):
        read_weights(tmp_path / "b.pth")


def test_a_checkpoint_of_ours_holds_weights_and_normalisation(tmp_path: Path) -> None:
    model = build_model("basic_cnn", num_classes=3, image_shape=(3, 9, 11))
    model.normalize = Normalize((1.5, 2.5, 3.5), (4.0, 5.0, 6.0))
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model, {})
    weights = read_weights(path)
    check_equal(weights.tensors, model.network.state_dict())
    assert weights.normalization == ((1.5, 2.5, 3.5), (4.0, 5.0, 6.0))
    assert weights.unwrapped == ("network.",)
    wrapped = with_normalization(network(), 0.5, 0.25)
    torch.save({"state_dict": prefixed(wrapped.state_dict(), "module.")}, tmp_path / "a.pth")
    weights = read_weights(tmp_path / "a.pth")
    check_equal(weights.tensors, wrapped.network.state_dict())
    assert weights.normalization == ((127.5,) * 3, (63.75,) * 3)


@pytest.mark.parametrize("prefix", ["model.", "net.", "backbone.", "lit.model.", ""])
def test_a_prefix_of_all_names_is_taken_off(prefix: str) -> None:
    fresh = network()
    loaded = load_weights(fresh, Weights(prefixed(STATE, prefix)))
    check_equal(fresh.state_dict(), STATE)
    assert "".join(loaded.unwrapped) == prefix


def test_a_prefix_that_only_the_network_has_is_put_on() -> None:
    outer = nn.Sequential(OrderedDict(model=nn.Sequential(OrderedDict(inner=network()))))
    load_weights(outer, Weights(dict(STATE)))
    check_equal(outer.model.inner.state_dict(), STATE)
    # Here every name begins with one that looks like a wrapper's, and belongs to the network.
    own = nn.Sequential(OrderedDict(module=network()))
    load_weights(own, Weights(dict(STATE)))
    check_equal(own.module.state_dict(), STATE)


def test_missing_and_unexpected_names_are_one_error() -> None:
    state = {name: value for name, value in STATE.items() if not name.startswith("norm.")}
    state |= {"norms.weight": torch.ones(5), "zzz": torch.ones(2)}
    fresh = network()
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    with pytest.raises(ValueError, match="does not fit the network") as caught:
        load_weights(fresh, Weights(state))
    message = str(caught.value)
    assert "4 of the network's 9 tensors are missing in the file (norm.weight, " in message
    assert "2 of the file's 6 are not in the network (norms.weight, zzz)" in message
    assert "norms.weight in the file for norm.weight" in message
    check_equal(fresh.state_dict(), before)  # nothing was loaded


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("stem.weight", torch.zeros(5, 3, 3, 5), r"stem\.weight is \(5, 3, 3, 5\), the network's"),
        ("stem.weight", torch.full((5, 3, 3, 3), torch.nan), r"NaN in 1 tensors \(stem\.weight\)"),
        ("stem.bias", torch.zeros(5, dtype=torch.complex64), "complex64, the network's"),
        ("stem.bias", torch.zeros(5, dtype=torch.int64), r"int64, the network's torch\.float32"),
    ],
)
def test_tensors_that_do_not_fit(name: str, value: Tensor, message: str) -> None:
    for new_head in (False, True):
        with pytest.raises(ValueError, match=message):
            load_weights(network(), Weights({**STATE, name: value}), new_head=new_head)


def test_a_head_of_another_size_is_an_error_or_new() -> None:
    fresh = network(outputs=4)
    head = fresh.head.weight.detach().clone()
    with pytest.raises(ValueError, match=r"has 3 outputs and the network's 4.*num-classes 3") as e:
        load_weights(fresh, Weights(dict(STATE)))
    assert "new_head=True" in str(e.value)
    loaded = load_weights(fresh, Weights(dict(STATE)), new_head=True)
    assert torch.equal(fresh.head.weight, head)
    assert torch.equal(fresh.stem.weight, STATE["stem.weight"])
    assert loaded.notes == ("new weights for the last layer: head.bias, head.weight",)


def test_a_backbone_alone_is_accepted_with_a_new_head() -> None:
    body = {name: value for name, value in STATE.items() if not name.startswith("head.")}
    head = ("head.weight", "head.bias")
    with pytest.raises(ValueError, match="all of it fits but the last layer") as caught:
        load_weights(network(), Weights(body), head=head)
    assert "The network has head.weight (3, 5), head.bias (3,), the file none" in str(caught.value)
    assert "new_head=True" in str(caught.value)
    fresh = network(outputs=7)
    load_weights(fresh, Weights(body), new_head=True, head=head)
    assert torch.equal(fresh.stem.weight, STATE["stem.weight"])
    body.pop("stem.bias")
    with pytest.raises(ValueError, match=r"missing in the file \(stem\.bias"):
        load_weights(fresh, Weights(body), new_head=True, head=head)


def test_half_precision_is_converted_and_old_files_lack_counts() -> None:
    state = {
        name: value.half() if value.is_floating_point() else value
        for name, value in STATE.items()
        if not name.endswith("num_batches_tracked")
    }
    fresh = network()
    loaded = load_weights(fresh, Weights(state))
    assert fresh.stem.weight.dtype == torch.float32
    assert torch.equal(fresh.stem.weight, STATE["stem.weight"].half().float())
    assert loaded.notes == ("weights stored as float16 were converted to float32",)


def test_no_number_of_classes_is_advised_where_more_than_the_head_differs(tmp_path: Path) -> None:
    wider = nn.Sequential(OrderedDict(**network(4)._modules, more=nn.Conv2d(5, 5, 3)))
    without_bias = {name: value for name, value in STATE.items() if name != "stem.bias"}
    for built, state in ((wider, STATE), (network(4), without_bias)):
        with pytest.raises(ValueError, match="missing in the file") as error:
            load_weights(built, Weights(dict(state)))
        assert "head.weight is (3, 5), the network's (4, 5)" in str(error.value)
        assert "num-classes" not in str(error.value)
        assert "new last layer" not in str(error.value)
    blocks = {f"block{number}": nn.Conv2d(5, 5, 3) for number in range(3)}
    deeper = nn.Sequential(OrderedDict(**network()._modules, **blocks))
    for built, state in ((deeper, STATE), (network(), deeper.state_dict())):
        with pytest.raises(ValueError, match="probably weights of another network"):
            load_weights(built, Weights(dict(state)))


def test_a_misspelt_file_is_named(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "resnet18.pth")
    with pytest.raises(FileNotFoundError, match=r"did you mean '.*resnet18\.pth'\?"):
        read_weights(tmp_path / "resnet81.pth")


def test_the_same_names_in_other_sizes_point_to_the_networks_options() -> None:
    def missed(**sizes: Tensor) -> str:
        with pytest.raises(ValueError, match="does not fit the network") as caught:
            load_weights(network(), Weights({**STATE, **sizes}))
        return str(caught.value)

    hint = "built with other options, such as patch_size"
    assert hint in missed(**{"stem.weight": torch.zeros(5, 3, 5, 5)})
    other = {name: value for name, value in STATE.items() if not name.startswith("norm.")}
    with pytest.raises(ValueError, match="does not fit the network") as caught:
        load_weights(network(), Weights({**other, "stem.weight": torch.zeros(5, 3, 5, 5)}))
    assert hint not in str(caught.value)  # another network, whose options do not matter


def test_a_vit_whose_head_is_another_names_its_keys_and_the_way_out() -> None:
    """The file's head is a perceptron, as in many fine-tuned networks."""
    built = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=3)
    state = {k: v for k, v in built.state_dict().items() if not k.startswith("head.")}
    state |= {"head.0.weight": torch.zeros(7, 192), "head.0.bias": torch.zeros(7)}
    state |= {"head.2.weight": torch.zeros(4, 7), "head.2.bias": torch.zeros(4)}
    with pytest.raises(ValueError, match="does not fit the network") as caught:
        load_weights(built, Weights(dict(state)))
    message = str(caught.value)
    assert "all of it fits but the last layer" in message
    assert "The network has head.weight (3, 192), head.bias (3,)" in message
    assert "the file head.0.weight (7, 192), head.0.bias (7,), head.2.weight (4, 7)" in message
    assert "`sign-ext train`" in message
    assert "new_head=True" in message
    # And the way out is one: the network keeps its own head, and what was left out is told.
    own = built.head.weight.detach().clone()
    head = ("head.weight", "head.bias")
    loaded = load_weights(built, Weights(dict(state)), new_head=True, head=head)
    assert torch.equal(built.head.weight, own)
    (note,) = loaded.notes
    assert "head.bias, head.weight (left out of the file: head.0.weight, head.0.bias" in note
    # Where the body differs too, it is not the head's fault.
    state["blocks.0.zzz"] = torch.zeros(2)
    with pytest.raises(ValueError, match="missing in the file"):
        load_weights(built, Weights(dict(state)))


MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)


@pytest.mark.parametrize(
    ("beside", "name"),
    [
        ({"mean": MEAN, "std": STD}, "mean and std"),
        ({"mean": torch.tensor(MEAN).view(1, 3, 1, 1), "std": list(STD)}, "mean and std"),
        ({"pretrained_cfg": {"mean": MEAN, "std": STD, "input_size": (3, 9, 9)}}, "pretrained_cfg"),
        ({"args": {"lr": 0.1, "mean": list(MEAN), "std": list(STD)}}, "args"),
        ({"config": {"transform": {"mean": MEAN, "std": STD}}}, "config.transform"),
        ({"mean": [255 * x for x in MEAN], "std": [255 * x for x in STD]}, "mean and std"),
        ({"args": {"mean": None, "std": None}}, ""),
        ({"mean": 0.3, "std": 0.1}, ""),
        ({"mean": MEAN}, ""),
        ({"args": {"mean": "0.1", "std": "0.2"}}, ""),
    ],
    ids=lambda value: None if isinstance(value, dict) else value or "no record",
)
def test_a_normalisation_beside_the_weights_is_read(tmp_path, beside, name) -> None:
    torch.save({"state_dict": dict(STATE), **beside}, tmp_path / "a.pth")
    weights = read_weights(tmp_path / "a.pth")
    check_equal(weights.tensors, dict(STATE))
    assert weights.recorded == name
    if not name:
        assert weights.normalization is None
        return
    found = np.array(weights.normalization)
    np.testing.assert_allclose(found, 255 * np.array([MEAN, STD]), rtol=1e-6)


def test_a_normalisation_in_unclear_units_is_told_and_not_used(tmp_path: Path) -> None:
    content = {"state_dict": dict(STATE), "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    torch.save(content, tmp_path / "a.pth")
    weights = read_weights(tmp_path / "a.pth")
    assert weights.normalization is None
    assert "not used" in weights.notes[0]
    assert "value_range=1 or 255" in weights.notes[0]
