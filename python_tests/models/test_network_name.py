"""Names of networks: what each form means, and what is suggested for a wrong one."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sign_ext.models.network_name import MODEL_NAMES, NetworkName, parse_network_name
from sign_ext.models.registry import BUILDERS


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("basic_cnn", "sign_ext", "basic_cnn"),
        ("timm:resnet18.a1_in1k", "timm", "resnet18.a1_in1k"),
        ("torchvision:vit_b_16", "torchvision", "vit_b_16"),
        ("hf:nets/my resnet", "hf", "nets/my resnet"),
        ("hf:microsoft/resnet-18", "hf", "microsoft/resnet-18"),
        ("torchvision.models:mobilenet_v2", "function", "torchvision.models:mobilenet_v2"),
        ("nets:Factory.small", "function", "nets:Factory.small"),
        ("nets.py:make", "file", "nets.py:make"),
        ("../with space/nets.py:make", "file", "../with space/nets.py:make"),
        ("/a:b/nets.py:make", "file", "/a:b/nets.py:make"),
    ],
)
def test_each_form_and_back(text: str, kind: str, name: str) -> None:
    parsed = parse_network_name(text)
    assert parsed == NetworkName(kind, name)  # type: ignore[arg-type]
    assert str(parsed) == text
    assert parsed.is_code == (kind in ("function", "file"))


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("basiccnn", "did you mean 'basic_cnn'"),
        ("resnet18", "timm:resnet18"),
        ("", "accepted: basic_cnn"),
        ("timm:", "followed by a name"),
        ("timm:hf-hub:org/net", "timm.list_models"),
        ("torchvision:../x", "torchvision.models.list_models"),
        ("Timm:resnet18", "did you mean 'timm:resnet18'"),
        ("huggingface:org/net", "did you mean 'hf:org/net'"),
        ("nets.py:", "no function"),
        ("nets.py:a-b", "'a-b' is no function"),
        ("dir/nets:make", "does not end in .py"),
        ("my nets:make", "MODULE:FUNCTION"),
        (":make", "MODULE:FUNCTION"),
    ],
)
def test_what_a_wrong_name_is_told(text: str, hint: str) -> None:
    with pytest.raises(ValueError, match="is not the name of a network") as caught:
        parse_network_name(text)
    assert hint in str(caught.value)


def test_the_names_are_those_that_can_be_built() -> None:
    assert tuple(BUILDERS) == MODEL_NAMES


def test_the_module_uses_no_torch() -> None:
    path = sys.modules[parse_network_name.__module__].__file__
    code = f"import runpy, sys; runpy.run_path({path!r}); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
