"""How the workflows lie on the page, in the classic frontend and in Nodes 2.0, where nodes are higher.

``nox -s frontends`` runs this on the newest frontend too.
"""

from pathlib import Path

import pytest
from support.browser import Browser
from support.layout import outside, overlapping, settle
from support.workflows import read

pytestmark = pytest.mark.browser


def test_no_node_covers_another_or_lies_half_in_a_group(page: Browser, view: str, workflow_file: Path):
    page.load(read(workflow_file))
    settle(page)
    assert {node["element"] for node in page.nodes()} == {view == "nodes2"}
    assert not overlapping(page)
    assert not outside(page)
