"""The paper's numbers are transcribed correctly: columns agree with means and totals."""

from __future__ import annotations

import statistics

import pytest

from sign_ext.experiments.recipes import published

ROWS = [
    *(row for network in published.TABLE1.values() for row in network.values()),
    *published.TABLE4.values(),
    *(method["accuracy"] for method in published.TABLE2.values()),
]


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_the_mean_is_that_of_the_classes(row):
    # CIFAR-10's classes are equally large; classes are given to three digits.
    classes = [row[name] for name in published.CLASSES]
    assert statistics.fmean(classes) == pytest.approx(row["mean"], abs=6e-4)


@pytest.mark.parametrize("table", [published.TABLE2, published.TABLE3], ids=["2", "3"])
def test_low_confidence_counts_add_up_and_their_means_weigh_by_them(table):
    for rows in table.values():
        counts = {k: v for k, v in rows["count"].items() if k != "mean"}
        assert sum(counts.values()) == rows["count"]["mean"]
        for measure in ("low", "uncertainty"):
            weighted = sum(counts[k] * rows[measure].get(k, 0.0) for k in counts)
            expected = rows[measure]["mean"]
            # The paper's own rounding, and for SIGN's row of Table 3 its own slip, stay within 1%.
            assert weighted / rows["count"]["mean"] == pytest.approx(expected, rel=1e-2)


def test_the_mean_of_table_3_is_over_images():
    images = {"automobile": 49, "bird": 146, "cat": 50, "dog": 298, "frog": 100}
    assert sum(images.values()) == 643
    for rows in published.TABLE3.values():
        right = sum(round(rows["accuracy"][name] * count) for name, count in images.items())
        assert right / 643 == pytest.approx(rows["accuracy"]["mean"], abs=1e-4)


def test_table_5_starts_from_table_1():
    for network, methods in published.TABLE5.items():
        for method, row in methods.items():
            assert row["normal"] == published.TABLE1[network][method]["mean"]


@pytest.mark.parametrize(
    ("network", "of"),
    [
        ("mobilenet_v2", "mobilenet_v2"),
        ("mobilenet_v2_stride8", "mobilenet_v2"),
        ("basic_cnn", "basic_cnn"),
        ("nasnet_mobile", None),
        ("mobilenet", None),
        ("mobilenet_v25", None),
    ],
)
def test_a_variant_of_a_network_has_the_papers_numbers(network, of):
    for table in (published.TABLE1, published.TABLE5, published.DELTA_ONLY):
        assert published.for_network(table, network) == table.get(of)
