"""train(): it learns, it is a function of its inputs, and it leaves everything else alone."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

import sign_ext
import sign_ext.training.loop as loop
from sign_ext.augment import Classical
from sign_ext.data import ImageSet
from sign_ext.evaluation import predict, roc_auc
from sign_ext.training import TrainSettings, load_checkpoint, train
from sign_ext.training.epoch import TrainingDivergedError

SHORT = TrainSettings(epochs=2, batch_size=16)


def test_a_small_network_learns_64_random_labels_by_heart(make_net, make_set):
    images = make_set(64)
    settings = TrainSettings(epochs=60, batch_size=16, learning_rate=1e-2)
    result = train(make_net(dropout=0.0, width=16), images, images, settings)
    assert result.history[0]["validation_accuracy"] < 0.9
    assert result.best_validation_accuracy == 1.0
    assert result.history[-1]["train_loss"] < 0.05


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_equal_calls_give_equal_bits_and_another_seed_does_not(
    make_net, make_set, same_weights, optimizer
):
    def run(seed):
        model = make_net()
        settings = replace(SHORT, seed=seed, optimizer=optimizer)
        torch.manual_seed(seed + 1000)  # the caller's generator has no effect
        torch.rand(seed + 1)
        result = train(model, make_set(), make_set(30, 1), settings, augment=Classical())
        return model, result.history

    (a, first), (b, second), (c, third) = run(0), run(0), run(1)
    assert same_weights(a, b)
    assert first == second
    assert not same_weights(a, c)
    assert first != third


def test_dropout_and_augmentation_take_part(make_net, make_set, same_weights):
    def run(dropout, augment):
        model = make_net(dropout=dropout)
        train(model, make_set(), make_set(30, 1), SHORT, augment=augment)
        return model

    plain, dropped, augmented = run(0.0, None), run(0.5, None), run(0.0, Classical())
    assert not same_weights(plain, dropped)
    assert not same_weights(plain, augmented)


def test_the_callers_generators_flags_and_switches_are_as_before(make_net, make_set):
    model = make_net()
    model.eval()
    model[2].train()
    flags = [m.training for m in model.modules()]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    with torch.no_grad():
        train(model, make_set(), make_set(30, 1), SHORT)
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in model.modules()] == flags
    assert all(p.grad is None and p.is_contiguous() for p in model.parameters())
    assert all(p.requires_grad for p in model.parameters())


def test_flags_and_layout_are_put_back_after_an_error_too(make_net, make_set):
    model = make_net().eval()

    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(model, make_set(), make_set(30, 1), SHORT, progress=stop)
    assert not any(m.training for m in model.modules())
    assert all(p.grad is None and p.is_contiguous() for p in model.parameters())


def test_frozen_parameters_stay(make_net, make_set):
    model = make_net()
    model[1].requires_grad_(False)
    frozen, free = model[1].weight.clone(), model[7].weight.clone()
    train(model, make_set(), make_set(30, 1), SHORT)
    assert torch.equal(model[1].weight, frozen)
    assert not torch.equal(model[7].weight, free)
    assert not model[1].weight.requires_grad


def test_the_best_epoch_is_kept_and_the_earlier_of_equals(
    make_net, make_set, monkeypatch, same_weights
):
    accuracies, snapshots = iter([0.25, 0.5, 0.5, 0.125]), []

    def scripted(model, data, objective, processes):
        snapshots.append({name: t.clone() for name, t in model.state_dict().items()})
        return 1.0, next(accuracies)

    monkeypatch.setattr(loop, "validate", scripted)
    model = make_net()
    result = train(model, make_set(), make_set(30, 1), replace(SHORT, epochs=4))
    assert result.best_epoch == 2
    assert result.best_validation_accuracy == 0.5
    kept = make_net()
    kept.load_state_dict(snapshots[1])
    assert same_weights(model, kept)


def test_best_accuracy_is_what_the_returned_model_has(make_net, make_set):
    model, validation = make_net(), make_set(45, 1)
    result = train(model, make_set(), validation, replace(SHORT, epochs=5))
    with torch.no_grad():
        hits = model.eval()(validation.float()).argmax(1) == validation.labels
    assert result.best_validation_accuracy == pytest.approx(float(hits.double().mean()))


def test_selecting_by_auc_keeps_the_checkpoint_that_ranks_best(make_net, make_set, tmp_path):
    def two_classes(n, seed):
        drawn = make_set(n, seed)
        labels = (torch.arange(n) % 5 == 0).long()  # a fifth is positive, and a little brighter
        images = (drawn.images * 0.9 + 25 * labels[:, None, None, None]).to(torch.uint8)
        return ImageSet(images, labels, ("benign", "malign"), drawn.name)

    model, validation = make_net(classes=2), two_classes(60, 1)
    settings = replace(SHORT, epochs=4, select="auc", checkpoints=7)
    result = train(model, two_classes(50, 0), validation, settings, out=tmp_path)
    areas = [row["validation_auc"] for row in result.history]
    assert len(areas) == 7
    assert result.best_epoch == 1 + areas.index(max(areas))
    best = result.history[result.best_epoch - 1]
    assert result.best_validation_accuracy == best["validation_accuracy"]
    assert roc_auc(predict(model, validation.images), validation.labels) == pytest.approx(
        max(areas), abs=1e-6
    )
    with pytest.raises(ValueError, match=r"with 3 classes.*Use select=\"accuracy\""):
        train(make_net(), make_set(), make_set(30, 1), settings)
    benign = two_classes(4, 1).subset([1, 2])
    with pytest.raises(ValueError, match=r"validation labels \[0\].*Use select=\"accuracy\""):
        train(make_net(classes=2), two_classes(50, 0), benign, settings)
    with pytest.raises(ValueError, match="select must be one of accuracy, auc"):
        TrainSettings(select="loss")


@pytest.mark.parametrize(
    ("cap", "rows"), [(3, [3]), (4, [4]), (6, [4, 6]), (8, [4, 8]), (100, [4, 8])]
)
def test_max_steps_stops_inside_an_epoch_and_validates_there(make_net, make_set, cap, rows):
    steps_seen = []
    settings = TrainSettings(epochs=2, batch_size=16, max_steps=cap)
    result = train(
        make_net(),
        make_set(64),
        make_set(30, 1),
        settings,
        progress=lambda *p: steps_seen.append(p),
    )
    assert [row["steps"] for row in result.history] == rows
    assert [row["epoch"] for row in result.history] == list(range(1, len(rows) + 1))
    assert result.steps == rows[-1]
    assert steps_seen == [(done, rows[-1]) for done in range(rows[-1] + 1)]


@pytest.mark.parametrize(
    ("images", "checkpoints", "rows"),
    [(64, 3, [2, 5, 8]), (64, 1, [8]), (64, 8, list(range(1, 9))), (64, 50, list(range(1, 9)))],
)
def test_checkpoints_are_evenly_spaced_over_the_steps(
    make_net, make_set, images, checkpoints, rows
):
    settings = TrainSettings(epochs=2, batch_size=16, checkpoints=checkpoints)
    result = train(make_net(), make_set(images), make_set(30, 1), settings)
    assert [row["steps"] for row in result.history] == rows
    # As many for a set three times as large.
    larger = train(make_net(), make_set(3 * images), make_set(30, 1), settings)
    assert len(larger.history) == min(checkpoints, 24)
    assert larger.history[-1]["steps"] == 24


def test_checkpoints_do_not_change_what_is_learnt(make_net, make_set, same_weights):
    # Without dropout and augmentation, only the order of the images is drawn.
    sets = make_set(64), make_set(30, 1)
    nets = [make_net(dropout=0.0) for _ in range(2)]
    settings = TrainSettings(epochs=2, batch_size=16, learning_rate=1e-4)
    for net, checkpoints in zip(nets, (None, 2), strict=True):
        train(net, *sets, replace(settings, checkpoints=checkpoints))
    assert same_weights(*nets)
    whole = train(make_net(dropout=0.0), *sets, settings)
    parts = train(make_net(dropout=0.0), *sets, replace(settings, checkpoints=5))
    assert [row["steps"] for row in parts.history] == [1, 3, 4, 6, 8]
    ends = [(r["steps"], r["validation_loss"]) for r in whole.history]
    assert ends == [
        (r["steps"], r["validation_loss"]) for r in parts.history if r["steps"] % 4 == 0
    ]


def test_uint8_and_float32_images_train_alike(make_net, make_set, same_weights):
    a, b = make_net(), make_net()
    train(a, make_set(), make_set(30, 1), SHORT, augment=Classical())
    floats = [make_set(dtype=torch.float32), make_set(30, 1, dtype=torch.float32)]
    train(b, *floats, SHORT, augment=Classical())
    assert same_weights(a, b)


def test_bfloat16_trains_float32_weights_near_the_float32_run(make_net, make_set, same_weights):
    exact, low = make_net(dropout=0.0), make_net(dropout=0.0)
    first = train(exact, make_set(), make_set(30, 1), SHORT)
    second = train(low, make_set(), make_set(30, 1), replace(SHORT, precision="bfloat16"))
    assert all(p.dtype == torch.float32 for p in low.parameters())
    assert not same_weights(exact, low)
    pairs = zip(first.history, second.history, strict=True)
    assert all(b["train_loss"] == pytest.approx(a["train_loss"], rel=0.05) for a, b in pairs)


def test_cosine_schedule_changes_the_run(make_net, make_set, same_weights):
    a, b = make_net(), make_net()
    train(a, make_set(), make_set(30, 1), SHORT)
    train(b, make_set(), make_set(30, 1), replace(SHORT, schedule="cosine"))
    assert not same_weights(a, b)


def test_divergence_names_where_and_keeps_the_last_good_epoch(make_net, make_set, tmp_path):
    poisoned = []

    def poison(images, labels, generator):
        poisoned.append(1)
        return images * (torch.inf if len(poisoned) > 4 else 1.0), labels

    with pytest.raises(TrainingDivergedError, match="epoch 2 at gradient step 5"):
        train(make_net(), make_set(64), make_set(30, 1), SHORT, augment=poison, out=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.safetensors", "tensorboard"]


def test_out_holds_checkpoint_state_and_scalars(make_set, tmp_path, same_weights):
    from sign_ext.models import build_model

    spec = {"name": "basic_cnn", "num_classes": 3, "image_shape": [3, 16, 16]}
    torch.manual_seed(0)
    model = build_model("basic_cnn", num_classes=3, image_shape=(3, 16, 16))
    out = tmp_path / "deep" / "run"
    sets = make_set(20, side=16), make_set(10, 1, side=16)
    config = {"model": {**spec, "options": {}}, "data": {"name": "random"}}
    result = train(model, *sets, SHORT, out=out, config=config)
    names = ["last.safetensors", "model.json", "model.safetensors", "tensorboard"]
    assert sorted(p.name for p in out.iterdir()) == names
    loaded, stored = load_checkpoint(out)
    assert same_weights(loaded, model)
    assert stored["data"] == {"name": "random"}
    assert stored["class_names"] == ["a", "b", "c"]
    assert stored["train"]["settings"] == SHORT.to_dict()
    assert stored["train"]["best_epoch"] == result.best_epoch
    assert stored["versions"]["sign_ext"] == sign_ext.__version__
    assert stored["versions"]["torch"] == torch.__version__
    json.dumps(result.to_dict(), allow_nan=False)


def test_scalars_are_the_history(make_net, make_set, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = train(make_net(), make_set(), make_set(30, 1), SHORT, out=tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for tag in ("train/loss", "train/accuracy", "validation/loss", "validation/accuracy"):
        got = [(event.step, event.value) for event in events.Scalars(tag)]
        key = tag.replace("/", "_")
        wanted = [(row["steps"], row[key]) for row in result.history]
        assert got == [(step, pytest.approx(value, rel=1e-6)) for step, value in wanted]
    rates = [event.value for event in events.Scalars("train/learning_rate")]
    assert rates == pytest.approx([1e-3, 1e-3])


def test_without_out_nothing_is_written(make_net, make_set, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(make_net(), make_set(), make_set(30, 1), SHORT)
    assert list(tmp_path.iterdir()) == []


def test_progress_true_draws_a_bar_and_other_things_are_refused(make_net, make_set, capfd):
    train(make_net(), make_set(), make_set(30, 1), SHORT, progress=True)
    assert capfd.readouterr().out == ""
    with pytest.raises(TypeError, match="progress"):
        train(make_net(), make_set(), make_set(30, 1), SHORT, progress="yes")


def test_what_does_not_fit_together_is_named_before_training(make_net, make_set):
    images, validation = make_set(), make_set(30, 1)

    def fails(match, *, model=None, a=images, b=validation, error=ValueError, **options):
        with pytest.raises(error, match=match):
            train(model or make_net(), a, b, SHORT, **options)

    fails("train_set .*empty", a=make_set(0))
    fails("validation .*empty", b=make_set(0))
    fails(r"\(3, 10, 10\), validation \(3, 8, 8\)", b=make_set(5, side=8))
    renamed = ImageSet(validation.images, validation.labels, ("x", "y", "z"), "renamed")
    fails("different classes", b=renamed)
    broken = make_set(5, dtype=torch.float32)
    broken.images[0, 0, 0, 0] = torch.nan
    fails("train_set .*NaN", a=broken)
    fails("num_classes=3", model=nn.Sequential(nn.Flatten(), nn.Linear(300, 4)))
    fails("requires_grad", model=make_net().requires_grad_(False))
    fails("float64.*model.float", model=make_net().double())
    fails("device must be", device="gpu")
    fails("device must be", device="meta")
    fails("give out=FOLDER", resume=True)
    if not torch.cuda.is_available():
        fails("no CUDA device", device="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_training_on_the_gpu_follows_the_cpu(make_net, make_set, precision, tmp_path):
    sets = make_set(200), make_set(60, 1)
    settings = TrainSettings(epochs=3, batch_size=32, precision=precision)
    on_cpu, on_gpu = make_net(dropout=0.0), make_net(dropout=0.0)
    wanted = train(on_cpu, *sets, replace(settings, precision="float32"), augment=Classical())
    state = torch.cuda.get_rng_state()
    got = train(on_gpu, *sets, settings, augment=Classical(), device="cuda", out=tmp_path)
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert next(on_gpu.parameters()).is_cuda
    bound = {"float32": 1e-3, "tf32": 1e-2, "bfloat16": 5e-2}[precision]
    pairs = zip(wanted.history, got.history, strict=True)
    assert all(b["train_loss"] == pytest.approx(a["train_loss"], rel=bound) for a, b in pairs)
    pytest.importorskip("pydantic")  # to read the state back
    again = train(
        make_net(), *sets, settings, augment=Classical(), device="cuda", out=tmp_path, resume=True
    )
    assert again == got
