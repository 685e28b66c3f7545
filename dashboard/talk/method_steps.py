"""The method in seven steps: texts and equations, in the notation of the paper. Knows no streamlit.

Equations are LaTeX of ours; nothing that a visitor types or a model says is ever part of one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        key: in the address.
        short: in the list of steps.
        title: its heading.
        text: paragraphs.
        equations: LaTeX, one per line.
        symbols: what the symbols stand for.
        lit: parts of the drawing that it is about, see `parts.learn.block_drawing`.
        drawn: what they are, in a sentence.
    """

    key: str
    short: str
    title: str
    text: tuple[str, ...]
    equations: tuple[str, ...]
    symbols: str
    lit: tuple[str, ...]
    drawn: str


STEPS = (
    Step(
        "fact",
        "A fact",
        "What a fact is in the model",
        (
            "Every block of the model has an MLP. Its last matrix, W, reads a key k, the pattern that the block has "
            "recognised, and writes a value v into the residual stream, the running sum that the answer is read from.",
            "At the last token of a subject the MLPs of some middle layers write what the model knows about it. So a "
            "fact is a pair: the key of the subject, and the value that W gives back for it. To edit the fact is to "
            "change W so that the same key gives another value.",
        ),
        (
            r"v^{\ell} = W^{\ell} k^{\ell} \qquad h^{\ell} = h^{\ell-1} + a^{\ell} + v^{\ell}",
            r"k = \tfrac12\Big(k_{\mathrm{plain}} + \tfrac15\textstyle\sum_{c=1}^{5} k_c\Big)",
        ),
        "ℓ: layer · a: what attention writes · h: the residual stream after the layer · k for an edit, at the "
        "subject's last token: the average of the plain prompt's key and the mean key after five sampled prefixes c.",
        ("subject", "key", "W", "value"),
        "At the subject's last token, the key k enters W, and the value v that W gives back is added to "
        "the residual stream.",
    ),
    Step(
        "target",
        "Its target",
        "Finding the target",
        (
            "Which value would make the model say the new answer? That is found by gradient descent, before any matrix "
            "is touched: a vector δ is added to the hidden state at the subject's last token, in the last layer that "
            "will be edited, and adjusted until the answer becomes probable.",
            "Two penalties hold it back: what the model says about the subject in general must stay (the KL term), and "
            "δ must stay short (weight decay, and a clamp on its length). The state found, z = h + δ, is the target.",
        ),
        (
            r"\mathcal L(\delta) = \operatorname*{mean}_{c} \frac{-\log p_{\delta}(y \mid c)}{|y|}"
            r" + \beta\,\mathrm{KL}\big(p_{\delta} \,\|\, p_0\big)"
            r" + \omega\,\frac{\lVert\delta\rVert}{\lVert h\rVert^2}",
            r"z = h + \delta",
        ),
        "y: the new answer · c: the prompt, plain and after five sampled prefixes · KL: at the subject in “{subject} "
        "is a” · β: KL factor · ω: weight decay · after every step ‖δ‖ is cut to a set share of ‖h‖.",
        ("target", "answer"),
        "In the last layer to be edited, δ is added to the hidden state h until the answer is Rome. "
        "Nothing in the layers has changed yet.",
    ),
    Step(
        "update",
        "The update",
        "The least-squares update",
        (
            "Now W is changed so that its output at the keys K of a batch of facts grows by the residuals R, what is "
            "missing to reach the targets, while everything else the matrix does is disturbed as little as possible. "
            "That is a least-squares problem, and its solution is one formula.",
            "The residual is spread: the first of m edited layers takes 1/m of what is missing, the next one 1/(m−1) "
            "of what is missing then, and the last one all that is left.",
        ),
        (
            r"\Delta = R\,\big(S + K^{\top} P K\big)^{-1} K^{\top} P \qquad W \leftarrow W + \Delta",
            r"R = \frac{z - h}{m - j} \qquad P = (\lambda_p C_0 + \lambda_n I)^{-1}",
        ),
        "K: keys of the batch, one column per fact · R: residuals · S: slack, I for all methods but EMMET (εI) · P: "
        "inverse of everything to be preserved · C₀: mean of k kᵀ over general text · j: layers done so far.",
        ("key", "W", "target"),
        "W is changed so that its output at the key k grows by what is missing from h to the target z.",
    ),
    Step(
        "again",
        "Again",
        "Doing it thousands of times",
        (
            "The next batch starts from the matrix that the last one left. The keys of facts edited before join what "
            "is to be preserved: P becomes smaller in their directions, by the same formula as in recursive least "
            "squares, so that nothing has to be solved again.",
            "All methods of the paper preserve earlier edits in this way here. What differs is where P begins and how "
            "far targets are pushed, and that decides how fast the matrices grow.",
        ),
        (r"P \leftarrow P - P K\big(I + K^{\top} P K\big)^{-1} K^{\top} P",),
        "‖W‖: Frobenius norm of an edited matrix, W₀ as it was loaded · scores: shares in per cent, on a sample of the "
        "facts edited so far.",
        ("W", "sheets"),
        "Every batch of facts adds another Δ to the same matrix W.",
    ),
    Step(
        "breaks",
        "Why it breaks",
        "Why it breaks",
        (
            "Each Δ is small, but they add up, and nothing in MEMIT keeps the sum small. A larger matrix writes larger "
            "vectors, and on the paper's models a much larger share of the residual stream comes from the few edited "
            "layers: edited facts win because these layers outvote the rest. The paper calls it importance hacking.",
            "The price is paid elsewhere: text becomes less probable, tasks fail, neighbours of edited facts go wrong, "
            "and facts that were edited first can be forgotten. What is said below is computed from the runs shown: "
            "how much of it has happened there, and whether the edited layers outvote the rest at all.",
        ),
        (
            r"\mathrm{share}_s = \operatorname*{mean}_{\mathrm{tokens}}"
            r" \frac{\lVert o_s\rVert}{\sum_t \lVert o_t\rVert}",
        ),
        "o: what a sublayer (input, attention or MLP of a layer) adds to the residual stream · shares are measured on "
        "a fixed text.",
        ("stream", "attention", "value", "share"),
        "Attention and all other layers add to the same residual stream as v; the share of v is measured below.",
    ),
    Step(
        "mpes",
        "MPES",
        "First remedy: stop early (MPES)",
        (
            "Without a reason to stop, the search for a target goes on until the answer is nearly certain. The paper "
            "finds that its models hold what they learned by themselves with less certainty: the edited fact is "
            "overfitted, and its target lies further away than necessary.",
            "Most-Probable Early Stopping ends the search as soon as every token of the answer is the most probable "
            "one in every sampled context, plus a few extra steps. Targets lie nearer, R is smaller, and so is Δ.",
        ),
        (
            r"t^{*} = \min\big\{\, t : y_i = \operatorname*{arg\,max}_{w}\; p_{\delta_t}(w \mid c,\, y_{<i})"
            r"\ \ \forall\, i,\ \forall\, c \,\big\} + n_{\mathrm{extra}}",
        ),
        "t: step of the search · y_i: token i of the answer · c: sampled context · n_extra: extra steps.",
        ("target", "answer", "stop"),
        "The search for z stops as soon as Rome is the most probable answer; z stays nearer to h.",
    ),
    Step(
        "norm",
        "Norm constraint",
        "Second remedy: a penalty on the norm",
        (
            "ENCORE adds one term to the least-squares problem: λn times the squared norm of the change itself. The "
            "solution keeps its form; only P begins as another matrix.",
            "With λn = 0 it is MEMIT's problem. The larger λn, the less the matrices grow, and at some point the new "
            "facts are no longer written: that is the trade-off below.",
        ),
        (
            r"\min_{\Delta}\; \lVert R - \Delta K\rVert_F^2 + \lambda_p \operatorname{tr}\big(\Delta C_0 "
            r"\Delta^{\top}\big) + \lambda_n \lVert \Delta\rVert_F^2",
            r"\Longrightarrow\quad P = (\lambda_p C_0 + \lambda_n I)^{-1}",
        ),
        "λp: how strongly general behaviour is preserved · λn: penalty on the norm · ‖·‖F: Frobenius norm.",
        ("W", "price"),
        "The change Δ of W is penalised: λn times its squared norm.",
    ),
)

BY_KEY = {step.key: step for step in STEPS}
