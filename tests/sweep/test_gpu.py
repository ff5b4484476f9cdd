"""Whose fault an error of CUDA's is. No GPU is needed: a new process finds none, as on a node that has lost its own."""

from __future__ import annotations

import weakref

import pytest
import torch

from bnsweep.errors import GpuLostError, SpecError
from bnsweep.experiment.reading import parse_spec
from bnsweep.experiment.resources import Resource
from bnsweep.sweep.gpu import guarded, is_cuda_error, require_gpu
from bnsweep.sweep.retries import PASSING

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU works here")


def test_which_errors_are_cudas():
    assert is_cuda_error(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert is_cuda_error(RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"))
    assert is_cuda_error(RuntimeError("No CUDA GPUs are available"))
    assert is_cuda_error(torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"))
    assert not is_cuda_error(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert not is_cuda_error(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_cuda_error(ValueError("CUDA error"))
    for no_room in ("CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling ..."):
        assert not is_cuda_error(RuntimeError(no_room))
    assert not is_cuda_error(torch.AcceleratorError("CUDA error: out of memory"))


@no_gpu
def test_an_error_of_cudas_on_a_node_whose_gpu_is_gone_is_the_nodes():
    with pytest.raises(GpuLostError, match="RuntimeError: CUDA error: unspecified launch failure"), guarded():
        raise RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be ...")


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shapes"), guarded():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


def test_where_a_gpu_has_no_room_the_next_try_may_find_some():
    with pytest.raises(MemoryError, match="2 GiB$") as found, guarded():
        raise torch.OutOfMemoryError("CUDA out of memory: 2 GiB\nPlease ...")
    assert isinstance(found.value, PASSING)


@no_gpu
def test_a_missing_gpu_is_said_with_the_devices_that_may_be_seen(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with pytest.raises(GpuLostError, match=r"gpu: 0.25, but this process sees no GPU \(CUDA_VISIBLE_DEVICES=7\)"):
        require_gpu(0.25)


@no_gpu
def test_inline_the_sweep_stops_and_nothing_counts_as_failed(run, tiny, tmp_path):
    from bnsweep.store.store import Store

    with pytest.raises(GpuLostError, match="set gpu: 0 or use another node"):
        run(tiny + "resources: {train: {gpu: 1}}\n", tmp_path / "store")
    store = Store.open(str(tmp_path / "store"))
    assert store.rows("runs") == store.rows("failures") == 0


def test_inline_an_error_of_cudas_stops_the_sweep_at_once(run, tiny, tmp_path, monkeypatch):
    from bnsweep.store.store import Store

    def fails(*_, **__):
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCompile with ...")

    monkeypatch.setattr("bnsweep.sweep.work.train_run", fails)
    with pytest.raises(GpuLostError, match="AcceleratorError: CUDA error: an illegal memory access was encountered$"):
        run(tiny, tmp_path / "store")
    store = Store.open(str(tmp_path / "store"))
    assert store.rows("runs") == store.rows("failures") == 0


def test_inline_what_failed_holds_no_memory_when_it_is_tried_again(run, tiny, tmp_path, monkeypatch):
    from bnsweep.store.store import Store

    held = []

    def fails(*_, **__):
        assert all(each() is None for each in held), "the network of the attempt before is still there"
        network = torch.nn.Linear(2, 2)
        held.append(weakref.ref(network))
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("bnsweep.sweep.work.train_run", fails)
    run(tiny, tmp_path / "store")
    assert len(held) == 3 * Store.open(str(tmp_path / "store")).rows("failures") > 0


@pytest.mark.parametrize(
    ("resource", "fraction"),
    [(Resource(gpu=0.25), 0.25), (Resource(gpu=2), 1.0), (Resource(gpu=0.5, gpu_memory=0.4), 0.4)],
)
def test_the_memory_that_a_process_may_take(resource, fraction):
    assert resource.memory_fraction == fraction


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("{gpu: 1.5}", "more than one GPU is a whole number of them, but got gpu: 1.5"),
        ("{accelerator: A100}", "`accelerator` goes with `gpu`, but got gpu: 0"),
        ("{gpu_memory: 0.2}", "`gpu_memory` goes with `gpu`, but got gpu: 0"),
        ("{gpu: 1, gpu_memory: 2}", "less than or equal to 1"),
        ("{gpu: 1, accelerator: 'A 100'}", "accelerator: 1 to 60 letters, digits, .* without blanks, but got 'A 100'"),
    ],
)
def test_resources_that_mean_nothing_are_refused(tiny, train, message):
    with pytest.raises(SpecError, match=message):
        parse_spec(f"{tiny}resources: {{train: {train}}}\n")
