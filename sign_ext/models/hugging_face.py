"""Image classifiers of transformers, from a folder that `save_pretrained` wrote.

Code that a folder or a hub repository brings along is never run. transformers is imported only
where a network is built.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sign_ext.files import read_json
from sign_ext.models.network_name import closest

# Keys of a config.json that make transformers fetch code or change how weights are stored.
_UNSAFE = (
    "auto_map",
    "attn_implementation",
    "experts_implementation",
    "quantization_config",
    "use_kernels",
    "use_pretrained_backbone",
)


class HuggingFaceNetwork(nn.Module):
    """An image classifier of transformers that returns its logits alone.

    Args:
        model: takes ``pixel_values`` (N, C, H, W) and returns an output with ``logits`` (N, C).
    """

    def __init__(self, model: nn.Module) -> None:
        """Keep the model as the submodule ``model``."""
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, num_classes) of preprocessed images (N, C, H, W)."""
        return self.model(pixel_values=images).logits  # type: ignore[no-any-return]


def folder_of(name: str) -> Path:
    """Find the folder of a network: the path of one, or the id of one in the hub's local cache.

    Raises:
        ValueError: there is no such folder, or it holds no config.json.
    """
    folder = Path(name)
    if folder.is_dir():
        if (folder / "config.json").is_file():
            return folder
        raise ValueError(
            f"hf:{name}: the folder holds no config.json; accepted: a folder that save_pretrained "
            "of transformers wrote."
        )
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) and (cached := _cached(name)) is not None:
        return cached
    raise ValueError(
        f"hf:{name}: there is no such folder, and no network of that name in the local cache of "
        "the Hugging Face hub; accepted: a folder that save_pretrained wrote. To download one: "
        f"`hf download {name}`."
    )


def _cached(name: str) -> Path | None:
    try:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(name, "config.json")
    except (ImportError, ValueError):  # its HFValidationError is a ValueError
        return None
    return Path(found).parent if isinstance(found, str) else None


def read_config(folder: Path) -> dict[str, Any]:
    """Read a folder's config.json, without what would make transformers run code from elsewhere.

    Raises:
        ValueError: it is not the configuration of a network.
    """
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ValueError(
            f"{folder / 'config.json'} has no model_type: it is not of a network of transformers."
        )
    return without_code(config)


def without_code(value: Any) -> Any:
    """Return a configuration without the keys that name code or another storage of weights."""
    if isinstance(value, Mapping):
        return {
            key: without_code(inner)
            for key, inner in value.items()
            if not str(key).strip("_").removesuffix("_internal").endswith(_UNSAFE)
        }
    return [without_code(each) for each in value] if isinstance(value, list) else value


def read_preprocessor(folder: Path) -> dict[str, Any]:
    """Read a folder's preprocessor_config.json; empty if it has none."""
    path = folder / "preprocessor_config.json"
    content = read_json(path) if path.exists() else {}
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a JSON object.")
    return content


def normalization(
    preprocessor: Mapping[str, Any], channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return mean and std in pixel units 0–255 of what a preprocessor does to pixel values.

    It computes (x · rescale_factor − mean) / std; either part may be switched off.
    """
    if not preprocessor:
        return None
    scale = 1 / 255
    factor = preprocessor.get("rescale_factor", scale) if preprocessor.get("do_rescale", 1) else 1
    # It is written rounded, as 0.00392156862745098.
    factor = scale if abs(factor - scale) < 1e-6 else factor
    mean, std = preprocessor.get("image_mean"), preprocessor.get("image_std")
    if not preprocessor.get("do_normalize", mean is not None):
        mean, std = 0.0, 1.0
    if mean is None or std is None:
        return None
    means, stds = (
        [float(each)] * channels if isinstance(each, int | float) else [*map(float, each)]
        for each in (mean, std)
    )
    return tuple(each / factor for each in means), tuple(each / factor for each in stds)


def image_side(
    preprocessor: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[int, int] | None:
    """Return the height and width of the images that a network was made for."""
    sizes = [preprocessor.get("size"), config.get("image_size")]
    if preprocessor.get("do_center_crop"):
        sizes.insert(0, preprocessor.get("crop_size"))
    for size in sizes:
        if isinstance(size, Mapping):
            edge = size.get("shortest_edge")
            size = [size.get("height", edge), size.get("width", edge)]
        sides = [size, size] if isinstance(size, int) else size
        if isinstance(sides, list) and len(sides) == 2 and all(isinstance(s, int) for s in sides):
            return sides[0], sides[1]
    return None


def count_classes(config: Mapping[str, Any]) -> int | None:
    """Return the number of classes that a configuration states."""
    labels = config.get("id2label")
    if isinstance(labels, Mapping) and labels:
        return len(labels)
    count = config.get("num_labels")
    return count if isinstance(count, int) else None


def class_names(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the names of the classes that a configuration states, None for LABEL_0, LABEL_1, …."""
    labels = config.get("id2label")
    if not isinstance(labels, Mapping):
        return None
    found = [labels.get(str(i), labels.get(i)) for i in range(len(labels))]
    if any(not isinstance(each, str) or re.fullmatch(r"LABEL_\d+", each) for each in found):
        return None
    return tuple(found)  # type: ignore[arg-type]


def build(
    config: Mapping[str, Any],
    num_classes: int | None,
    side: tuple[int, int] | None,
    options: Mapping[str, Any],
) -> tuple[HuggingFaceNetwork, dict[str, Any]]:
    """Build a network with new weights from its configuration.

    Args:
        config: of `read_config`, or recorded in a checkpoint.
        num_classes: instead of the configuration's.
        side: height and width of the images, for the networks whose layers depend on it.
        options: further entries of the configuration.

    Returns:
        The network, and the configuration that rebuilds it, as plain JSON.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        ValueError: transformers does not know the network, or has no classifier of this kind.
    """
    transformers = _transformers()
    made = _config(config, num_classes, side, options)
    network = transformers.AutoModelForImageClassification.from_config(
        made, trust_remote_code=False
    )
    return HuggingFaceNetwork(network.float()), _plain(made)


def load(folder: Path, made: Mapping[str, Any]) -> tuple[HuggingFaceNetwork, dict[str, list[str]]]:
    """Build a network with the weights that its folder holds.

    Args:
        folder: of `folder_of`.
        made: the configuration, of `build`.

    Returns:
        The network; and the names of the weights that are "missing", "unexpected" or of another
        shape, "mismatched": the first and the last are new.

    Raises:
        OSError: the folder holds no weights, or they cannot be read.
    """
    transformers = _transformers()
    with _silent(transformers):
        network, found = transformers.AutoModelForImageClassification.from_pretrained(
            folder,
            config=_config(made, None, None, {}),
            trust_remote_code=False,
            local_files_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    problems = {
        kind: sorted(each if isinstance(each, str) else each[0] for each in found[f"{kind}_keys"])
        for kind in ("missing", "unexpected", "mismatched")
    }
    return HuggingFaceNetwork(network.float()), problems


@contextmanager
def _silent(transformers: Any) -> Iterator[None]:
    """Hold back transformers' progress bars and reports: what matters in them is an error here."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _config(
    config: Mapping[str, Any],
    num_classes: int | None,
    side: tuple[int, int] | None,
    options: Mapping[str, Any],
) -> Any:
    """Return transformers' configuration object."""
    transformers = _transformers()
    entries = without_code({**config, **options})
    kind = entries.pop("model_type", None)
    if kind == "timm_wrapper":
        raise ValueError(
            f"this is timm's network {entries.get('architecture')} in a folder of transformers: "
            f"use timm:{entries.get('architecture')}, with the folder's model.safetensors as its "
            "weights."
        )
    if kind not in transformers.CONFIG_MAPPING:
        raise ValueError(
            f"transformers {transformers.__version__} knows no network of type {kind!r}. If its "
            "code comes with its folder, write a function that builds it: sign_ext runs no code "
            "from such a folder (FILE.py:FUNCTION)."
        )
    known = list(transformers.CONFIG_MAPPING[kind]().to_dict())
    for option in options:
        if option not in known:
            raise ValueError(
                f"{option!r} is not an entry of the configuration of {kind}"
                f"{closest(option, known)}; accepted: {', '.join(known)}"
            )
    if num_classes is not None and num_classes != count_classes(entries):
        entries = {k: v for k, v in entries.items() if k not in ("id2label", "label2id")}
        entries["num_labels"] = num_classes
    if side is not None and isinstance(entries.get("image_size"), int | list | tuple):
        square = isinstance(entries["image_size"], int) and side[0] == side[1]
        entries["image_size"] = side[0] if square else list(side)
    return transformers.CONFIG_MAPPING[kind].from_dict(entries)


def _plain(made: Any) -> dict[str, Any]:
    """Return a configuration as JSON gives it back, without paths or versions."""
    entries = {**made.to_dict(), "model_type": made.model_type}
    for key in ("_name_or_path", "transformers_version", "architectures"):
        entries.pop(key, None)
    return without_code(json.loads(json.dumps(entries, default=str)))  # type: ignore[no-any-return]


def _transformers() -> Any:
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "hf: networks need transformers, which is not installed: "
            "pip install 'sign-ext[huggingface]', or pip install transformers",
            name="transformers",
        ) from error
    return transformers
