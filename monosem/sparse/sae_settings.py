"""Shape and training of a sparse autoencoder."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from monosem.core.settings import Settings

ActivationName = Literal["topk", "batch_topk", "jump_relu", "relu"]
ProductsName = Literal["auto", "dense", "sparse", "compiled", "onednn", "triton"]

_Share = Annotated[float, Field(ge=0, lt=1)]
_Count = Annotated[int, Field(ge=1)]

_LR_TIMES_ROOT = 0.1


class SAESettings(Settings):
    """Shape and training of an SAE. The defaults on 2,048 features are the paper's TopK SAE (A.1)."""

    n_latents: _Count | None = None
    """Number of latents; None: as many as inputs."""
    k: _Count | None = None
    """Latents active at once, on average with batch_topk and jump_relu; None: an eighth of them."""
    activation: ActivationName = "topk"
    """See `monosem.sparse.activations`."""
    prefixes: tuple[_Count, ...] = ()
    """Matryoshka: the first so many latents must reconstruct by themselves too; rising."""
    input_norm: Literal["rms", "layer", "none"] = "rms"
    """rms: divide by one global RMS of the centred training features. layer: centre and scale each sample."""
    b_pre_init: Literal["mean", "geometric_median"] = "mean"
    sparsity_coef: Annotated[float, Field(ge=0)] | None = None
    """Weight of relu's L1 norm (default 0.02) or of jump_relu's distance from k (default 1)."""
    bandwidth: Annotated[float, Field(gt=0)] = 0.05
    """How close to jump_relu's threshold an input moves it, in normalised units."""
    aux_k: _Count | None = None
    """Dead latents that model the residual; None: half the input dimension (Gao et al., A.2)."""
    aux_coef: Annotated[float, Field(ge=0)] = 1 / 32
    dead_after: _Count = 10_000
    """Samples without activity after which a latent counts as dead during training."""
    epochs: _Count = 30
    batch_size: _Count = 512
    lr: Annotated[float, Field(gt=0)] | None = None
    """Peak learning rate of Adam; None: 0.1 / sqrt(n_latents), falling with the width as in Gao et al."""
    threshold_lr: Annotated[float, Field(gt=0)] = 0.02
    """The same of jump_relu's thresholds: as large as encoder outputs are, whatever the width."""
    betas: tuple[_Share, _Share] = (0.9, 0.999)
    warmup: _Share = 0.05
    """Share of the steps with rising learning rate; afterwards it follows half a cosine to zero."""
    k_start: _Count | None = None
    """k of the first step, from which it goes straight to `k` in the first `k_warmup` of the steps."""
    k_warmup: _Share = 0.1
    patience: _Count | None = None
    """Epochs without a better FVU of held-out features after which training ends; the best SAE is kept."""
    products: ProductsName = "auto"
    """How codes are held in products; auto times all forms at the start, if the SAE is no small one."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        rising = sorted(set(self.prefixes))
        if list(self.prefixes) != rising:
            raise ValueError(f"`prefixes` must rise: {rising}")
        if self.k_start is not None and not self.k_warmup:
            raise ValueError(
                "`k_start` needs a `k_warmup` above 0: without steps on the way there is no start"
            )
        return self

    def latents(self, dim: int) -> tuple[int, int]:
        """How many latents there are on `dim` inputs, and how many of them are active at once."""
        n_latents = self.n_latents or dim
        return n_latents, self.k or max(1, n_latents // 8)

    def training_flops(self, n_rows: int, dim: int) -> float:
        """About how many floating-point operations training on `[N, D]` takes, products held dense."""
        return 12.0 * n_rows * self.epochs * dim * self.latents(dim)[0]

    def rate(self, n_latents: int) -> float:
        """Peak learning rate of Adam. Source: Gao et al. 2024, section 3.1 (rates fall as 1 / sqrt(n))."""
        return self.lr or _LR_TIMES_ROOT / n_latents**0.5

    def k_at(self, step: int, total: int, k: int) -> int:
        """Latents active in step number `step` of `total`, on the way to `k`."""
        if self.k_start is None:
            return k
        part = min(1.0, step / (self.k_warmup * total))
        return round(self.k_start + (k - self.k_start) * part)
