"""How a workflow lies on the page: nodes over each other, and nodes half in a group."""

from itertools import combinations
from typing import Any

from .browser import Browser

PAUSE = 250  # ms in which nothing may move


def settle(browser: Browser) -> None:
    """Wait until the nodes have the size that their content needs."""
    before = None
    while (now := [node["box"] for node in browser.nodes()]) != before:
        before = now
        browser.page.wait_for_timeout(PAUSE)


def overlapping(browser: Browser) -> list[str]:
    """Return "A over B" for each pair of nodes on the page whose boxes, title bars included, meet."""
    open_nodes = [node for node in browser.nodes() if not node["collapsed"]]
    return [
        f"{named(one)} over {named(other)}"
        for one, other in combinations(open_nodes, 2)
        if meet(one["box"], other["box"])
    ]


def outside(browser: Browser) -> list[str]:
    """Return the nodes on the page that lie in a group with a part of them only."""
    groups = browser.groups()
    return [
        named(node)
        for node in browser.nodes()
        if any(meet(node["box"], group) and not within(node["box"], group) for group in groups)
    ]


def named(node: dict[str, Any]) -> str:
    """Return a node's title and number."""
    return f"{node['title']} ({node['id']})"


def meet(one: list[float], other: list[float]) -> bool:
    """Return whether two boxes (x, y, width, height) share area."""
    return all(one[i] < other[i] + other[i + 2] and other[i] < one[i] + one[i + 2] for i in (0, 1))


def within(one: list[float], other: list[float]) -> bool:
    """Return whether the first box lies in the second."""
    return all(other[i] <= one[i] and one[i] + one[i + 2] <= other[i] + other[i + 2] for i in (0, 1))
