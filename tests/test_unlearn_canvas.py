"""The UnlearnCanvas protocol: prompts, figures, resuming, the judges' interface, and its graphs on a real server."""

import json
import sys

import pytest
import torch
from PIL import Image


@pytest.fixture(scope="module")
def protocol(pack):
    from concept_erasure.benchmarks.unlearn_canvas import protocol

    return protocol


@pytest.fixture(scope="module")
def maker(pack):
    from concept_erasure.benchmarks.unlearn_canvas import generate

    return generate


@pytest.fixture(scope="module")
def judge(pack):
    from concept_erasure.benchmarks.unlearn_canvas import judge

    return judge


@pytest.fixture(scope="module")
def read_json(pack):
    from concept_erasure.benchmarks.framework.storage import read_json

    return read_json


@pytest.fixture(scope="module")
def stand_in(pack):
    from concept_erasure.benchmarks.unlearn_canvas import stand_in

    return stand_in


def test_images_and_prompts(protocol):
    every = protocol.images(protocol.OBJECTS, protocol.STYLES, protocol.SEEDS)
    assert len(protocol.OBJECTS) == 20 and len(protocol.STYLES) == 51 == len(set(protocol.STYLES))
    assert len(every) == len({image.file for image in every}) == 20 * 51 * 5
    assert protocol.ProtocolImage("Cats", "Van_Gogh", 188).prompt == "An image of Cats in Van Gogh style."
    assert protocol.ProtocolImage("Cats", protocol.PHOTO, 188).prompt == "An image of Cats."
    assert protocol.ProtocolImage("Cats", "Van_Gogh", 188).file == "Van_Gogh_Cats_seed188.jpg"
    assert all(protocol.ProtocolImage.of_file(image.file) == image for image in every)
    with pytest.raises(ValueError, match="no image of the protocol"):
        protocol.ProtocolImage.of_file("Van_Gogh_Cars_seed188.jpg")


# object asked for, style asked for, object seen, style seen, damaged
TABLE = [
    ("Cats", "Rust", "Trees", "Rust", 0),
    ("Cats", "Rust", "Cats", "Winter", 1),
    ("Cats", "Winter", "Dogs", "Winter", 0),
    ("Cats", "Seed_Images", "Sea", "Seed_Images", 0),
    ("Dogs", "Rust", "Dogs", "Rust", 0),
    ("Dogs", "Winter", "Cats", "Rust", 1),
    ("Dogs", "Winter", "Sea", "Winter", 0),
    ("Trees", "Rust", "Trees", "Winter", 0),
    ("Trees", "Seed_Images", "Trees", "Seed_Images", 0),
]
# UA: 3 of 4. IRA: dogs 1 of 3, trees 2 of 2. CRA: Rust 2 of 4, Winter 2 of 3. AR: 2 of 9.
BY_HAND = {"UA": 75.0, "IRA": 200 / 3, "CRA": 175 / 3, "Avg": 200 / 3, "AR": 200 / 9, "GA": 625 / 9}


def answers(protocol, judged=True):
    from concept_erasure.benchmarks.unlearn_canvas.metrics import Answer

    return {
        protocol.ProtocolImage(thing, style, seed): Answer(seen, looks, bool(damaged) if judged else None)
        for seed, (thing, style, seen, looks, damaged) in enumerate(TABLE)
    }


def test_the_figures_are_those_reckoned_by_hand(protocol):
    from concept_erasure.benchmarks.unlearn_canvas.metrics import figures_of, row_of

    assert figures_of("Cats", answers(protocol)) == pytest.approx(BY_HAND)
    unasked = figures_of("Cats", answers(protocol, judged=False))
    assert unasked["AR"] is None and unasked["GA"] is None and unasked["Avg"] == pytest.approx(BY_HAND["Avg"])
    # With Trees as the target: UA 0; IRA: cats 1 of 4, dogs 1 of 3; CRA and AR as before.
    row = row_of({"Cats": answers(protocol), "Trees": answers(protocol)})
    assert row[:3] == ["37.50 ± 53.03", "47.92 ± 26.52", "58.33 ± 0.00"] and row[-2:] == ["2", "18"]


def test_placeholders(maker):
    graph = maker.read_graph("steered")
    values = {"PROMPT": "p", "SEED": 7, "CHECKPOINT": "c", "SAE": "s", "TARGET": "t"}
    filled = maker.filled(graph, {**values, "STRENGTH": -5})
    assert "$" not in json.dumps(filled) and filled["5"]["inputs"]["seed"] == 7
    assert "$" in json.dumps(graph), "the graph itself stays as it was"
    with pytest.raises(KeyError, match="STRENGTH"):
        maker.filled(graph, values)


@pytest.mark.parametrize("name", ["plain", "replaced", "published", "steered"])
def test_the_graphs_fit_the_nodes(server, maker, name):
    """Every node and input is known, and with files of the right names nothing would be missing."""
    info = server.object_info()
    for node in maker.read_graph(name).values():
        known = info[node["class_type"]]["input"]
        assert set(node["inputs"]) <= set(known.get("required", {})) | set(known.get("optional", {}))
        assert set(known.get("required", {})) <= set(node["inputs"])
        for option, value in node["inputs"].items():
            spec = {**known.get("required", {}), **known.get("optional", {})}[option]
            choices = spec[0] if isinstance(spec[0], list) else spec[1].get("options") if len(spec) > 1 else None
            if choices and not str(value).startswith("$"):
                assert value in choices


@pytest.mark.research
def test_on_a_real_server(server, maker, judge, stand_in, protocol, tmp_path):
    """The cat goes, the tree stays, and what is there is not made or asked again."""
    from concept_erasure.benchmarks.unlearn_canvas.metrics import figures_of

    wanted = protocol.images(["Cats", "Trees"], [protocol.PHOTO, "Sketch"], [288])
    folders, found = {}, {}
    for run in ("plain", "replaced"):
        folders[run] = maker.folder_of(tmp_path, run, "Cats" if run == "replaced" else None)
        graph, values = stand_in.adapted(maker.read_graph(run)), stand_in.values_of("Cats")
        assert maker.generate(server, graph, values, wanted[:3], folders[run]) == 3
        assert maker.generate(server, graph, values, wanted, folders[run]) == 1, "three were there"
        assert judge.classify(folders[run], *stand_in.judges(), "cpu", 3) == 4
        found[run] = judge.answers_of(folders[run], wanted)
    assert figures_of("Cats", found["plain"])["UA"] == 0.0
    assert figures_of("Cats", found["replaced"])["UA"] == 100.0
    for run in found:
        assert figures_of("Cats", found[run])["IRA"] == figures_of("Cats", found[run])["CRA"] == 100.0
    assert judge.classify(folders["plain"], *stand_in.judges(), "cpu", 3) == 0
    with pytest.raises(ValueError, match="another graph"):
        maker.generate(server, graph, stand_in.values_of("Dogs"), wanted, folders["replaced"])


def an_image(folder, name):
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (64, 48), (255, 0, 128)).save(folder / name)


def test_classifiers_get_what_the_published_ones_were_trained_on(judge, read_json, tmp_path):
    an_image(tmp_path / "run", "Rust_Cats_seed188.jpg")
    seen = []

    def network(pixels):
        seen.append(pixels)
        return torch.eye(51)[[3]]

    assert judge.classify(tmp_path / "run", network, network, "cpu", 8) == 1
    assert seen[0].shape == (1, 3, 224, 224)
    assert seen[0].mean((0, 2, 3)) == pytest.approx([1.0, -1.0, 0.0], abs=0.02), "0..255 became -1..1"
    assert read_json(tmp_path / "run" / judge.ANSWERS) == {"Rust_Cats_seed188.jpg": ["Butterfly", "Bricks"]}


def test_a_judge_of_ones_own(judge, read_json, tmp_path):
    for name in ("Rust_Cats_seed188.jpg", "Cats_seed188.jpg"):
        an_image(tmp_path / "run", name)
    says = tmp_path / "says.py"
    says.write_text("import sys\nfor line in sys.stdin: print(int('Rust' in line))\n")
    assert judge.ask_for_artifacts(tmp_path / "run", f"{sys.executable} {says}", 1) == 2
    assert read_json(tmp_path / "run" / judge.ARTIFACTS) == {"Rust_Cats_seed188.jpg": True, "Cats_seed188.jpg": False}
    assert judge.ask_for_artifacts(tmp_path / "run", "no-such-program", 1) == 0, "both were asked before"
    an_image(tmp_path / "run", "Trees_seed188.jpg")
    says.write_text("print('maybe')")
    with pytest.raises(ValueError, match="as many lines 0 or 1"):
        judge.ask_for_artifacts(tmp_path / "run", f"{sys.executable} {says}", 1)


def test_the_report_is_written_with_the_figures_of_each_target(protocol, read_json, tmp_path, monkeypatch, capsys):
    from concept_erasure.benchmarks.unlearn_canvas import steps

    thing = protocol.ProtocolImage
    cat, dog = thing("Cats", "Rust", 188), thing("Dogs", "Rust", 188)
    (tmp_path / "run" / "replaced" / "Cats").mkdir(parents=True)
    seen = {cat.file: ["Dogs", "Rust"], dog.file: ["Dogs", "Winter"]}
    (tmp_path / "run" / "replaced" / "Cats" / "answers.json").write_text(json.dumps(seen))
    chosen = {"--runs": ["replaced"], "--objects": ["Cats", "Dogs"], "--targets": ["Cats"], "--styles": ["Rust"]}
    files = {"--out": [f"{tmp_path}/run"], "--json": [f"{tmp_path}/x.json"], "--seeds": ["188"]}
    words = [word for option, values in (chosen | files).items() for word in (option, *values)]
    monkeypatch.setattr(sys, "argv", ["host benchmarks.unlearn_canvas", "report", *words])
    steps.main()
    written = read_json(tmp_path / "x.json")
    (row,) = written["rows"]
    assert row["setting"] == "replaced" and row["columns"]["UA"] == "100.00 ± 0.00" and row["columns"]["images"] == "2"
    assert row["figures"]["Cats"]["CRA"] == 50.0 and written["subset"]["styles"] == ["Rust"]
    assert "python dev/host benchmarks.unlearn_canvas report" in written["command"]
    assert "| replaced | 100.00 ± 0.00 |" in capsys.readouterr().out
