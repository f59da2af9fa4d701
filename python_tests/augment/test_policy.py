"""DeepAugment: which image gets which operations, what is random, and policies in YAML files."""

import copy
import json

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sign_ext.augment import (
    OPERATION_NAMES,
    Augment,
    DeepAugment,
    Operation,
    Policy,
    SubPolicy,
    load_policies,
    save_policies,
)
from sign_ext.augment.operations import UNIFORMS

NOTHING = SubPolicy(Operation("rotate", 0), Operation("cutout", 0))


def brighter(levels):
    """A sub-policy that adds or subtracts a number of grey levels, up to 40."""
    return SubPolicy(Operation("brightness", levels / 40), Operation("zoom", 0))


def policies_of(*names):
    """Sub-policies of these operations in turn, each with the next one."""
    pairs = [
        SubPolicy(Operation(name, 0.7), Operation(names[(i + 1) % len(names)], 0.4))
        for i, name in enumerate(names)
    ]
    assert len(pairs) % 5 == 0
    return tuple(Policy(tuple(pairs[i : i + 5])) for i in range(0, len(pairs), 5))


@pytest.fixture
def images(torch_rng):
    return torch.rand(40, 3, 9, 13, generator=torch_rng) * 500 - 120


def test_each_image_gets_the_two_operations_of_its_sub_policy(images):
    names = ("shear_x", "rotate", "contrast", "cutout", "zoom")
    names += ("sharpness", "translate_y", "solarize", "horizontal_flip", "saturation")
    augment = DeepAugment(policies_of(*names))
    got, _ = augment(images, torch.arange(40), torch.Generator().manual_seed(2))
    drawn, uniform = augment.draw(40, torch.Generator().manual_seed(2))
    assert set(drawn.tolist()) == set(range(10))
    for i in range(40):
        sub = augment.sub_policies[int(drawn[i])]
        unused = torch.Generator()
        numbers = uniform[i : i + 1]
        alone = sub.first(images[i : i + 1], numbers[:, :UNIFORMS], unused)
        alone = sub.second(alone, numbers[:, UNIFORMS:], unused)
        torch.testing.assert_close(got[i : i + 1], alone, atol=1e-2, rtol=0)


def test_sub_policies_of_all_policies_are_drawn_evenly():
    augment = DeepAugment(
        tuple(Policy(tuple(brighter(5 * p + i + 1) for i in range(5))) for p in range(3))
    )
    flat = torch.zeros(6000, 3, 1, 1)
    got, _ = augment(flat, torch.zeros(6000), torch.Generator().manual_seed(0))
    levels = got[:, 0, 0, 0].round().long()
    counts = torch.bincount(levels.abs(), minlength=16)
    assert counts[0] == 0
    assert counts[1:].tolist() == pytest.approx([400] * 15, abs=100)
    assert float((levels > 0).double().mean()) == pytest.approx(0.5, abs=0.03)


def test_signs_and_positions_do_not_depend_on_the_other_operations():
    def drawn(other):
        policy = Policy((brighter(8), brighter(16), brighter(24), brighter(32), other))
        return DeepAugment((policy,)).draw(30, torch.Generator().manual_seed(1))

    for one, two in zip(drawn(NOTHING), drawn(brighter(40)), strict=True):
        assert torch.equal(one, two)


def test_magnitude_0_is_bit_identical_and_labels_pass_through(images):
    augment = DeepAugment((Policy((NOTHING,) * 5),))
    for labels in (torch.arange(40), torch.rand(40, 7)):
        got, same = augment(images, labels, torch.Generator().manual_seed(0))
        assert torch.equal(got, images)
        assert got.data_ptr() != images.data_ptr()
        assert same is labels
    assert isinstance(augment, Augment)


def test_the_same_generator_state_gives_the_same_batch_and_inputs_are_unchanged(images):
    augment = DeepAugment(policies_of("noise", "rotate", "posterize", "cutout", "noise"))
    before, state = images.clone(), torch.random.get_rng_state()
    first, _ = augment(images, torch.arange(40), torch.Generator().manual_seed(5))
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(0)
    again, _ = augment(images, torch.arange(40), torch.Generator().manual_seed(5))
    other, _ = augment(images, torch.arange(40), torch.Generator().manual_seed(6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(images, before)
    assert first.dtype == torch.float32


@pytest.mark.parametrize("count", [0, 1])
def test_small_batches(count):
    augment = DeepAugment(policies_of("noise", "rotate", "zoom", "sharpness", "contrast"))
    got, _ = augment(torch.rand(count, 3, 5, 4), torch.arange(count), torch.Generator())
    assert got.shape == (count, 3, 5, 4)


def test_channels_last_images(images):
    augment = DeepAugment(policies_of("shear_y", "rotate", "zoom", "sharpness", "noise"))
    last = images.contiguous(memory_format=torch.channels_last)
    got, _ = augment(last, torch.arange(40), torch.Generator().manual_seed(0))
    wanted, _ = augment(images, torch.arange(40), torch.Generator().manual_seed(0))
    torch.testing.assert_close(got, wanted, atol=1e-3, rtol=0)


def test_a_run_records_every_operation():
    from sign_ext.training.run_folder import describe_part

    first, second = policies_of("noise", "rotate", "zoom", "sharpness", "contrast", *["zoom"] * 5)
    recorded = describe_part(DeepAugment((first, second)))
    assert json.loads(json.dumps(recorded)) == recorded
    operation = recorded["policies"]["0"]["sub_policies"]["1"]["second"]
    assert operation == {"class": "Operation", "name": "zoom", "magnitude": 0.4}
    assert recorded != describe_part(DeepAugment((second, first)))


def test_anything_but_a_policy_is_refused():
    five = (NOTHING,) * 5
    with pytest.raises(ValueError, match="holds 4; accepted: exactly 5"):
        Policy(five[:4])
    with pytest.raises(TypeError, match=r"sub_policies\[2\] must be a SubPolicy; got Operation"):
        Policy((NOTHING, NOTHING, NOTHING.first, NOTHING, NOTHING))
    with pytest.raises(TypeError, match="second must be an Operation; got 'rotate'"):
        SubPolicy(NOTHING.first, "rotate")
    with pytest.raises(ValueError, match="policies is empty"):
        DeepAugment(())
    with pytest.raises(TypeError, match=r"policies\[0\] must be a Policy"):
        DeepAugment(five)


ANY_OPERATION = st.builds(Operation, st.sampled_from(OPERATION_NAMES), st.floats(0, 1))
ANY_SUB_POLICY = st.builds(SubPolicy, ANY_OPERATION, ANY_OPERATION)
ANY_POLICY = st.builds(Policy, st.tuples(*[ANY_SUB_POLICY] * 5))
PAIR = {
    "first": {"name": "rotate", "magnitude": 0.25},
    "second": {"name": "cutout", "magnitude": 1},
}


@settings(
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(policies=st.lists(ANY_POLICY, min_size=1, max_size=2))
def test_saved_policies_load_bit_identical(policies, tmp_path):
    path = tmp_path / "new" / "policies.yaml"
    save_policies(path, policies)
    assert load_policies(path) == tuple(policies)
    assert [file.name for file in path.parent.iterdir()] == ["policies.yaml"]


def test_a_file_written_by_hand(tmp_path):
    path = tmp_path / "policies.yaml"
    path.write_text(yaml.safe_dump({"policies": [{"sub_policies": [PAIR] * 5}]}))
    (policy,) = load_policies(path)
    wanted = SubPolicy(Operation("rotate", 0.25), Operation("cutout", 1.0))
    assert policy == Policy((wanted,) * 5)


def broken(*where, value):
    """The content of a file of two policies, with one entry replaced."""
    content = copy.deepcopy({"policies": [{"sub_policies": [PAIR] * 5}] * 2})
    content = yaml.safe_load(yaml.dump(content, Dumper=_NoAliases))
    inner = content
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    return content


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data):
        return True


SUB = ("policies", 1, "sub_policies", 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (broken(*SUB, "first", "name", value="rotat"), r"\[1\].sub_policies\[3\].first.name.*'rot"),
        (broken(*SUB, "second", "magnitude", value=2), r"\[3\].second.magnitude is 2; accepted"),
        (broken(*SUB, "second", "magnitude", value="much"), r"second.magnitude is 'much'"),
        (broken(*SUB, "second", value={"name": "rotate"}), r"\[3\].second must be a mapping.*name"),
        (broken(*SUB, "third", value=1), r"\[3\] must be a mapping with first and second.*third"),
        (broken(*SUB, value=None), r"policies\[1\].sub_policies\[3\] must be a mapping.*None"),
        (
            broken("policies", 0, "sub_policies", value=[PAIR] * 4),
            r"policies\[0\].sub_policies holds 4",
        ),
        (broken("policies", 0, "sub_policies", value=7), r"sub_policies must be a list.*7"),
        (broken("policies", value=[]), "policies must be a list with at least one entry"),
        (broken("scores", value=[]), "the file must be a mapping with policies"),
        ("just text", "the file must be a mapping.*'just text'"),
        (None, "the file must be a mapping.*None"),
    ],
)
def test_a_wrong_entry_is_named(content, message, tmp_path):
    path = tmp_path / "policies.yaml"
    path.write_text("" if content is None else yaml.safe_dump(content))
    with pytest.raises(ValueError, match=message) as caught:
        load_policies(path)
    assert str(path) in str(caught.value)


def test_other_files_and_empty_lists_are_refused(tmp_path):
    path = tmp_path / "policies.yaml"
    for text in ("a: [", "!!python/object/apply:os.getcwd []"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"policies.yaml is not a YAML file"):
            load_policies(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"policies.yaml is not a YAML file"):
        load_policies(path)
    with pytest.raises(FileNotFoundError):
        load_policies(tmp_path / "nothing.yaml")
    with pytest.raises(ValueError, match="policies is empty"):
        save_policies(tmp_path / "empty.yaml", [])
    assert not (tmp_path / "empty.yaml").exists()


@pytest.mark.gpu
def test_generator_on_the_cpu_gives_the_same_images_on_the_gpu(images):
    augment = DeepAugment(policies_of("noise", "rotate", "contrast", "cutout", "sharpness"))
    labels = torch.arange(40)
    on_cpu, _ = augment(images, labels, torch.Generator().manual_seed(1))
    on_gpu, _ = augment(images.cuda(), labels.cuda(), torch.Generator().manual_seed(1))
    assert on_gpu.is_cuda
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, atol=2e-2, rtol=0)
    generator = torch.Generator("cuda").manual_seed(1)
    assert augment(images.cuda(), labels.cuda(), generator)[0].shape == images.shape
