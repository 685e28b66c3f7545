"""What each method is, for people: what it changes, its formula, where it comes from, what it keeps between batches."""

from __future__ import annotations

from dataclasses import dataclass, replace

from encore_core.methods import METHODS, PAPER


@dataclass(frozen=True)
class Card:
    """One method, for people.

    Attributes:
        changes: what sets it apart.
        formula: in the notation of `editing.update_rule`.
        keeps: what it remembers of earlier batches.
        licence: of the authors' code, or of the public port that was read; nothing was copied from it.
        note: what is good to know: scaled settings, departures from the published code.
        paper: where the method was published, if not in what its row names as `source`.
    """

    changes: str
    formula: str
    keeps: str
    licence: str
    note: str = ""
    paper: str = ""


_P = "P of every edited layer, the keys of the edits included"

CARDS = {
    "MEMIT": Card(
        "Spreads each edit over several layers by least squares.",
        "Δ = R (I + KᵀPK)⁻¹ KᵀP,  P = (λp C0)⁻¹",
        _P,
        "MIT",
        "RLSEdit (arXiv 2601.15686) with λ² = 0 and μ = 1 is this same recursion, so it has no row of its own.",
        "arXiv 2210.07229",
    ),
    "MEMIT+norm": Card(
        "MEMIT with ENCORE's constraint on the matrix's norm, and without its early stopping.",
        "P = (λp C0 + λn I)⁻¹",
        _P,
        "none found",
    ),
    "EMMET": Card(
        "As MEMIT, but the new facts are an equality constraint.",
        "Δ = R (εI + KᵀPK)⁻¹ KᵀP,  P = (λp C0)⁻¹",
        _P,
        "MIT",
        "Its P follows the recursion that RLSEdit (arXiv 2601.15686) describes.",
        "arXiv 2403.14236",
    ),
    "AlphaEdit": Card(
        "Projects updates onto the null space of general text, directions that it hardly uses.",
        "P = U Uᵀ / L2,  U: eigenvectors of C0 with an eigenvalue below the threshold",
        _P,
        "none found",
        paper="arXiv 2410.02355",
    ),
    "ENCORE": Card(
        "MEMIT with early stopping of targets and a constraint on the matrix's norm.",
        "P = (λp C0 + λn I)⁻¹",
        _P,
        "none found",
    ),
    "ENCORE-N": Card(
        "Ours, not from a paper: ENCORE with targets found along the natural gradient, the direction that makes the "
        "answer likelier at the least cost to general text, instead of by Adam; a step looks at two contexts in turn "
        "until they say the answer, and then at all.",
        "δ ← δ − η s F̂⁻¹g / ‖F̂⁻¹g‖,  F̂ = F / (tr F / d) + εI,  F = E[g gᵀ] over general text;  P = (λp C0 + λn I)⁻¹",
        f"{_P}; F of the last edited layer",
        "this program's own",
        "On the embedded model it edits blocks 2 to 10 with λp = 900, where ENCORE edits 6 to 10 with 300; both come "
        "from trials on held-out facts. It takes no extra step after MPES there: the step that follows the answer of "
        "two contexts does as much. For thousands of edits λp is 2,000 there, and facts that are left unsaid are "
        "pushed on up to twice. On other models it takes ENCORE's settings, its extra steps included. The settings "
        "search and contexts_at_once do the same for any method.",
    ),
    "SPHERE": Card(
        "AlphaEdit, with each update weakened along the main directions of the matrix's rows, so that the rows stay "
        "spread out.",
        "Δ ← Δ (I − α U Uᵀ),  U: first eigenvectors of ŴᵀŴ / d_model up to a share η of their sum",
        f"{_P}; U is computed again from the matrix in every batch",
        "MIT (its port in EasyEdit)",
        "Every layer here sees the weakened updates of the layers below it; the port weakens all of them at the end. "
        "An edit cannot be taken back by itself, only undone with its batch.",
    ),
    "BetaEdit": Card(
        "As AlphaEdit, but within the null space it still weighs what general text needs, and it recomputes the null "
        "space as edits come to use it. It refuses a batch that would change a matrix too much.",
        "P = U (Uᵀ(λ₁C0 + H)U + λ₂I)⁻¹ Uᵀ,  H = Σ KKᵀ,  U: eigenvectors below the threshold of C0, after every τ edits "
        "of (H/t + λ₁C0)/(λ₁ + 1)",
        f"{_P}; C0 and H",
        "none found",
        "λ₁ = 3000, λ₂ = 10 and τ = 1000 are for 7B models; the embedded model has a smaller λ₁, as it has a smaller "
        "λp. Edits are taken back one by one until the null space has been recomputed; then batches are undone.",
    ),
    "LyapLock": Card(
        "Weights the loss on general text by a virtual queue, which grows while that loss is above its budget, and "
        "keeps the matrix's outputs for earlier facts as they were right after their edit.",
        "Δ = [RKᵀ − λqE C0 + Σ(V_p − WK_p)K_pᵀ] (KKᵀ + H + λqC0)⁻¹,  E = W − W₀,  H = ΣK_pK_pᵀ,  "
        "q ← max(1, q + D/(αD₁) − 1),  D = tr(E C0 Eᵀ)",
        "C0, H, q, and of the last batch its keys and what they still miss",
        "none found",
        "A batch factorises a d_mlp × d_mlp matrix per layer; once q moves, Δ is no longer thin, and edit files hold "
        "matrices. λ = 1000 is for 7B models; the embedded one has a smaller λ, as it has a smaller λp. An edit "
        "cannot be taken back by itself, only undone with its batch.",
    ),
    "UltraEdit": Card(
        "Takes one step along the gradient of the new answers, scaled by how gradients have varied over all edits so "
        "far. It searches for nothing and needs no statistics of text.",
        "v = −lr ‖k̂‖² ĝ per token,  Δᵀ = Kᵀ(KKᵀ + I)⁻¹V,  k̂, ĝ: input and gradient, less their mean, over their spread",
        "per layer the mean and variance of inputs and gradients",
        "MIT (its port in EasyEdit)",
        "Published for the gate and up projections of some models and for down projections of others; here the down "
        "projections are edited, as with every method. lr = 1e-6 is for 7B models. It preserves nothing of its own "
        "accord. An edit cannot be taken back by itself, only undone with its batch.",
    ),
    "StableEdit": Card(
        "UltraEdit with a stronger ridge and, once there are more tokens than the model has dimensions, whitened "
        "gradients.",
        "Δᵀ = Kᵀ(KKᵀ + 10 I)⁻¹V,  ĝ = Σ^(−½)(g − mean),  Σ: running covariance of gradients",
        "per layer the mean and variance of inputs and gradients, and Σ",
        "none found",
        "The edits made before whitening begins are kept; the authors spend them on a warm-up. Small eigenvalues of Σ "
        "are bounded by a share of their mean, and not by a number. lr = 1e-6 is for 7B models. An edit cannot be "
        "taken back by itself, only undone with its batch.",
    ),
    "CrispEdit": Card(
        "Fine-tunes the matrices on the new answers by Adam, with every gradient kept out of those pairs of input and "
        "output directions that general text, and the facts edited before, need most.",
        "G' = U_B((U_BᵀGU_A) ∘ M)U_Aᵀ,  A = E[aaᵀ] = U_A S_A U_Aᵀ,  B = E[ggᵀ] = U_B S_B U_Bᵀ,  M_ij = [s^B_i s^A_j "
        "below the threshold above which lie γ of all s^B_i s^A_j]",
        "A and B of every edited layer: C0 and F, and beside them the sums of aaᵀ and ggᵀ over the edited facts",
        "none found",
        "It needs no subject, no targets and no sampled prefixes. A pass takes 32 facts a step, in order; a batch ends "
        "after 25 passes (setting steps), or when the mean loss is below 0.01 (stop_loss). Adam scales each element by "
        "itself, so that its steps reach a little into what is kept; it restarts with every batch, where the "
        "authors' goes on. lr = 5e-4 is for 7B models; the embedded one has 2e-3. General text counts as many tokens "
        "as C0 is made from. B is F, the gradient by the block's output; where a norm or a factor comes between the "
        "matrix and that (Gemma 2 and 3, OLMo 2, Granite), it fits less well. Δ is not thin, so that edit files hold "
        "the matrices as they are at the end, which can be applied but neither undone nor continued. In a session an "
        "edit cannot be taken back by itself, only undone with its batch.",
    ),
    "AlphaEdit+NAS": Card(
        "Rescales the MLP output for each target to the model's usual norm, so that no edit outweighs the others; a "
        "fact that needs more than twice that norm is not edited.",
        "v* ← a v* / ‖v*‖,  z = (h − v₀) + v*,  a: mean ‖v*‖ on the unedited model, the largest 5 % left out",
        f"{_P}; a",
        "MIT",
        "a is found once per model and block, over 1,000 facts of the bundled set (200 on the embedded model), which "
        "takes a while before the first edit (setting nas_facts). The switch works on every method with targets "
        "(setting nas); ENCORE+NAS is ours.",
    ),
    "ENCORE+NAS": Card(
        "Ours, not from a paper: ENCORE whose MLP output for each target is rescaled to the model's usual norm, as NAS "
        "does it for AlphaEdit; a fact that needs more than twice that norm is not edited.",
        "P = (λp C0 + λn I)⁻¹,  v* ← a v* / ‖v*‖,  z = (h − v₀) + v*,  a: mean ‖v*‖ on the unedited model, the "
        "largest 5 % left out",
        f"{_P}; a",
        "this program's own (NAS's code: MIT)",
        "a is found as for AlphaEdit+NAS.",
    ),
}
"""By name of the method; the paper's ablations "+MPES" have the card of what they vary, see `card_of`."""


def card_of(method: str) -> Card:
    """The card of a method in `METHODS`."""
    if method in CARDS:
        return CARDS[method]
    varied = CARDS[method.partition("+")[0]]
    changes = f"{varied.changes} Its targets stop once the new answer is the most probable one (MPES)."
    return replace(varied, changes=changes, paper=f"{varied.paper}, with MPES in {PAPER}")


def source_of(method: str) -> str:
    """Where a method was published; "" for one of ours."""
    return card_of(method).paper or METHODS[method].source
