"""Table 4: SIGN's images of one network train another."""

from __future__ import annotations

from typing import Any

from sign_ext.evaluation import compare_rows
from sign_ext.experiments import paper
from sign_ext.experiments.book import PROTOCOLS, Book, Protocol
from sign_ext.experiments.recipe import Found, Plan, Recipe, cell, keys
from sign_ext.experiments.telling import findings, settings, stand_ins
from sign_ext.report.schema import Column, Experiment, Row, Table

DEFAULTS: dict[str, Any] = {"network": "nasnet_mobile", "phi": "mobilenet_v2"}
ROWS = {"classical": "Classical", "sign": "Transfer (with SIGN)"}

ABOUT = """\
Φ is {phi}, trained classically; its transformed images join the originals to train {network},
with classical augmentation, beside {network} trained on the originals alone."""


def plan(book: Book) -> Plan:
    """Both rows by both protocols with each seed."""
    options = book.options("table4", **DEFAULTS)
    network = options["network"]
    stages: Plan = {}
    for protocol in PROTOCOLS:
        for method in ROWS:
            stages[f"{method}/{protocol}"] = tuple(
                book.classify(
                    _train(book, network, options["phi"], method, protocol, seed), network
                )
                for seed in book.seeds
            )
    return stages


def _train(book: Book, network: str, phi: str, method: str, protocol: Protocol, seed: int) -> Any:
    sign = book.transform(book.phi(phi, seed)) if method == "sign" else None
    return book.train(network, method, seed, protocol=protocol, sign=sign)


def tell(book: Book, found: Found) -> Experiment:
    """The table, with comparisons of the mean."""
    options = book.options("table4", **DEFAULTS)
    network, phi = book.network(options["network"]), book.network(options["phi"])
    numbers = next(iter(found.values()))[0].numbers
    classes, images = list(numbers["per_class"]), numbers["images"]
    columns = (*(Column(name, name) for name in classes), Column("mean", "Mean"))
    rows: dict[tuple[str, str], Row] = {}
    for protocol, told in PROTOCOLS.items():
        for method, label in ROWS.items():
            outcomes = found[f"{method}/{protocol}"]
            theirs = paper.TABLE4[method] if protocol == "epochs" else {}
            cells = {
                name: cell(outcomes, "per_class", name, paper=theirs.get(name)) for name in classes
            }
            cells["mean"] = cell(outcomes, "accuracy", paper=theirs.get("mean"))
            group = f"{network.label}, {told}"
            rows[protocol, method] = Row(label, group, cells, stages=keys(outcomes))
    table = Table(
        title="Table 4",
        caption=f"Accuracy by class and overall, on {images:,} test images.",
        columns=columns,
        rows=tuple(rows.values()),
        images=images,
        comparisons=tuple(
            compare_rows("mean", rows[p, "sign"], rows[p, "classical"], images=images, kind="share")
            for p in PROTOCOLS
        ),
    )
    networks = [options["network"], options["phi"]]
    return Experiment(
        name="table4",
        title="Table 4: transfer of SIGN's images to another network",
        about=ABOUT.format(phi=phi.label, network=network.label),
        stand_ins=stand_ins(book, networks),
        settings=settings(book, networks, found),
        tables=(table,),
        findings=findings(table),
    )


RECIPE = Recipe("table4", "transfer to NASNetMobile", plan, tell)
