"""The steps of an SAE's training, one batch at a time, and all that they remember.

Sources: Gao et al. 2024, section 2 and appendix A.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from itertools import compress

import torch
import torch.distributed as dist
from torch import Tensor, nn

from monosem.core.checkpoints import optimizer_tensors, part_of, restore_optimizer, under
from monosem.core.distributed import World, summed
from monosem.core.progress import SILENT, Watch
from monosem.encoders.optim import warmup_cosine
from monosem.sparse.activations import alone
from monosem.sparse.batch_codes import FORMS, forms_on
from monosem.sparse.form_choice import fastest, is_worth_timing
from monosem.sparse.gradients import Step, gradients
from monosem.sparse.sae import SAE

_ADAM_EPS = 6.25e-10  # Gao et al., appendix A.3: gradients of rare latents are small


class Trainer:
    """Trains an SAE, whose weights are set already (`initialise`), on whatever batches `step` is given.

    Args:
        variance: mean square of a centred entry of the normalised training features, the unit of losses.
        total: steps planned, over which the learning rate rises and falls; None: it stays at its peak.
        world: the processes that share each batch, every one with a part of it; None: this one alone.
        watch: told if products of codes are compiled first, which takes a while.

    Attributes:
        done: steps taken.
        idle: samples since each latent was last active `[L]`.
        form: how codes are held in products, of `FORMS`; "" until the first step decides.
    """

    def __init__(
        self,
        sae: SAE,
        variance: float,
        total: int | None,
        world: World | None = None,
        watch: Watch = SILENT,
    ) -> None:
        settings = sae.settings
        self.sae, self.variance, self.total, self.done = sae, variance, total, 0
        self.form: str = "" if settings.products == "auto" else settings.products
        self._watch = watch
        self._world = world if world is not None and world.size > 1 else None
        groups = [
            {"params": [one for one in sae.parameters() if one is not sae.threshold]},
            {"params": [one for one in sae.parameters() if one is sae.threshold]},
        ]
        self._peaks = (settings.rate(sae.n_latents), settings.threshold_lr)
        self._optimizer = torch.optim.Adam(groups, betas=settings.betas, eps=_ADAM_EPS, fused=True)
        device = sae.b_pre.device
        self.idle = torch.zeros(sae.n_latents, dtype=torch.int64, device=device)
        self._losses = torch.zeros(2, dtype=torch.float64, device=device)  # sums over rows since `readings`
        self._rows = 0
        self._outputs: Tensor | None = None

    @torch.no_grad()
    def step(self, rows: Tensor) -> None:
        """Learn from one batch of inputs `[B, D]`, or from this process's part of it."""
        sae = self.sae
        z = sae.normalise(rows.to(sae.b_pre.device, sae.b_pre.dtype))
        n = len(z) if self._world is None else int(summed(torch.tensor(len(z), device=z.device)))
        if self._outputs is None or len(self._outputs) < len(z):
            self._outputs = z.new_empty(len(z), sae.n_latents)
        reading = self._gradients(z, n)
        self._share(reading)
        assert sae.decoder.grad is not None
        # What would only change a row's length, which is fixed at 1, is left out.
        sae.decoder.grad.addcmul_(sae.decoder, reading.radial[:, None], value=-1)
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * self._rate()
        self._optimizer.step()
        sae.decoder.div_(torch.linalg.vector_norm(sae.decoder, dim=1, keepdim=True))
        self.idle.add_(n).masked_fill_(reading.active, 0)
        sae.activation.settle(sae.threshold, self._is_dead)
        self._losses += torch.stack([reading.loss + reading.penalty, reading.aux_loss]) * n
        self._rows += n
        self.done += 1

    @property
    def dead(self) -> Tensor:
        """Latents that count as dead `[n_dead]`."""
        return self._is_dead.nonzero()[:, 0]

    @property
    def _is_dead(self) -> Tensor:
        return self.idle >= self.sae.settings.dead_after

    def readings(self) -> dict[str, float]:
        """Mean losses of the rows since the last call, and how many latents are dead."""
        loss, aux_loss = (self._losses / self._rows).tolist()
        self._losses.zero_()
        self._rows = 0
        return {"loss": loss, "aux_loss": aux_loss, "dead": len(self.dead)}

    def tensors(self) -> dict[str, Tensor]:
        """With `done`, `form` and `rows` all that decides how the training goes on."""
        sae, optimizer = self.sae.state_dict(), optimizer_tensors(self._optimizer)
        return {
            **under("sae", sae),
            **under("optimizer", optimizer),
            "idle": self.idle,
            "losses": self._losses,
        }

    def facts(self) -> dict[str, float | str]:
        """What `restore` needs beside the tensors."""
        return {"done": self.done, "form": self.form, "rows": self._rows, "variance": self.variance}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, float | str]) -> None:
        """Go on from where `tensors` and `facts` were taken."""
        self.sae.load_state_dict(part_of("sae", dict(tensors)))
        restore_optimizer(self._optimizer, part_of("optimizer", dict(tensors)))
        self.idle.copy_(tensors["idle"])
        self._losses.copy_(tensors["losses"])
        self.done, self.form, self._rows = int(facts["done"]), str(facts["form"]), int(facts["rows"])

    def _rate(self) -> float:
        """Factor on the learning rate."""
        warmup = self.sae.settings.warmup
        if self.total is None:
            return 1.0
        return warmup_cosine(self.done, int(warmup * self.total), self.total)

    def _gradients(self, z: Tensor, n: int) -> Step:
        if not self.form:
            self.form = self._faster_form(z, n)
        return self._gradients_by(self.form, z, n)

    def _gradients_by(self, form: str, z: Tensor, n: int) -> Step:
        settings = self.sae.settings
        k = self.sae.k if self.total is None else settings.k_at(self.done, self.total, self.sae.k)
        return gradients(
            self.sae,
            z,
            self.dead,
            self.variance,
            form=FORMS[form],
            k=k,
            n=n,
            outputs=self._outputs,
            total=alone if self._world is None else summed,
        )

    def _faster_form(self, z: Tensor, n: int) -> str:
        """Dense, unless another form is clearly faster on this batch, on the main process."""
        # Processes must come to the same answer, whose parts of the batch may differ by a row.
        rows = n if self._world is None else n // self._world.size
        if not is_worth_timing(rows * self.sae.n_latents * self.sae.dim):
            return "dense"
        threshold = None if self.sae.threshold is None else self.sae.threshold.clone()
        there = forms_on(z.device, self._watch)
        forms = list(compress(FORMS, self._agreed(form in there for form in FORMS)))
        chosen = fastest({form: partial(self._trial, form, z, n) for form in forms})
        if threshold is not None and self.sae.threshold is not None:
            self.sae.threshold.copy_(threshold)  # a trial teaches nothing
        said = self._agreed(form == chosen for form in forms)
        return forms[said.index(True)]

    def _agreed(self, answers: Iterable[bool]) -> tuple[bool, ...]:
        """What the main process says."""
        return tuple(answers) if self._world is None else self._world.agreed(*answers)

    def _trial(self, form: str, z: Tensor, n: int) -> float:
        return float(self._gradients_by(form, z, n).loss)

    def _share(self, reading: Step) -> None:
        """Add up what the processes found for their parts of the batch."""
        if self._world is None:
            return
        for parameter in self.sae.parameters():
            dist.all_reduce(parameter.grad)
        for tensor in (reading.loss, reading.aux_loss, reading.penalty, reading.radial):
            dist.all_reduce(tensor)
        active = reading.active.to(torch.uint8)
        dist.all_reduce(active, op=dist.ReduceOp.MAX)
        reading.active.copy_(active)
        threshold = self.sae.threshold
        if threshold is not None and not isinstance(threshold, nn.Parameter):
            dist.all_reduce(threshold)
            threshold.div_(self._world.size)
