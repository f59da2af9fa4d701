"""Stores made on a GPU: transfers on separate streams leave the images unchanged."""

from __future__ import annotations

import pytest
import torch
from store_parts import make_net, make_source

from sign_ext import SignTransform
from sign_ext.store import load_transformed, transform_to_store, verify
from sign_ext.store.staging import CudaStaging

pytestmark = pytest.mark.gpu

OPTIONS = {"steps": 3, "snapshots": (1, 3), "step_size": 2.0, "batch_size": 16}


def cuda_sign(**options):
    return SignTransform(make_net().cuda(), **{**OPTIONS, **options})


@pytest.mark.parametrize("backend", ["autograd", "graphed", "fused"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_store_made_on_the_gpu_holds_what_the_transform_returns(backend, dtype, tmp_path):
    pytest.importorskip("pydantic")
    source, name = make_source(203), str(dtype).removeprefix("torch.")
    sign = cuda_sign(backend=backend)
    transform_to_store(sign, source, tmp_path, shard_size=64, dtype=name, readers=3)
    wanted = sign.transform(source.read(0, 203).float().cuda())
    store = load_transformed(tmp_path)
    assert verify(tmp_path).faults == ()
    for step in (1, 3):
        # The last batch of a shard is another shape, which may round otherwise.
        torch.testing.assert_close(
            store.tensor(step), wanted[step].cpu().to(dtype).float(), rtol=1e-2, atol=1e-3
        )
    on_device = store.tensor(3, device="cuda", dtype=dtype)
    assert torch.equal(on_device.cpu().float(), store.tensor(3))


def test_two_runs_on_the_gpu_write_the_same_bytes(tmp_path, content_of):
    pytest.importorskip("pydantic")
    source = make_source(150)
    for name in ("one", "two"):
        transform_to_store(cuda_sign(), source, tmp_path / name, shard_size=32)
    assert content_of(tmp_path / "one") == content_of(tmp_path / "two")


def test_uploads_and_downloads_keep_their_order():
    staging = CudaStaging(torch.device("cuda", torch.cuda.current_device()))
    generator = torch.Generator().manual_seed(1)
    rows = torch.empty(8, 256, 3, 32, 32, dtype=torch.float16, pin_memory=True)
    chunks = [
        torch.randint(0, 256, (256, 3, 32, 32), generator=generator, dtype=torch.uint8)
        for _ in range(8)
    ]
    uploads = [staging.upload(chunk) for chunk in chunks]
    for place, upload in enumerate(uploads):
        images = staging.receive(upload)
        for _ in range(50):  # keep the computing stream busy after the copies
            images = images + 1
        staging.download({5: images - 50}, {5: rows[place]})
        del images
    staging.download_barrier()()
    for place, chunk in enumerate(chunks):
        assert torch.equal(rows[place].float(), chunk.float())
