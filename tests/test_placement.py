"""Models whose weights are not all where they compute: accelerate's hooks, and what they must not change.

On a CPU offloading can be had: every weight is on torch's meta device outside of its module's forward pass, which is
all that a larger machine's offloaded blocks are. Several devices are followed with torch's fake tensors. The last test
is for a machine with a GPU.
"""

from __future__ import annotations

import copy

import pytest
import tiny_families
import tiny_models
import torch
from accelerate import cpu_offload, dispatch_model
from refusals import refusal
from test_models import saved
from tiny_models import CITIES, PREFIXES, TEMPLATES, Snapshot
from torch._subclasses.fake_tensor import FakeTensorMode

from encore_core.editing.session import EditSession
from encore_core.editing.target_loss import TargetSettings
from encore_core.editing.targets import optimise_targets
from encore_core.export.folder import write_model_folder
from encore_core.forward.packed_pass import record_packed, run_packed
from encore_core.forward.packing import Packing
from encore_core.forward.tracing import added_to_output, captured_input, recomputed, record_prefix, run
from encore_core.measures.answers import answer_probabilities
from encore_core.measures.sublayers import measure_contributions
from encore_core.models import device_map, editable
from encore_core.models.device_map import choose_device, kept_weight, offload_hook
from encore_core.models.editable import EditableModel, load_model, wrap
from encore_core.models.families import find_parts

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
PAIRS = [(template.format(country), city) for template, (country, city) in
         zip(TEMPLATES * 2, list(tiny_models.COUNTRIES.items())[:6], strict=True)]  # fmt: skip
FAMILIES = ("GPT-2", "Gemma 2", "SmolLM, SmolLM 2")


@pytest.fixture(scope="module", params=FAMILIES)
def plain(request) -> EditableModel:
    return tiny_families.made(request.param)


def offloaded(lm: EditableModel) -> EditableModel:
    model = copy.deepcopy(lm.model)
    cpu_offload(model, execution_device=torch.device("cpu"), state_dict=dict(model.state_dict()))
    return wrap(model, lm.tokenizer, lm.name)


def new_session(lm, statistics_text, **settings) -> EditSession:
    usual = {"layers": (1, 2), "lambda_p": 0.01, "lambda_n": 0.001, "clamp": 2.0, "steps": 5, "statistics_tokens": 500}
    return EditSession(lm, "ENCORE", settings=usual | settings, statistics_text=statistics_text)


class TestOffloaded:
    def test_what_it_is(self, plain):
        lm = offloaded(plain)
        assert lm.offloaded and not plain.offloaded
        assert {parameter.device.type for parameter in lm.model.parameters()} == {"meta"}
        assert (lm.device, lm.dtype, lm.d_model, lm.d_mlp) == (plain.device, plain.dtype, plain.d_model, plain.d_mlp)
        assert lm.fingerprint == plain.fingerprint
        assert torch.equal(lm.matrix(1), plain.matrix(1))
        assert offload_hook(lm.down_projections[1]) is not None  # looking at it does not move it

    def test_scores_and_contributions(self, plain):
        lm = offloaded(plain)
        assert answer_probabilities(lm, PAIRS) == answer_probabilities(plain, PAIRS)
        texts = ["The capital of France is Paris.", "Kenya"]
        assert measure_contributions(lm, texts) == measure_contributions(plain, texts)

    def test_edit_and_undo(self, plain, statistics_text):
        """Equal to the bit, and the edited matrices, these alone, have come to stay."""
        lm = offloaded(plain)
        sessions = [new_session(one, statistics_text) for one in (plain, lm)]
        reports = [session.edit(CITIES) for session in sessions]
        for one, other in zip(*(report.edited for report in reports), strict=True):
            assert one.target.loss == other.target.loss
            assert one.probability_after == other.probability_after
        matrices = [session.matrices() for session in sessions]
        assert all(torch.equal(matrices[0][layer], matrices[1][layer]) for layer in (1, 2))
        where = [lm.down_projections[layer].weight.device.type for layer in range(lm.n_layers)]
        assert where == ["meta", "cpu", "cpu", "meta"]
        assert lm.parameter(1).data_ptr() != kept_weight(lm.down_projections[0]).data_ptr()
        for session in sessions:
            session.undo()
        assert all(torch.equal(lm.parameter(layer), plain.parameter(layer)) for layer in (1, 2))
        assert answer_probabilities(lm, PAIRS) == answer_probabilities(plain, PAIRS)

    def test_export(self, plain, statistics_text, tmp_path):
        lm = offloaded(plain)
        session = new_session(lm, statistics_text)
        report = session.edit(CITIES)
        write_model_folder(tmp_path / "edited", session, [report], "a test", 3)
        again = load_model(str(tmp_path / "edited"), device="cpu")
        assert torch.equal(again.parameter(1), session.matrices()[1])
        with session.edited():
            assert answer_probabilities(again, PAIRS) == answer_probabilities(lm, PAIRS)

    def test_saved_states(self, plain, statistics_text):
        lm = offloaded(plain)
        one, other = new_session(lm, statistics_text), new_session(lm, statistics_text)
        one.edit(CITIES)
        other.restore(one.state())
        assert all(torch.equal(other.matrices()[layer], matrix) for layer, matrix in one.matrices().items())

    @pytest.mark.parametrize("fast", [True, False])
    def test_weights_are_let_go_before_the_backward_pass(self, plain, fast):
        """Autograd keeps no weight of an offloaded block; each is brought in twice, and gradients are the same."""
        lm = offloaded(plain)
        settings = TargetSettings(2, 0.2, 2.0, 0.5, 0.0625, False, 1)
        brought_in = []
        hook = offload_hook(lm.down_projections[3])
        real = hook.pre_forward
        hook.pre_forward = lambda *args, **kwargs: (brought_in.append(torch.is_grad_enabled()), real(*args, **kwargs))[
            1
        ]
        lm.checked_paths[1] = "packed"
        weights = {tuple(parameter.shape) for parameter in lm.blocks[3].parameters() if parameter.ndim == 2}
        held: list[torch.Tensor] = []

        def keep(tensor):
            held.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            found = optimise_targets(lm, CITIES, PREFIXES, 1, settings, fast=fast)
        assert not [tensor for tensor in held if isinstance(tensor, torch.nn.Parameter) and tensor.shape in weights]
        assert sum(brought_in) >= 2  # forward and again backward, of the one step that has a backward pass
        plain.checked_paths[1] = "packed"
        for a, b in zip(found, optimise_targets(plain, CITIES, PREFIXES, 1, settings, fast=fast), strict=True):
            assert a.loss == b.loss and torch.equal(a.z, b.z)

    def test_nothing_is_replaced_without_need(self, plain):
        before = [dict(block.__dict__) for block in plain.blocks]
        with recomputed(plain, 0):
            assert all(block.__dict__.get("forward") == then.get("forward") for block, then in
                       zip(plain.blocks, before, strict=True))  # fmt: skip
        lm = offloaded(plain)
        forwards = [block.forward for block in lm.blocks]
        with pytest.raises(KeyboardInterrupt), recomputed(lm, 1):
            assert lm.blocks[0].forward == forwards[0] and lm.blocks[1].forward != forwards[1]
            raise KeyboardInterrupt
        assert [block.forward for block in lm.blocks] == forwards


def test_offloaded_to_files(llama, statistics_text, tmp_path):
    """The last blocks on disk, the rest in memory, as accelerate maps a model that is larger than all memory."""
    model = copy.deepcopy(llama.model)
    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    places |= {f"model.layers.{number}": "disk" if number >= 3 else "cpu" for number in range(llama.n_layers)}
    lm = wrap(dispatch_model(model, places, offload_dir=tmp_path, force_hooks=True), llama.tokenizer, "on disk")
    assert lm.offloaded and lm.fingerprint == llama.fingerprint
    assert answer_probabilities(lm, PAIRS) == answer_probabilities(llama, PAIRS)
    sessions = [new_session(one, statistics_text, layers=(2, 3)) for one in (llama, lm)]
    for session in sessions:
        session.edit(CITIES)
    assert all(torch.equal(sessions[0].matrices()[layer], sessions[1].matrices()[layer]) for layer in (2, 3))
    assert lm.down_projections[3].weight.device.type == "cpu" and lm.down_projections[4].weight.device.type == "meta"


# -- number formats ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fast", [True, False])
def test_targets_of_a_bfloat16_model_are_float32(llama, fast, monkeypatch):
    """δ, Adam's moments and the loss: steps too small for bfloat16 still add up."""
    model = copy.deepcopy(llama.model).to(torch.bfloat16)
    lm = wrap(model, llama.tokenizer, "half")
    optimisers = []
    real = torch.optim.Adam

    def spy(parameters, **kwargs):
        optimisers.append(real(parameters, **kwargs))
        return optimisers[-1]

    monkeypatch.setattr(torch.optim, "Adam", spy)
    steps = 6
    settings = TargetSettings(steps, 1e-4, 2.0, 0.5, 0.0625, False, 1)
    found = optimise_targets(lm, CITIES, PREFIXES, 1, settings, fast=fast)
    for optimiser in optimisers:
        (delta,) = optimiser.param_groups[0]["params"]
        assert delta.dtype == torch.float32
        assert {state.dtype for state in optimiser.state[delta].values() if torch.is_tensor(state)} == {torch.float32}
    for target in found:
        assert target.z.dtype == target.h.dtype == torch.float32
        moved = (target.z - target.h).abs()
        # Adam's first steps are lr long in every direction: ± lr · steps at most, far below what bfloat16 tells apart.
        assert 1e-4 < float(moved.max()) < 1e-4 * steps
        assert float(moved.max()) < float(target.h.abs().max()) * 2**-8
        loss = torch.tensor(target.loss)
        assert not torch.equal(loss, loss.bfloat16().float())


def test_an_edit_of_a_bfloat16_model(llama, statistics_text):
    lm = wrap(copy.deepcopy(llama.model).to(torch.bfloat16), llama.tokenizer, "half")
    before = Snapshot.of(lm)
    session = new_session(lm, statistics_text, layers=(0, 1), steps=8)
    report = session.edit(CITIES)
    assert {matrix.dtype for matrix in session.matrices().values()} == {torch.bfloat16}
    assert all(update.A.dtype == torch.float64 for update in session.history[0].updates.values())
    assert all(item.probability_after > item.probability_before for item in report.edited)
    session.undo()
    assert before.holds(lm)


# -- choosing ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_balanced_needs_a_gpu():
    assert "there is none here; present: cpu" in refusal(choose_device, "balanced")


def test_balanced_leaves_room_for_editing(llama, tmp_path, monkeypatch):
    """Of two GPUs the first keeps free what edits need; what fits on neither goes to the computer's memory."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(device_map, "free_memory", lambda device: 1_000_000 if device.type == "cuda" else 2**40)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1_000_000, 2_000_000))
    room = device_map.room_for_weights(400_000)
    assert (room[0], room[1]) == (550_000, 950_000) and room["cpu"] > 2**20
    assert device_map.room_for_weights(2_000_000)[0] == 0
    asked = []
    monkeypatch.setattr(
        editable, "read_weights", lambda *args, **placing: (asked.append(placing), (llama.model, ()))[1]
    )
    load_model(saved(llama, tmp_path), device="balanced")
    assert asked[0]["device_map"] == "balanced" and set(asked[0]["max_memory"]) == {0, 1, "cpu"}


OTHER = torch.device("lazy:0")
"""A device that this build of torch knows and does not have; what is on it is only followed, never computed."""


def moved(value, device: torch.device):
    """As accelerate's hooks move what a module is given."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    return tuple(moved(item, device) for item in value) if isinstance(value, tuple) else value


def put(module: torch.nn.Module, device: torch.device) -> None:
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            part.register_parameter(name, torch.nn.Parameter(parameter.data.to(device), requires_grad=False))
        for name, buffer in part.named_buffers(recurse=False):
            part.register_buffer(name, buffer.to(device))
    forward = module.forward
    module.forward = lambda *args, **kwargs: forward(
        *moved(args, device), **{name: moved(value, device) for name, value in kwargs.items()}
    )


@pytest.mark.parametrize("name", ["Gemma 2", "GPT-2"])
def test_blocks_on_several_devices(name):
    """torch's fake tensors refuse to mix devices as real ones do: whatever is run, it meets on one device."""
    masks = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]])
    plans = [Packing(masks, None) for _ in range(2)]  # how tokens are packed depends on real numbers
    with FakeTensorMode() as mode:
        model = tiny_families.random_model(tiny_families.FAMILIES[name]).requires_grad_(False)
        parts = find_parts(model, name)
        lm = EditableModel(name, model, tiny_families.tokenizer(), parts, "none", tuple_blocks=False)
        head = model.get_output_embeddings()
        for module in (*parts.blocks[2:], parts.final_norm):
            put(module, OTHER)
        put(head, lm.device if head.weight is parts.embedding.weight else OTHER)
        assert {lm.parameter(layer).device for layer in range(4)} == {torch.device("cpu"), OTHER}

        ids = torch.ones(3, 4, dtype=torch.long)
        mask, hidden = torch.ones_like(ids), torch.zeros(3, 4, lm.d_model)
        at = (torch.tensor([0, 1]), torch.tensor([1, 2]))
        with torch.no_grad():
            found = [run(lm, ids, mask, start=start, hidden=hidden, logits_at=at) for start in (0, 1, 3)]
            found += [run(lm, ids, mask, stop=stop) for stop in (1, 3)]
            prefix, _ = record_prefix(lm, ids, mask)
            longer = prefix.followed_by(record_prefix(lm, ids, mask, prefix=prefix)[0])
            found.append(run(lm, ids, mask, prefix=longer.rows(torch.tensor([2, 0, 1]))))
            with captured_input(lm.down_projections[3]) as seen:
                run(lm, ids, mask)
            assert seen[0].device == OTHER
        delta = torch.zeros(2, lm.d_model, requires_grad=True)
        with added_to_output(lm.blocks[2], *at, delta):
            run(lm, ids, mask, logits_at=at).sum().backward()
        found.append(delta.grad)

        for plan in plans:
            for field in ("mask", "places", "tokens", "positions"):
                setattr(plan, field, mode.from_tensor(getattr(plan, field)))
        tokens = torch.ones(len(plans[0].tokens), dtype=torch.long)
        with torch.no_grad():
            before = record_packed(lm, plans[0], ids=tokens)
        plans[1].prefix = before
        states = torch.zeros(len(tokens), lm.d_model, requires_grad=True)
        packed = run_packed(lm, plans[1], start=1, hidden=states, logits_at=torch.tensor([0, 2]))
        packed.sum().backward()
        found += [packed, states.grad, run_packed(lm, plans[1], ids=tokens, stop=3)]
    assert {tensor.device for tensor in found} == {torch.device("cpu")}


@cuda
def test_balanced_on_a_gpu_that_is_too_small(llama, tmp_path, monkeypatch, statistics_text):
    """One GPU with room for a part of the blocks: the rest is brought in when it is used, and edits come out alike."""
    folder = saved(llama, tmp_path)
    size = sum(parameter.numel() * 4 for parameter in llama.model.parameters())
    monkeypatch.setattr(editable, "room_for_weights", lambda _: {0: int(0.6 * size), "cpu": 2**33})
    lm = load_model(folder, device="balanced")
    assert lm.offloaded and lm.device.type == "cuda" and lm.fingerprint == llama.fingerprint
    sessions = [new_session(one, statistics_text, layers=(3, 4)) for one in (llama, lm)]
    for session in sessions:
        session.edit(CITIES)
    for layer, matrix in sessions[1].matrices().items():
        assert matrix.device.type == "cuda"
        torch.testing.assert_close(matrix.cpu(), sessions[0].matrices()[layer], rtol=2e-2, atol=2e-3)
