"""Compares the fused loss with its peers: seconds, added memory, and the gradient's error against float64.

    python benchmarks/loss_head.py [--gpu] [--rounds 3] [--cases untied tied frozen] [--liger FOLDER]

On a GPU, `torch` is ours without its Triton kernels.

The benchmark measures the last layer: from the hidden states of student and teacher and the weights of their heads to
the loss and its gradients. Ours and `full_logits` compute Mix-CPT's objective: cross-entropy, and KL to a teacher with
swapped logits. The libraries have no such objective, so each computes its nearest one, which is less work:

* `trl`: forward KL only, without cross-entropy and swap. The size of its tiles is a constant of the library.
* `liger`: cross-entropy and forward KL with the same weights, without the swap. Not compiled; in chunks of about as
  many rows as ours, with which it needs less memory than with its default of 1024.

All paths get the same inputs and return a mean over the tokens. Each measurement runs in its own process, after a
warm-up on a small input. The paths alternate, and a ratio is the median of the rounds' ratios. Liger needs triton,
which changes torch on a CPU, so it is installed outside of the environment:

    pip install --no-deps --target FOLDER liger-kernel triton
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import distributions, version
from statistics import median

import torch
from measure import every_round, gibibytes, in_own_process, measure, medians, publish, report_cost
from torch import Tensor
from torch.nn import functional

from mixcpt.config import ObjectiveConfig
from mixcpt.distill import chunk, loss
from mixcpt.distill.loss import Teacher, distillation_loss
from mixcpt.distill.model import Head

CPU_SHAPES = ((2048, 512, 65_536),)
GPU_SHAPES = ((8192, 4096, 128_256), (8192, 4096, 151_936))
CASES = ("untied", "tied", "frozen")
"""Kinds of head: separate; tied to the embedding, so that its gradient has two sources; not trained."""
ALPHA = 0.5
LIGER_ROWS = 512
FORWARD_KL = 0.0
"""The value of the libraries' setting `beta` for forward KL."""
_SMALL = (8, 16, 64)
_EXACT_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Hidden states, head weights and labels."""

    hidden: Tensor
    weight: Tensor
    teacher_hidden: Tensor
    teacher_weight: Tensor
    labels: Tensor


def make_inputs(shape: tuple[int, int, int], case: str, device: str) -> Inputs:
    """Return inputs of the sizes of a model's last layer; the teacher differs slightly from the student."""
    rows, width, vocab = shape
    generator = torch.Generator(device).manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    draw = partial(torch.randn, generator=generator, device=device, dtype=dtype)
    weight = draw(vocab, width).mul_(width**-0.5)
    hidden = draw(rows, width)
    teacher_hidden = hidden + 0.3 * draw(rows, width)
    teacher_weight = weight.clone()
    labels = torch.randint(vocab, (rows,), generator=generator, device=device)
    return Inputs(
        hidden=hidden.requires_grad_(),
        weight=weight.requires_grad_(case != "frozen"),
        teacher_hidden=teacher_hidden,
        teacher_weight=teacher_weight,
        labels=labels,
    )


Path = Callable[[Inputs], Tensor]


def ours(inputs: Inputs, temperature: float = 1.0) -> Tensor:
    objective = ObjectiveConfig(ce_weight=ALPHA, kl_weight=1 - ALPHA, transform="swap", temperature=temperature)
    teacher = Teacher(inputs.teacher_hidden, Head(inputs.teacher_weight))
    return distillation_loss(
        inputs.hidden, Head(inputs.weight), inputs.labels, objective, normaliser=len(inputs.labels), teacher=teacher
    ).loss


def full_logits(inputs: Inputs) -> Tensor:
    """Return the same loss computed plainly: two matrices of logits, and autograd."""
    student = (inputs.hidden @ inputs.weight.T).float()
    with torch.no_grad():
        teacher = (inputs.teacher_hidden @ inputs.teacher_weight.T).float()
        index, top = inputs.labels.unsqueeze(1), teacher.argmax(dim=1, keepdim=True)
        at_label, at_top = teacher.gather(1, index), teacher.gather(1, top)
        teacher.scatter_(1, top, at_label).scatter_(1, index, at_top)
        target = functional.log_softmax(teacher, dim=1)
    log_p = functional.log_softmax(student, dim=1)
    kl = functional.kl_div(log_p, target, log_target=True, reduction="batchmean")
    return ALPHA * functional.nll_loss(log_p, inputs.labels) + (1 - ALPHA) * kl


def without_kernels() -> Path:
    """Disable the Triton kernels for the rest of the process, and return our path."""
    for module in (chunk, loss):
        module.kernels_for = lambda device, dtype: None  # type: ignore[attr-defined]
    return ours


def trl() -> Path:
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    def path(inputs: Inputs) -> Tensor:
        hidden, teacher_hidden = inputs.hidden.unsqueeze(0), inputs.teacher_hidden.unsqueeze(0)
        everywhere = torch.ones_like(inputs.labels).unsqueeze(0)
        weights = inputs.weight, inputs.teacher_weight
        mean, *_ = _chunked_divergence_loss(hidden, teacher_hidden, *weights, everywhere, beta=FORWARD_KL)
        return mean

    return path


def liger() -> Path:
    from liger_kernel.chunked_loss.jsd_loss import LigerFusedLinearJSDLoss

    fused = LigerFusedLinearJSDLoss(ALPHA, 1 - ALPHA, beta=FORWARD_KL, compiled=False, chunk_size=LIGER_ROWS)

    def path(inputs: Inputs) -> Tensor:
        weights = inputs.weight, inputs.teacher_weight
        mean: Tensor = fused(inputs.hidden, weights[0], inputs.teacher_hidden, weights[1], inputs.labels)
        return mean

    return path


PATHS: dict[str, Callable[[], Path]] = {
    "full_logits": lambda: full_logits,
    "ours": lambda: ours,
    "torch": without_kernels,
    "trl": trl,
    "liger": liger,
}


def measure_one(name: str, shape: tuple[int, int, int], case: str, *, device: str) -> None:
    """Measure one path in this process, and print its cost."""
    path = PATHS[name]()
    step(path, make_inputs(_SMALL, case, device), case)
    inputs = make_inputs(shape, case, device)
    report_cost(measure(lambda: step(path, inputs, case), device))


def step(path: Path, inputs: Inputs, case: str) -> None:
    """Run a path forward and backward."""
    inputs.hidden.grad = inputs.weight.grad = None
    total = path(inputs)
    if case == "tied":
        total = total + functional.embedding(inputs.labels.roll(1), inputs.weight).float().mean()
    total.backward()


def gradient_error(inputs: Inputs, temperature: float) -> float:
    """Return the larger relative error, in norm, of our two gradients against full logits in float64."""
    hidden = inputs.hidden.detach().double().requires_grad_()
    weight = inputs.weight.detach().double().requires_grad_(inputs.weight.requires_grad)
    teacher_hidden, teacher_weight = inputs.teacher_hidden.double(), inputs.teacher_weight.double()
    for rows in torch.arange(len(hidden), device=hidden.device).split(_EXACT_ROWS):
        teacher = teacher_hidden[rows] @ teacher_weight.T
        (exact_sum(hidden[rows] @ weight.T, teacher, inputs.labels[rows], temperature) / len(hidden)).backward()
    inputs.hidden.grad = inputs.weight.grad = None
    ours(inputs, temperature).backward()
    pairs = [(inputs.hidden.grad, hidden.grad), (inputs.weight.grad, weight.grad)]
    return max(float((a.double() - b).norm() / b.norm()) for a, b in pairs if a is not None and b is not None)


def exact_sum(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return the loss summed over the rows, written from the definition, not from the code under test."""
    rows = torch.arange(len(labels), device=labels.device)
    top, swapped = teacher.argmax(dim=1), teacher.clone()
    swapped[rows, top], swapped[rows, labels] = teacher[rows, labels], teacher[rows, top]
    q = (swapped / temperature).softmax(dim=1)
    kl = (q * (q.log() - (student / temperature).log_softmax(dim=1))).sum()
    return ALPHA * functional.cross_entropy(student, labels, reduction="sum") + (1 - ALPHA) * temperature**2 * kl


def compare(device: str, cases: Sequence[str], *, rounds: int, liger_folder: str) -> None:
    """Run all paths on all shapes and cases, and publish the table."""
    left_out = {*([] if liger_folder else ["liger"]), *([] if device == "cuda" else ["torch"])}
    names = [name for name in PATHS if name not in left_out]
    rows, ratios = [], {}
    for shape in GPU_SHAPES if device == "cuda" else CPU_SHAPES:
        text = "x".join(map(str, shape))
        for case in cases:
            runs = {name: _process(name, text, case, device=device, liger_folder=liger_folder) for name in names}
            costs = every_round(rounds, runs)
            inputs = make_inputs(shape, case, device)
            error = max(gradient_error(inputs, temperature) for temperature in (1.0, 2.0))
            rows += [_row(text, case, name, costs=costs, error=error) for name in names]
            ratios[f"{text} {case}"] = _ratios(costs, error)
    columns = ["shape", "head", "path", "seconds", "added memory", "time / ours", "memory / ours", "gradient error"]
    first_ratios = next(iter(ratios.values()))  # first shape and case, quoted in the documentation
    libraries = {name: version(name) for name in ("trl", "transformers")}
    if liger_folder:
        libraries["liger-kernel"] = next(distributions(name="liger-kernel", path=[liger_folder])).version
    publish(f"loss_head-{device}", columns, rows, {**first_ratios, "all": ratios, "versions": libraries}, rounds=rounds)


def _process(name: str, shape: str, case: str, *, device: str, liger_folder: str) -> Callable[[], dict[str, float]]:
    """Return a function that measures one path in its own process; only Liger's process can import Liger and triton."""
    arguments = ["--one", name, shape, case, *(["--gpu"] if device == "cuda" else [])]
    return partial(in_own_process, __file__, arguments, extra_path=liger_folder if name == "liger" else "")


Costs = dict[str, list[dict[str, float]]]
"""Costs of every round, by path."""


def _row(shape: str, case: str, name: str, *, costs: Costs, error: float) -> list[str]:
    cost = medians(costs[name])
    return [
        *(shape, case, name),
        f"{cost['seconds']:.3f}",
        gibibytes(cost["added_bytes"]),
        f"{1 / _ratio(costs, 'seconds', name):.2f}",
        f"{1 / _ratio(costs, 'added_bytes', name):.2f}",
        f"{error:.1e}" if name == "ours" else "",
    ]


def _ratios(costs: Costs, error: float) -> dict[str, float]:
    """Return the ratios of our costs to the costs of the other paths."""
    ratios = {"gradient_error": error}
    for name in costs.keys() - {"ours"}:
        suffix = "" if name == "full_logits" else f"_{name}"
        ratios[f"time_ratio{suffix}"] = _ratio(costs, "seconds", name)
        ratios[f"memory_ratio{suffix}"] = _ratio(costs, "added_bytes", name)
    return {name: float(f"{value:.3g}") for name, value in sorted(ratios.items())}


def _ratio(costs: Costs, figure: str, name: str) -> float:
    """Return the median over the rounds of the ratio of our cost to another path's."""
    return median(own[figure] / other[figure] for own, other in zip(costs["ours"], costs[name], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", action="store_true", help="8192 rows of width 4096 in bf16 on the GPU")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds; the table shows medians")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES, help="kinds of head")
    parser.add_argument("--liger", default="", help="folder with liger-kernel and triton; empty skips Liger")
    parser.add_argument("--one", nargs=3, metavar=("PATH", "SHAPE", "CASE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = "cuda" if arguments.gpu else "cpu"
    if arguments.one:
        name, shape, case = arguments.one
        rows, width, vocab = map(int, shape.split("x"))
        measure_one(name, (rows, width, vocab), case, device=device)
    else:
        compare(device, arguments.cases, rounds=arguments.rounds, liger_folder=arguments.liger)


if __name__ == "__main__":
    main()
