"""The benchmark of live heat."""

import pytest


@pytest.mark.parametrize(("count", "interval"), [(3, [1, 3]), (6, [1, 6]), (20, [6, 15]), (100, [40, 61])])
def test_the_median_lies_between_two_of_the_values(pack, count, interval):
    """The ranks of the sign test's interval, as statistical tables have them."""
    from concept_erasure.benchmarks.timing import median_interval

    assert median_interval(list(range(count, 0, -1))) == interval


@pytest.mark.research
def test_heat_is_shown_with_previews_on_alone(nodes, capsys, monkeypatch):
    from concept_erasure.benchmarks import previews
    from concept_erasure.benchmarks.framework.tables import Table

    table = Table("previews", ("ratio",))
    assert previews.compare(table, 1, 2) >= 1
    assert [row["setting"] for row in table.rows] == [previews.AGAIN, previews.ON]
    monkeypatch.setitem(previews.METHODS, previews.AGAIN, previews.METHODS[previews.ON])
    with pytest.raises(SystemExit, match="should not be"):
        previews.compare(table, 1, 2)
