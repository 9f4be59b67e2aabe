"""Makes tests/golden/cross: what sentence-transformers' CrossEncoder says of pairs of texts.

    python tests/golden/make_cross.py

Needs torch, transformers and sentence-transformers 6.2. A case is a fixture of `families`, whose
weights it takes, with a tokenizer; `scores.json` holds the pairs, their scores, and what the case
changes in the config.json.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from sentence_transformers import CrossEncoder
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

FOLDER = Path(__file__).parent / "cross"
FAMILIES = Path(__file__).parent / "families"
# No word begins like a special one (w0 to w3), which would be cut out of it.
PAIRS = [("w5 w6 w7", "w9"), ("w5", "w41 w42 w43 w44 w45 w46 w47 w48"), ("w8", "w55 w50")]
PAIRS.append(
    (" ".join(f"w{i}" for i in range(40, 56)), " ".join(f"w{i}" for i in range(54, 40, -1)))
)
IDENTITY = {"activation_fn": "torch.nn.modules.linear.Identity"}
OLD = {"sbert_ce_default_activation_function": "torch.nn.modules.activation.Sigmoid"}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "three": ("bert_texts", {}),
    "three_old": ("bert_texts", OLD),
    "one": ("roberta_rank", {}),
    "one_logit": ("roberta_rank", {"sentence_transformers": IDENTITY}),
    "mean": ("modernbert_rank", {}),
    "small": ("distilbert_texts", {}),
}


def tokenizer(base: str, folder: Path) -> None:
    """The word w17 is token 17; RoBERTa's padding is token 1."""
    first, pad = ("w0", "w1") if base.startswith("roberta") else ("w1", "w0")
    made = Tokenizer(models.WordLevel({f"w{i}": i for i in range(56)}, unk_token="w3"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [(first, int(first[1:])), ("w2", 2)]
    pair = f"{first} $A w2 $B:1 w2:1"
    made.post_processor = processors.TemplateProcessing(f"{first} $A w2", pair, ends)
    words = {"pad_token": pad, "cls_token": first, "sep_token": "w2", "unk_token": "w3"}
    names = ["input_ids", "attention_mask"]
    names += ["token_type_ids"] if base.startswith("bert") else []
    PreTrainedTokenizerFast(
        tokenizer_object=made, model_max_length=24, model_input_names=names, **words
    ).save_pretrained(folder)


def make(name: str, base: str, changes: dict[str, Any]) -> None:
    """Writes one case."""
    folder = FOLDER / name
    shutil.copytree(FAMILIES / base, folder, ignore=shutil.ignore_patterns("golden*"))
    tokenizer(base, folder)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    scores = CrossEncoder(str(folder), device="cpu").predict(PAIRS).tolist()
    for other in (file, folder / "model.safetensors"):
        other.unlink()
    content = {"base": base, "config": changes, "pairs": PAIRS, "scores": scores}
    (folder / "scores.json").write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    shutil.rmtree(FOLDER, ignore_errors=True)
    for case, (base, changes) in CASES.items():
        make(case, base, changes)
