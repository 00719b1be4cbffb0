"""The store of patch embeddings: complete or absent shards, a limit, and an order that can be taken up again."""

import pytest
import torch

WIDTH = 8


@pytest.fixture(scope="module")
def store(pack):
    from concept_erasure.training import store

    return store


@pytest.fixture(scope="module")
def reader(pack):
    from concept_erasure.training import reader

    return reader


@pytest.fixture
def contents(store):
    return store.Contents("middle_block.1", WIDTH, labels=("cat", "dog"))


def fill(store, folder, contents, count, rows=100, start=0, worker="0"):
    """Write shards whose embeddings all differ: embedding i is i, and it is a cat if i is odd."""
    writer = store.Writer(folder, contents, 10_000_000, worker)
    for shard in range(count):
        numbers = torch.arange(start + shard * rows, start + (shard + 1) * rows)
        labels = torch.stack([numbers % 2, torch.full_like(numbers, store.UNKNOWN)], 1)
        writer.add(numbers[:, None].expand(-1, WIDTH).float(), 500, labels if contents.labels else ())
        writer.flush(shard + 1)
    return writer


def test_what_is_written_is_read(store, contents, tmp_path):
    writer = fill(store, tmp_path, contents, 2)
    writer.add(torch.ones(3, WIDTH, dtype=torch.bfloat16), 999, (1, 0))
    assert writer.waiting == 3
    writer.flush(7)
    found = store.shards(tmp_path)
    assert [shard.rows for shard in found] == [100, 100, 3] and found[2].progress == 7
    embeddings, labels = found[0].read()
    assert torch.equal(embeddings[:, 0], torch.arange(100).half()) and labels[:3].tolist() == [
        [0, 255],
        [1, 255],
        [0, 255],
    ]
    again = store.Writer(tmp_path, contents, 10_000_000)
    assert again.progress == 7
    again.add(torch.ones(1, WIDTH), 1, (0, 0))
    again.flush(8)
    assert len(store.shards(tmp_path)) == 4


def test_workers_share_a_folder_and_count_for_themselves(store, contents, tmp_path):
    fill(store, tmp_path, contents, 2, worker="a")
    fill(store, tmp_path, contents, 1, worker="b")
    assert len(store.shards(tmp_path)) == 3
    assert store.Writer(tmp_path, contents, 10**6, "b").progress == 1
    with pytest.raises(ValueError, match="worker"):
        store.Writer(tmp_path, contents, 10**6, "../b")


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e6])
def test_numbers_that_are_none_are_refused(store, contents, tmp_path, bad):
    writer = fill(store, tmp_path, contents, 1)
    with pytest.raises(store.StoreError, match=r"middle_block\.1 at timestep 20 hold NaN"):
        writer.add(torch.tensor([[0.0] * 7 + [bad]]), 20, (0, 0))
    writer.flush(9)
    assert len(store.shards(tmp_path)) == 1


def test_the_limit_holds_for_the_whole_folder(store, contents, tmp_path):
    fill(store, tmp_path, contents, 3, worker="a")
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    writer = store.Writer(tmp_path, contents, size + 1000, "b")
    writer.add(torch.ones(100, WIDTH), 1, (0, 0))
    with pytest.raises(store.StoreFull, match="limit"):
        writer.flush(1)
    assert len(store.shards(tmp_path)) == 3 and writer.waiting == 0
    writer.limit = size + store.HEADER_BYTES + 50 * (2 * WIDTH + 4 + 2) + 1
    writer.add(torch.ones(100, WIDTH), 1, (0, 0))
    with pytest.raises(store.StoreFull, match="limit"):
        writer.flush(1)
    assert [shard.rows for shard in store.shards(tmp_path)] == [100, 100, 100, 50], "what fits is written"
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= writer.limit


def test_a_disk_that_refuses_leaves_what_is_there_usable(store, contents, tmp_path):
    resource = pytest.importorskip("resource", reason="the size of files cannot be limited here")
    writer = fill(store, tmp_path, contents, 2)
    writer.add(torch.ones(5000, WIDTH), 1, (0, 0))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(store.StoreError, match=r"cannot be written.*Free some space"):
            writer.flush(3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(list(tmp_path.iterdir())) == 2 and store.Writer(tmp_path, contents, 10**6).progress == 2
    writer.add(torch.ones(50, WIDTH), 1, (0, 0))
    writer.flush(3)
    assert store.shards(tmp_path)[2].rows == 50


def test_a_disk_almost_full_is_not_filled(store, contents, tmp_path, monkeypatch):
    writer = fill(store, tmp_path, contents, 1)
    monkeypatch.setattr(store, "SPARE_BYTES", 10**18)
    writer.add(torch.ones(50, WIDTH), 1, (0, 0))
    with pytest.raises(store.StoreError, match=r"is full: \d+ MB are left"):
        writer.flush(2)


def test_damaged_and_foreign_files_are_named(store, contents, tmp_path):
    from safetensors.torch import save_file

    fill(store, tmp_path, contents, 2)
    with pytest.raises(store.StoreError, match="already holds something else"):
        store.Writer(tmp_path, store.Contents("middle_block.1", WIDTH), 10**6)
    shard = tmp_path / "0-000001.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    with pytest.raises(store.StoreError, match=r"0-000001\.safetensors: is no shard"):
        store.shards(tmp_path)
    save_file({"embeddings": torch.ones(3, WIDTH)}, str(shard))
    with pytest.raises(store.StoreError, match="lacks sae-concept-erasure/activations"):
        store.shards(tmp_path)
    shard.write_bytes(whole)
    (tmp_path / "x-000000.safetensors").write_bytes(whole.replace(b'"cat', b'"cow'))
    with pytest.raises(store.StoreError, match=r"hold different things.*'cow'"):
        store.shards(tmp_path)


def numbers(stream, batches=1):
    return torch.cat([stream.next()[0][:, 0].int() for _ in range(batches)]).tolist()


def test_an_epoch_holds_every_embedding_once_and_mixed(store, reader, contents, tmp_path):
    fill(store, tmp_path, contents, 6)
    size = store.shards(tmp_path)[0].size
    stream = reader.Stream(tmp_path, 50, seed=3, buffer=2 * size)
    epochs = [numbers(stream, 12) for _ in range(2)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(600))
        assert len({number // 100 for number in epoch[:50]}) == 2, "a batch mixes the shards of its block"
    assert epochs[0] != epochs[1]
    embeddings, labels = stream.next()
    assert torch.equal(embeddings[:, 0].int() % 2, labels[:, 0].int())


def test_reading_goes_on_where_it_stopped(store, reader, contents, tmp_path):
    fill(store, tmp_path, contents, 6)
    size = store.shards(tmp_path)[0].size
    stream = reader.Stream(tmp_path, 30, buffer=2 * size)
    for _ in range(25):
        stream.next()
    position = stream.position
    fill(store, tmp_path, contents, 1, start=600, worker="later")
    again = reader.Stream(tmp_path, 30, buffer=2 * size, position=position)
    for _ in range(30):
        assert numbers(again) == numbers(stream)
    (tmp_path / "0-000002.safetensors").unlink()
    with pytest.raises(store.StoreError, match=r"lacks 0-000002\.safetensors"):
        reader.Stream(tmp_path, 30, position=position)


def test_streams_share_the_store(store, reader, contents, tmp_path):
    fill(store, tmp_path, contents, 6)
    streams = [reader.Stream(tmp_path, 50, index=i, count=2) for i in range(2)]
    epoch = [numbers(stream, 6) for stream in streams]
    assert not set(epoch[0]) & set(epoch[1]) and sorted(epoch[0] + epoch[1]) == list(range(600))


def test_a_store_too_small_says_so(store, reader, contents, tmp_path):
    fill(store, tmp_path, contents, 2)
    with pytest.raises(store.StoreError, match="too few patch embeddings for a batch of 201"):
        reader.Stream(tmp_path, 201).next()
    with pytest.raises(store.StoreError, match=r"2 shard\(s\), too few for 3 stream"):
        reader.Stream(tmp_path, 1, count=3)
    with pytest.raises(store.StoreError, match=r"0 shard\(s\)"):
        reader.Stream(tmp_path / "nowhere", 1)
