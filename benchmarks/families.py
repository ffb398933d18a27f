"""Trains tiny random models of many families, and compares every loss with a plain loop: `make families`.

    python benchmarks/families.py [FAMILY ...]

The plain loop reads one document at a time and computes all logits with the model's own head. Both sides take three
steps of AdamW; they are equal if all losses agree to five digits. Results: benchmarks/results/families-cpu.json.
"""

import copy
import json
import logging
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from mixcpt.config import CptMethod, LssdMethod
from mixcpt.config.pretrain import FullScopeConfig, LoraScopeConfig
from mixcpt.distill.loss import Teacher, distillation_loss
from mixcpt.distill.model import check_model, decoder_of, head_of, hidden_states, read_alike, states_and_balance
from mixcpt.distill.reading import reads_one_document
from mixcpt.errors import MixcptError
from mixcpt.train.scope import apply_scope

RESULT = Path(__file__).parent / "results" / "families-cpu.json"
VOCAB, STEPS, RATE, LENGTHS = 128, 3, 1e-3, ((9, 6, 5), (12, 8))
SIZES: dict[str, Any] = {
    **{"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64},
    **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
}
EXPERTS: dict[str, Any] = {"num_local_experts": 4, "num_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2}
EXPERTS |= {"moe_intermediate_size": 16, "n_group": 1, "topk_group": 1, "n_shared_experts": 1}
CHANGES: dict[str, dict[str, Any]] = {
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0},
    "gptj": {"rotary_dim": 4},
    "codegen": {"rotary_dim": 4},
    "gemma2": {"query_pre_attn_scalar": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2},
    "llama4_text": {"attention_chunk_size": 8, "intermediate_size_mlp": 48, "num_experts_per_tok": 1},
    "mixtral": {"output_router_logits": True, "router_aux_loss_coef": 0.02},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1},
    "falcon": {"num_kv_heads": 2},
}
SCOPES = {"full": FullScopeConfig(), "lora": LoraScopeConfig(rank=4, alpha=8)}
METHODS = {"cpt": CptMethod(), "lssd": LssdMethod()}


def built(family: str) -> Any:
    """Return a tiny random model of a family, without dropout."""
    options = {**SIZES, **CHANGES.get(family, {})}
    default = AutoConfig.for_model(family)
    options |= {name: value for name, value in EXPERTS.items() if hasattr(default, name) and name not in options}
    if getattr(default, "head_dim", None) and "head_dim" not in options:
        options["head_dim"] = 8
    options |= {name: 0.0 for name, value in default.to_dict().items() if "drop" in name and isinstance(value, float)}
    config = AutoConfig.for_model(family, **options)
    with torch.device("meta"):
        num_parameters = sum(weight.numel() for weight in AutoModelForCausalLM.from_config(config).parameters())
    if num_parameters > 20_000_000:
        raise ValueError(f"{num_parameters:,} parameters with the small sizes")
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).float().eval()


def documents() -> list[list[Tensor]]:
    """Return the documents of every packed row; all rows have the same length."""
    torch.manual_seed(1)
    return [[torch.randint(3, VOCAB, (length,)) for length in row] for row in LENGTHS]


def product_losses(base: Any, method: Any, scope: Any) -> list[float]:
    """Return the loss of every step on packed rows with the fused loss."""
    student, teacher = apply_scope(copy.deepcopy(base), scope, seed=0), copy.deepcopy(base)
    read_alike(student, teacher)
    (stream,) = method.streams()
    rows = documents()
    ids = torch.stack([torch.cat(row) for row in rows])
    positions = torch.stack([torch.cat([torch.arange(len(text)) for text in row]) for row in rows])
    targets = functional.pad(torch.where(positions > 0, ids, -100)[:, 1:], (0, 1), value=-100).flatten()
    count = float((targets != -100).sum())

    def loss() -> Tensor:
        hidden, balance = states_and_balance(student, ids, positions, torch.ones_like(ids, dtype=torch.bool))
        known = None
        if stream.needs_teacher:
            with torch.no_grad():
                known = Teacher(hidden_states(teacher, ids, positions).flatten(0, 1), head_of(teacher))
        output = distillation_loss(
            hidden.flatten(0, 1), head_of(student), targets, stream, normaliser=count, teacher=known
        )
        return output.loss if balance is None else output.loss + balance

    return _steps(student, loss)


def plain_losses(base: Any, method: Any, scope: Any) -> list[float]:
    """Return the loss of every step of the plain loop."""
    student, teacher = apply_scope(copy.deepcopy(base), scope, seed=0), copy.deepcopy(base)
    (stream,) = method.streams()
    texts = [text for row in documents() for text in row]
    count = sum(len(text) - 1 for text in texts)

    def loss() -> Tensor:
        total, routers = torch.zeros(()), []
        for text in texts:
            output = student(input_ids=text[None], use_cache=False)
            logits, labels = output.logits[0, :-1], text[1:]
            total = total + stream.ce_weight * functional.cross_entropy(logits, labels, reduction="sum")
            if stream.needs_teacher:
                with torch.no_grad():
                    known = teacher(input_ids=text[None], use_cache=False).logits[0, :-1]
                total = total + stream.kl_weight * _swapped_kl(logits, known, labels, stream.temperature)
            routers.append(getattr(output, "router_logits", None))
        total = total / count
        config = base.config.get_text_config()
        if getattr(config, "output_router_logits", False) and all(routers):
            function = sys.modules[type(base).__module__].load_balancing_loss_func
            layers = tuple(torch.cat(layer) for layer in zip(*routers, strict=True))
            total = total + config.router_aux_loss_coef * function(layers, base.num_experts, base.num_experts_per_tok)
        return total

    return _steps(student, loss)


def _swapped_kl(logits: Tensor, known: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(q || p), where q has the probabilities of its first choice and of the true token swapped."""
    q = (known / temperature).softmax(dim=1)
    index, top = labels[:, None], q.argmax(dim=1, keepdim=True)
    q_label, q_top = q.gather(1, index), q.gather(1, top)
    q = q.scatter(1, top, q_label).scatter(1, index, q_top)
    p = (logits / temperature).log_softmax(dim=1)
    return temperature**2 * (torch.xlogy(q, q) - q * p).sum()


def _steps(model: Any, loss: Any) -> list[float]:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer, losses = torch.optim.AdamW(weights, lr=RATE, eps=1e-4), []
    for _ in range(STEPS):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        losses.append(float(value))
    return losses


def outcomes(family: str) -> Iterator[tuple[str, str]]:
    """Yield every combination of method and scope with its outcome."""
    try:
        base = built(family)
    except Exception as error:  # noqa: BLE001 - architectures fail on small sizes with any error
        yield "all", f"not built: {_short(error)}"
        return
    try:
        check_model(base)
    except MixcptError as error:
        yield "all", f"refused: {error.problem[:100]}"
        return
    for scope_name, scope in SCOPES.items():
        for method_name, method in METHODS.items():
            try:
                yield f"{method_name} {scope_name}", _outcome(base, method, scope)
            except MixcptError as error:
                yield f"{method_name} {scope_name}", f"refused: {error.problem[:100]}"
            except Exception as error:  # noqa: BLE001 - the table shows every failure
                yield f"{method_name} {scope_name}", f"failed: {_short(error)}"


def _outcome(base: Any, method: Any, scope: Any) -> str:
    product, plain = product_losses(base, method, scope), plain_losses(base, method, scope)
    if any(abs(one - two) > 1e-5 * max(1.0, abs(two)) for one, two in zip(product, plain, strict=True)):
        return f"differs: {product[-1]:.6f} and {plain[-1]:.6f}"
    return "equal, one document per row" if reads_one_document(decoder_of(base)) else "equal"


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:80] if str(error) else ''}"


def main() -> None:
    warnings.filterwarnings("ignore")
    logging.disable(logging.ERROR)
    torch.set_num_threads(1)
    started, table = time.monotonic(), {}
    for family in sys.argv[1:] or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        table[family] = dict(outcomes(family))
        print(f"{family:24} {sorted(set(table[family].values()))}", flush=True)
        known = json.loads(RESULT.read_text())["families"] if RESULT.exists() and len(sys.argv) > 1 else {}
        seconds = round(time.monotonic() - started)
        RESULT.write_text(
            json.dumps({"families": dict(sorted({**known, **table}.items())), "seconds": seconds}, indent=1)
        )


if __name__ == "__main__":
    main()
