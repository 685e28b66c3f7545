"""The matrix of families: whatever the program does, on a tiny random model of every family that it knows.

`python tests/family_matrix.py` prints it as a table. Each cell holds the program to something else: plain forward
passes of transformers, torch on entries of the state dict, hooks of the test's own.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

import pytest
import tiny_families
import torch
import transformers
from refusals import refusal
from test_keys import naive_keys
from test_sublayers import added_by_sublayers, streams
from tiny_families import D_MLP, D_MODEL, FOUND_BY_STRUCTURE, N_LAYERS
from tiny_models import CITIES, PREFIXES, Snapshot, hooks_and_patches
from torch.nn import functional as F

from encore_core.editing.batch_report import BatchReport
from encore_core.editing.keys import KeyReader
from encore_core.editing.session import EditSession
from encore_core.editing.target_loss import TargetSettings
from encore_core.editing.targets import optimise_targets
from encore_core.export.folder import write_model_folder
from encore_core.forward.decoding import end_tokens
from encore_core.forward.prompts import encode, encode_fact, pad
from encore_core.forward.tracing import run
from encore_core.measures.answers import answer_probabilities
from encore_core.measures.norms import matrix_norms
from encore_core.measures.sublayers import measure_contributions, sublayer_outputs
from encore_core.measures.writing import Writing, written
from encore_core.models import families, trial_run
from encore_core.models.editable import EditableModel, load_model, wrap
from encore_core.models.families import find_parts, skeleton

LAYERS = (1, 2)
TARGETS = TargetSettings(steps=4, lr=0.2, clamp=2.0, weight_decay=0.5, kl_factor=0.0625, mpes=True, mpes_extra_steps=1)
TEXTS = ("The capital of France is Paris and it is old.", "Kenya")


@pytest.fixture(scope="module", params=tiny_families.FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def lm(family) -> EditableModel:
    return tiny_families.made(family)


@dataclass
class Edited:
    """A session with one batch in it, and the model's weights from before."""

    session: EditSession
    report: BatchReport
    before: Snapshot


@pytest.fixture(scope="module")
def edited(lm, statistics_text) -> Edited:
    before = Snapshot.of(lm)
    settings = {"layers": LAYERS, "lambda_p": 0.01, "lambda_n": 0.001, "clamp": 2.0, "lr": 0.5, "steps": 8,
                "statistics_tokens": 1000}  # fmt: skip
    session = EditSession(lm, "ENCORE", settings=settings, statistics_text=statistics_text)
    return Edited(session, session.edit(CITIES), before)


def weight_name(lm: EditableModel, layer: int) -> str:
    return next(name for name, parameter in lm.model.named_parameters() if parameter is lm.parameter(layer))


@torch.no_grad()
def plain_states(lm, facts) -> torch.Tensor:
    """h at the last edited layer at the subjects' last tokens, (n_facts, d_model), by one plain pass a fact."""
    rows = [encode_fact(lm, fact) for fact in facts]
    return torch.stack([streams(lm, row.ids[: row.lookup + 1])[LAYERS[-1] + 1][-1] for row in rows])


# -- where things are --------------------------------------------------------------------------------------------------


def test_parts(lm, family):
    """Matrix, embedding and final norm are what the model computes with, and where the row says."""
    parts, config = lm.parts, families.text_config(lm.model.config)
    assert (lm.model.config.model_type in families.FAMILIES) == (family not in FOUND_BY_STRUCTURE)
    assert len(lm.blocks) == N_LAYERS
    assert parts.embedding is lm.model.get_input_embeddings()
    ids = torch.tensor([lm.tokenizer(TEXTS[0])["input_ids"]])
    with torch.no_grad():
        h_L = streams(lm, ids[0].tolist())[-1]
        found = lm.model.get_output_embeddings()(parts.final_norm(h_L))
        cap, scale = getattr(config, "final_logit_softcapping", None), getattr(config, "logits_scaling", 1.0)
        found = cap * torch.tanh(found / cap) if cap else found * getattr(config, "logit_scale", 1.0) / scale
        torch.testing.assert_close(found, lm.model(ids).logits[0], rtol=1e-4, atol=1e-4)
    for layer, module in enumerate(lm.down_projections):
        W = lm.matrix(layer)
        assert W.shape == (D_MODEL, lm.d_mlp) and lm.d_mlp in (D_MLP, 4 * D_MODEL)
        assert W.data_ptr() == lm.parameter(layer).data_ptr()
        k = torch.randn(1, lm.d_mlp, generator=torch.Generator().manual_seed(layer))
        written = module(k)[0] - (module.bias if module.bias is not None else 0)
        torch.testing.assert_close(written, W @ k[0], rtol=1e-5, atol=1e-5)


# -- the matrix --------------------------------------------------------------------------------------------------------


def test_targets(lm, family, caplog):
    """The fast target pass gives what the plain one gives, and it is the fast one that was used."""
    lm.checked_paths.clear()
    fast, plain = (optimise_targets(lm, CITIES, PREFIXES, LAYERS[0], TARGETS, fast=fast) for fast in (True, False))
    packed = tiny_families.FAMILIES[family].attention_by_name
    assert lm.checked_paths == {LAYERS[0]: "packed" if packed else "padded"}, caplog.text
    for a, b in zip(fast, plain, strict=True):
        assert (a.steps, a.stopped) == (b.steps, b.stopped)
        assert a.loss == pytest.approx(b.loss, rel=1e-3)
        assert float((a.z - b.z).norm()) <= 1e-3 * float(b.z.norm())


def test_edit(lm, edited):
    """The new answers gain, because the states at the subjects come close to their targets; keys are the naive ones."""
    z = torch.stack([item.target.z for item in edited.report.edited])
    before = plain_states(lm, CITIES)
    with edited.session.edited():
        after = plain_states(lm, CITIES)
    # Behind a norm of its own an MLP adds less than its matrix writes: OLMo 2 goes a fifth of the way.
    assert float((z - after).norm(dim=-1).mean()) < 0.85 * float((z - before).norm(dim=-1).mean())
    gains = [math.log(item.probability_after / item.probability_before) for item in edited.report.edited]
    assert sum(gains) > 0.1
    K = KeyReader(lm, CITIES, PREFIXES, LAYERS).keys(LAYERS[0])
    torch.testing.assert_close(K, naive_keys(lm, CITIES, PREFIXES, LAYERS[0]), rtol=1e-4, atol=1e-5)
    assert edited.before.holds(lm)


def test_undo(lm, edited):
    """Bit for bit: a second batch taken back leaves the first one's matrices, and the base weights never changed."""
    session = edited.session
    first = {layer: matrix.clone() for layer, matrix in session.matrices().items()}
    assert set(first) == set(LAYERS) and not torch.equal(first[1], lm.parameter(1))
    session.edit([replace(CITIES[0], target_new="Oslo")], known="edit")
    assert not torch.equal(session.matrices()[1], first[1])
    session.undo()
    assert all(torch.equal(session.matrices()[layer], matrix) for layer, matrix in first.items())
    assert edited.before.holds(lm) and session.n_edits == len(CITIES)


@torch.no_grad()
def plain_score(lm, text: str, answer: str) -> float:
    """Mean log-probability of an answer's tokens, by one plain forward pass."""
    prompt, whole = (lm.tokenizer(t)["input_ids"] for t in (text, f"{text} {answer}"))
    assert whole[: len(prompt)] == prompt  # the tiny tokenizers merge nothing across this border
    log_probabilities = F.log_softmax(lm.model(torch.tensor([whole])).logits[0].double(), -1)
    return sum(float(log_probabilities[i - 1, whole[i]]) for i in range(len(prompt), len(whole))) / (
        len(whole) - len(prompt)
    )


def test_score(lm, edited):
    """Before and after the edit, prompts of unequal length in one batch."""
    pairs = [(fact.text, answer) for fact in CITIES for answer in (fact.target_new, fact.target_true)]
    for context in (edited.session.pristine, edited.session.edited):
        with context():
            for pair, answer in zip(pairs, answer_probabilities(lm, pairs), strict=True):
                assert answer.log_probability == pytest.approx(plain_score(lm, *pair), rel=1e-4, abs=1e-4)


def test_norms(lm, edited):
    """Of every layer, against the state dict; before and after."""
    for context in (edited.session.pristine, edited.session.edited):
        with context():
            found = matrix_norms({layer: lm.matrix(layer) for layer in range(lm.n_layers)})
            entries = lm.model.state_dict()
            for layer, norm in found.items():
                entry = entries[weight_name(lm, layer)]
                assert entry.shape in ((D_MODEL, lm.d_mlp), (lm.d_mlp, D_MODEL))
                assert norm == pytest.approx(float(torch.linalg.matrix_norm(entry.double())), rel=1e-9)
    for layer, (original, now) in edited.session.norms().items():
        assert original != now and math.isfinite(now)
        assert now == pytest.approx(edited.report.norms[layer][1], rel=1e-6)


def test_contributions(lm, family, edited):
    """Parts add up to the stream, and each is what is missing when a block's MLP is silenced."""
    refused = tiny_families.FAMILIES[family].refuses.get("contributions")
    tidy = hooks_and_patches(lm)
    with edited.session.edited():
        if refused:
            assert refused in refusal(measure_contributions, lm, TEXTS)
            return
        ids = lm.tokenizer(TEXTS[0])["input_ids"]
        batch = pad(lm, [ids])
        with torch.no_grad(), sublayer_outputs(lm, batch.mask.bool()) as outputs:
            h_L = run(lm, batch.ids, batch.mask, stop=lm.n_layers)[0]
        expected = added_by_sublayers(lm, ids)
        scale = float(expected.abs().max())
        torch.testing.assert_close(torch.stack(outputs), expected, rtol=1e-4, atol=1e-5 * scale)
        torch.testing.assert_close(torch.stack(outputs).sum(0), h_L, rtol=1e-4, atol=1e-5 * scale)
        found = measure_contributions(lm, TEXTS)
    assert sum(part.share for part in found.parts) == pytest.approx(1, abs=1e-9)
    assert sum(part.signed_share for part in found.parts) == pytest.approx(1, abs=1e-4)
    assert found.missing < 1e-5
    assert hooks_and_patches(lm) == tidy


@pytest.fixture(scope="module")
def exported(lm, edited, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "edited"
    write_model_folder(folder, edited.session, [edited.report], "a test", 3)
    return folder


def test_export(lm, edited, exported):
    """The folder holds the edited matrices and, of everything else, the weights from before."""
    from safetensors.torch import load_file

    written = {name: tensor for file in exported.glob("*.safetensors") for name, tensor in load_file(file).items()}
    matrices = {weight_name(lm, layer): matrix for layer, matrix in edited.session.matrices().items()}
    own = [name for name in written for layer in LAYERS if torch.equal(written[name], edited.session.matrices()[layer])]
    assert len(own) == len(LAYERS)  # under whatever name the file has them
    same = [name for name, tensor in edited.before.weights.items() if name in written and name not in matrices]
    assert len(same) > N_LAYERS or lm.model.config.model_type == "gemma3"  # whose file has older names
    assert all(torch.equal(written[name], edited.before.weights[name]) for name in same)


def test_reload(lm, edited, exported, tmp_path):
    """The exported folder says what the edited model says; one that was not edited has the fingerprint it had."""
    again = load_model(str(exported), device="cpu")
    assert again.fingerprint != lm.fingerprint
    ids = torch.tensor([lm.tokenizer(TEXTS[0])["input_ids"]])
    with edited.session.edited(), torch.no_grad():
        assert torch.equal(again.model(ids).logits, lm.model(ids).logits)
    assert all(torch.equal(again.parameter(layer), matrix) for layer, matrix in edited.session.matrices().items())
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    assert load_model(str(tmp_path), device="cpu").fingerprint == lm.fingerprint


# -- finding -----------------------------------------------------------------------------------------------------------


def test_rows_and_structure_agree(lm, family, monkeypatch):
    """Without its row a family is found as well: the row says nothing that the module does not."""
    with monkeypatch.context() as patch:
        patch.setattr(families, "FAMILIES", {})
        found = find_parts(lm.model, family)
    for name in ("embedding", "final_norm", "transposed"):
        assert getattr(found, name) is getattr(lm.parts, name)
    for name in ("blocks", "attentions", "mlps", "down_projections"):
        assert all(a is b for a, b in zip(getattr(found, name), getattr(lm.parts, name), strict=True))
    with monkeypatch.context() as patch:
        patch.setattr(trial_run, "FAMILIES", {})
        trial_run.check_run(lm.model, lm.parts, family)


def test_a_model_is_found_without_its_weights(family):
    parts = find_parts(skeleton(tiny_families.config_of(tiny_families.FAMILIES[family])), family)
    assert {module.weight.device.type for module in parts.down_projections} == {"meta"}


# -- what is refused ---------------------------------------------------------------------------------------------------

SMALL = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
EXPERTS = SMALL | {"num_key_value_heads": 2, "num_experts_per_tok": 2}
ENCODER_DECODER = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
                   "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}  # fmt: skip
REFUSED = {
    "Mixtral": ("Mixtral", EXPERTS | {"num_local_experts": 4}, "mixture of experts"),
    "Qwen 2 MoE": ("Qwen2Moe", EXPERTS | {"num_experts": 4, "moe_intermediate_size": 32,
                                          "shared_expert_intermediate_size": 64}, "mixture of experts"),
    "Qwen 3 MoE": ("Qwen3Moe", EXPERTS | {"num_experts": 4, "moe_intermediate_size": 32, "head_dim": 8},
                   "mixture of experts"),
    "gpt-oss": ("GptOss", EXPERTS | {"num_local_experts": 4, "head_dim": 8}, "mixture of experts"),
    "OLMoE": ("Olmoe", EXPERTS | {"num_experts": 4}, "mixture of experts"),
    "experts from the second block on": ("DeepseekV3", EXPERTS | {
        "n_routed_experts": 4, "first_k_dense_replace": 1, "moe_intermediate_size": 32, "kv_lora_rank": 8,
        "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8, "n_group": 1, "topk_group": 1,
    }, "mixture of experts"),
    "Mamba": ("Mamba", {"hidden_size": 32, "num_hidden_layers": 2}, "0 attention parts, need 1; state-space"),
    "LFM 2, convolutions and attention": ("Lfm2", EXPERTS | {"layer_types": ["conv", "full_attention"] * 2},
                                          "block 0 .* 0 attention parts"),
    "BERT": ("Bert", SMALL, "'bert', which is not a decoder-only .* encoder"),
    "RoBERTa": ("Roberta", SMALL, "'roberta', which is not a decoder-only .* encoder"),
    "T5": ("T5", {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}, "'t5', .* reads from an"),
    "BART": ("Bart", ENCODER_DECODER, "'bart', .* reads from an encoder"),
    "ViT": ("ViT", SMALL | {"image_size": 8, "patch_size": 4}, "'vit', which is not a decoder-only"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_models_that_cannot_be_edited(kind, tmp_path):
    """From the configuration alone: nobody waits for 90 GB of experts to be read first."""
    name, sizes, message = REFUSED[kind]
    vocabulary = {} if kind == "ViT" else {"vocab_size": 100}
    getattr(transformers, f"{name}Config")(**sizes, **vocabulary).save_pretrained(tmp_path)
    tiny_families.tokenizer().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"never read")
    text = refusal(load_model, str(tmp_path), device="cpu")
    assert re.search(message, text), text
    assert str(tmp_path)[:20] in text


class TestFamiliesWithoutARow:
    """What a new family has to show before it is believed."""

    @pytest.fixture
    def model(self):
        return tiny_families.random_model(tiny_families.FAMILIES["StableLM"])

    def wrap(self, model):
        return wrap(model, tiny_families.tokenizer(), "new")

    def test_it_is_found(self, model):
        assert self.wrap(model).parts.down_projections[0] is model.model.layers[0].mlp.down_proj

    def test_two_candidates(self, model):
        model.model.layers[1].extra = torch.nn.Linear(8, D_MODEL)
        message = refusal(self.wrap, model)
        assert "2 candidates (mlp.down_proj, extra) for the MLP output matrix" in message

    def test_no_candidate(self, model):
        model.model.layers[1].mlp = torch.nn.Identity()
        assert "0 candidates for the MLP output matrix in StableLmDecoderLayer" in refusal(self.wrap, model)

    def test_no_attention(self, model):
        model.model.layers[1].self_attn = torch.nn.Identity()
        assert "block 1 (StableLmDecoderLayer of Identity," in refusal(self.wrap, model)

    def test_two_lists_of_blocks(self, model):
        model.model.others = torch.nn.ModuleList(torch.nn.Identity() for _ in range(N_LAYERS))
        assert f"2 candidates for the list of its {N_LAYERS} decoder blocks" in refusal(self.wrap, model)

    def test_tokens_that_see_later_ones(self, model):
        for block in model.model.layers:
            block.register_forward_hook(lambda _, args, output: output + 0.1 * output.mean(1, keepdim=True))
        assert "its attention is not causal" in refusal(self.wrap, model)

    def test_blocks_that_are_run_twice(self, model):
        block = model.model.layers[0]
        block.register_forward_hook(lambda module, args, kwargs, output: module.forward(output, **kwargs),
                                    with_kwargs=True)  # fmt: skip
        model.model.layers[1].mlp.forward = model.model.layers[0].mlp.forward
        assert "do not run one after the other" in refusal(self.wrap, model)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"decoder": "elsewhere"}, "elsewhere"),
        ({"matrix": "up_proj"}, "up_proj of block 0"),
        ({"matrix": "gate_proj"}, "gate_proj of block 0"),
        ({"blocks": "rotary_emb"}, "not iterable"),
        ({"embedding": "norm"}, "norm"),
        ({"transposed": True}, "down_proj of block 0"),
    ],
)
def test_a_row_that_is_wrong_is_noticed(change, what, monkeypatch):
    """As when a version of transformers moves something: no other matrix is edited instead."""
    wrong = replace(families.FAMILIES["llama"], **change)
    monkeypatch.setitem(families.FAMILIES, "llama", wrong)
    message = refusal(find_parts, tiny_families.random_model(tiny_families.FAMILIES["Llama 2"]), "mine")
    assert "not built as expected" in message and what in message


def test_a_text_is_that_of_plain_passes(lm):
    ids = pad(lm, [encode(lm, TEXTS[0]).ids]).ids
    expected = []
    with torch.no_grad():
        for _ in range(5):
            expected.append(int(lm.model(ids, use_cache=False).logits[0, -1].argmax()))
            ids = torch.cat([ids, torch.tensor([expected[-1:]])], dim=1)
    expected = expected[: next((n for n, token in enumerate(expected, 1) if token in end_tokens(lm)), None)]
    for guess in ((), expected[:2], (expected[0], 7, 3), (7, *expected[1:]), (7, 7, *expected[1:4]), expected[::-1]):
        assert list(written(lm, TEXTS[0], Writing(tokens=5), guess).ids) == expected
