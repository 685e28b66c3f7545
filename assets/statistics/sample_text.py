"""Sample the text from which the embedded model's key statistics are gathered.

    python assets/statistics/sample_text.py assets/statistics/smollm2-135m.txt

No corpus travels with the program; the model's own continuations of a few hundred short openings stand in for one. They
are reproducible (seeded), carry no one's rights, and cover the kinds of sentence that facts are stated in. About
45,000 tokens; takes some minutes on two cores.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from encore_core.models.editable import load_model

OPENINGS = """The history of|In the nineteenth century,|The city of|Scientists have found that|My grandmother used to
She walked into the|The main difference between|According to the report,|A recent study of|He was born in
The company was founded|During the war,|Many people believe that|The river flows through|To make a good
The language spoken in|One of the most important|The president of the|In mathematics,|The novel tells the story
When the rain stopped,|The museum was|The first step is to|Children often|In the north of the country,|The team won
The human body|Once upon a time,|The government announced|An engine works by|The painter|The composer wrote
Most birds|If you want to learn|The island of|The article explains|Last year, the|The temple was built|The capital
The currency of|Her mother tongue is|The headquarters of|He plays the|The mountain is located in|The software
A farmer in|The philosopher argued that|Water is|The train from|On the other hand,|The recipe calls for|The law
In computer science, a|The planet|The actor is best known for|Doctors recommend|The football player|The species is
The economy of|In the Middle Ages,|The letter said:|Question: Why does|For example,|The professor explained"""

SEQUENCES_PER_OPENING = 4
NEW_TOKENS = 180


def main(path: Path) -> None:
    lm = load_model("smollm2-135m", device="cpu")
    openings = [part.strip() for part in OPENINGS.replace("\n", "|").split("|") if part.strip()]
    torch.manual_seed(0)
    texts = []
    for start in range(0, len(openings), 16):
        batch = lm.tokenizer(openings[start : start + 16], return_tensors="pt", padding=True, padding_side="left")
        out = lm.model.generate(
            **batch,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=0.95,
            max_new_tokens=NEW_TOKENS,
            num_return_sequences=SEQUENCES_PER_OPENING,
        )
        texts += lm.tokenizer.batch_decode(out, skip_special_tokens=True)
        print(f"{len(texts)} of {len(openings) * SEQUENCES_PER_OPENING} passages", file=sys.stderr)
    # A blank line parts passages, so none may lie inside one.
    path.write_text("\n\n".join(" ".join(text.split()) for text in texts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
