"""Policies in YAML: what is written is read again, and what is wrong is named."""

import copy

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sign_ext.augment import (
    OPERATION_NAMES,
    Operation,
    Policy,
    SubPolicy,
    load_policies,
    save_policies,
)

OPERATIONS = st.builds(Operation, st.sampled_from(OPERATION_NAMES), st.floats(0, 1))
SUB_POLICIES = st.builds(SubPolicy, OPERATIONS, OPERATIONS)
POLICIES = st.builds(Policy, st.tuples(*[SUB_POLICIES] * 5))
PAIR = {
    "first": {"name": "rotate", "magnitude": 0.25},
    "second": {"name": "cutout", "magnitude": 1},
}


@settings(
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(policies=st.lists(POLICIES, min_size=1, max_size=2))
def test_what_is_written_is_read_again_to_the_last_bit(policies, tmp_path):
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
    ("content", "says"),
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
def test_a_wrong_entry_is_named(content, says, tmp_path):
    path = tmp_path / "policies.yaml"
    path.write_text("" if content is None else yaml.safe_dump(content))
    with pytest.raises(ValueError, match=says) as caught:
        load_policies(path)
    assert str(path) in str(caught.value)


def test_no_yaml_no_objects_no_file_and_no_policies(tmp_path):
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
