"""The workflows and the hooks call commands that exist, with no more rights than they need."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def lines_of(recipe: str) -> list[str]:
    """The commands of a target of the Makefile."""
    body = re.search(rf"^{recipe}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert body is not None, f"the Makefile has no target {recipe}"
    return [line.strip("\t@\n") for line in body[1].splitlines()]


@pytest.mark.parametrize("file", WORKFLOWS, ids=[file.stem for file in WORKFLOWS])
def test_a_workflow_calls_targets_that_exist_and_may_only_read(file):
    workflow = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        steps = job.get("steps", [])
        for step in steps:
            for target in re.findall(r"^make ([a-z-]+)", step.get("run", ""), re.M):
                lines_of(target)
            # The token that a checkout leaves behind would be the build's to use.
            if "checkout@" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False, name
        if steps:
            assert job["timeout-minutes"] <= 120, name
        # Who may write or sign must not run what a change could have replaced.
        if "permissions" in job:
            assert not any("make " in step.get("run", "") for step in steps), name


def test_there_are_workflows_for_tests_wheels_documentation_and_release():
    assert {file.stem for file in WORKFLOWS} == {"docs", "release", "tests", "wheels"}


def test_publishing_needs_no_secret():
    for file in WORKFLOWS:
        assert "secrets." not in file.read_text(encoding="utf-8"), file.name


def test_the_hooks_call_the_commands_of_make_lint():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    entries = [hook["entry"] for repo in config["repos"] for hook in repo["hooks"]]
    linted = [line.replace("$(VENV)", ".venv/bin") for line in lines_of("lint")]
    commands = [line for line in linted if line.startswith(".venv/bin/")]
    assert len(entries) == len(commands)
    for command in commands:
        # A hook gets the changed files in place of all, and repairs what it can.
        words = command.split()
        tool = [word for word in words if not word.startswith(("-", "$")) and word != "."]
        assert any(entry.split()[: len(tool)] == tool for entry in entries), command


def test_every_hook_runs_for_some_file_of_the_project():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    files = [
        path.relative_to(ROOT).as_posix()
        for folder in ("sign_ext", "csrc", "tools")
        for path in (ROOT / folder).rglob("*.*")
    ]
    for hook in config["repos"][0]["hooks"]:
        if "files" in hook:
            assert any(re.search(hook["files"], file) for file in files), hook["id"]
