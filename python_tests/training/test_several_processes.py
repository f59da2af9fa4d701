"""Several processes train what one trains, agree about every error, and leave nothing behind.

Two launches of real processes serve all tests here but two, which have their own;
`several_processes` is what they run.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import several_processes
import torch
from safetensors.torch import load_file

import sign_ext

COUNT = 2


def launch(scene, folder):
    """Run a scene in two processes; return how the launcher ended."""
    root = str(Path(sign_ext.__path__[0]).parent)
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={COUNT}", several_processes.__file__, scene, str(folder)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Both launches' folder: the first is killed in a run, the second does all the rest."""
    folder = tmp_path_factory.mktemp("processes")
    ended = launch("killed", folder)
    assert ended.returncode != 0, ended.stdout
    assert f"Signal {int(signal.SIGKILL)}" in ended.stderr, ended.stderr
    assert not (folder / "killed" / "model.safetensors").exists()
    ended = launch("everything", folder)
    assert ended.returncode == 0, ended.stderr
    for chatter in ("find_unused_parameters", "distributed_backend"):
        assert chatter not in ended.stdout + ended.stderr
    return folder


@pytest.fixture(scope="module")
def found(folder):
    """What each process found."""
    return [json.loads((folder / f"found.{rank}.json").read_text()) for rank in range(COUNT)]


@pytest.fixture(scope="module")
def weights(folder):
    """Return a reader of a run's weights, of each process."""
    return lambda name: [load_file(folder / f"{name}.{rank}.safetensors") for rank in range(COUNT)]


def assert_same(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_two_processes_train_plainly_what_one_trains(tmp_path):
    ended = launch("plain", tmp_path)
    assert ended.returncode == 0, ended.stderr
    model, _ = several_processes.run_alike("plain")
    first, second = [load_file(tmp_path / f"plain.{rank}.safetensors") for rank in range(COUNT)]
    assert_same(first, second)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(first[key], value, rtol=1e-3, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", several_processes.ALIKE)
def test_two_processes_train_what_one_trains(found, weights, name):
    model, wanted = several_processes.run_alike(name)
    first, second = weights(name)
    assert_same(first, second)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(first[key], value, rtol=1e-3, atol=2e-5)
    got, other = (each[name] for each in found)
    assert got == other
    assert (got["best_epoch"], got["steps"]) == (wanted.best_epoch, wanted.steps)
    for a, b in zip(got["history"], wanted.history, strict=True):
        assert a == pytest.approx(b, rel=1e-5)


@pytest.mark.slow
def test_a_parameter_without_gradient_is_left_alone_by_weight_decay(weights):
    before = several_processes.partly_used_net().state_dict()
    after = weights("partly_used")[0]
    assert torch.equal(after["unused.weight"], before["unused.weight"])
    assert not torch.equal(after["used.weight"], before["used.weight"])


@pytest.mark.slow
def test_killed_and_resumed_is_the_run_that_was_not(found, weights):
    whole, resumed = weights("whole"), weights("resumed")
    for rank in range(COUNT):
        assert_same(whole[0], whole[rank])
        assert_same(whole[0], resumed[rank])
        assert found[rank]["resumed"]["history"] == found[0]["whole"]["history"]
        assert found[rank]["again"] == found[0]["resumed"]
    assert len(found[0]["whole"]["history"]) == 3


@pytest.mark.slow
def test_the_kept_weights_have_the_accuracy_and_loss_that_were_measured(found, weights):
    # Each process measures its part, with the running statistics of the first.
    model, best = several_processes.usual_net().eval(), found[0]["whole"]
    model.load_state_dict(weights("whole")[0])
    images = several_processes.image_set(31, 1)
    with torch.no_grad():
        log_p = model(images.float()).double().log_softmax(dim=1)
    row = best["history"][best["best_epoch"] - 1]
    right = (log_p.argmax(dim=1) == images.labels).double().mean()
    assert row["validation_accuracy"] == best["best_validation_accuracy"] == float(right)
    loss = -log_p[torch.arange(31), images.labels].mean()
    assert row["validation_loss"] == pytest.approx(float(loss), rel=1e-5)


@pytest.mark.slow
def test_the_model_comes_back_in_its_own_form(found):
    wanted = [type(m).__name__ for m in several_processes.usual_net().modules()]
    for each in found:
        assert each["form"] == wanted
        assert all(each["training"])


@pytest.mark.slow
def test_masks_and_statistics_are_not_those_of_one_process(weights):
    alone, _ = several_processes.usual_run()
    both = weights("whole")[0]
    assert not torch.allclose(both["6.weight"], alone.state_dict()["6.weight"], atol=1e-4)


@pytest.mark.slow
def test_only_the_first_process_writes_and_shows(folder, found):
    assert (folder / "out.0" / "model.safetensors").is_file()
    assert not (folder / "out.1").exists()
    assert len(list((folder / "out.0" / "tensorboard").iterdir())) == 1
    assert found[0]["steps seen"] == list(range(11))
    assert found[1]["steps seen"] == []
    config = json.loads((folder / "out.0" / "model.json").read_text())
    assert config["train"]["processes"] == COUNT


@pytest.mark.slow
def test_another_number_of_processes_resumes_unless_it_changes_what_is_computed(folder, tmp_path):
    state = "last.safetensors"
    (tmp_path / state).write_bytes((folder / "out.0" / state).read_bytes())
    with pytest.warns(UserWarning, match="processes: 2 in the folder, 1 now"):
        several_processes.run_alike("plain", out=tmp_path, resume=True)
    statistics = r"batch_statistics: of each of 2 processes in the folder, nothing now"
    with pytest.raises(ValueError, match=statistics):
        several_processes.usual_run(folder / "killed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("taken", "FileExistsError", "already holds a training run"),
        ("differ", "ValueError", "settings.optimizer: adam in process 0, sgd in process 1"),
        ("one's own", "ValueError", "train_set (spoilt) holds images with NaN"),
        ("other images", "ValueError", "train_set.sha256"),
        ("diverged", "TrainingDivergedError", "NaN or Inf in epoch 1 at gradient step"),
    ],
)
def test_every_process_raises_the_error(found, name, kind, says):
    for each in found:
        error, message, everywhere, _ = each[name]
        assert (error, says in message, everywhere) == (kind, True, True), message
    assert found[0][name][1] == found[1][name][1] or name == "differ"


@pytest.mark.slow
def test_an_error_that_cannot_travel_is_quoted(found):
    quoted, own = (each["awkward"] for each in found)
    assert own[:3] == ["AwkwardError", "7: not today", True]
    assert quoted == [
        "RuntimeError", "AwkwardError: 7: not today", True, ["Raised by process 1 of 2."]
    ]  # fmt: skip


@pytest.mark.slow
def test_no_thread_of_gloo_outlives_an_error_that_nobody_catches(tmp_path):
    ended = launch("uncaught", tmp_path)
    assert ended.returncode != 0
    assert "TrainingDivergedError" in ended.stderr
    assert "terminate called" not in ended.stderr
    # The launcher may end one of them before it has written.
    listed = [json.loads(path.read_text()) for path in tmp_path.glob("threads.*.json")]
    assert listed
    assert not [name for threads in listed for name in threads if "gloo" in name]


@pytest.mark.slow
def test_no_thread_of_gloo_outlives_the_process_group(folder, found):
    # Such a thread aborts the process if it needs the GIL while the interpreter ends. Errors have
    # been raised on the way, whose frames hold what holds the group.
    assert "AwkwardError" in found[1]["awkward"][0]
    for rank in range(COUNT):
        threads = json.loads((folder / f"threads.{rank}.json").read_text())
        assert not [name for name in threads if "gloo" in name]


@pytest.mark.slow
def test_a_model_that_cannot_be_compiled_whole_is_an_error_here_too(found):
    assert all("item" in each["not compiled"][1] for each in found)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused(found):
    assert all("sees no CUDA device" in each["not here"][1] for each in found)


@pytest.mark.slow
def test_the_command_prints_once(folder, found):
    (done, taken), (silently_done, silently_taken) = (each["cli"] for each in found)
    assert done[0] == silently_done[0] == 0
    assert json.loads(done[1])["checkpoint"] == str(folder / "cli" / "model.safetensors")
    assert "in 2 processes" in done[2]
    assert "already holds a training run" in taken[2]
    assert taken[0] == silently_taken[0] == 1
    assert silently_done[1:] == silently_taken[1:] == ["", ""]
