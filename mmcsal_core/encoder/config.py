"""What the encoder is and how it is trained. Nothing here says where data lies or on what machines it is read."""

from typing import Literal

from pydantic import Field, model_validator

from mmcsal_core.settings import Settings

PrototypeTarget = Literal["own", "cross", "both"]
PrototypeSource = Literal["kmeans", "sinkhorn"]
Precision = Literal["float32", "bfloat16"]


class EncoderConfig(Settings):
    """One projection head per modality, trained by InfoNCE between the modalities and ProtoNCE within them."""

    dim: int = Field(128, ge=2, le=4096, description="length of an embedding")
    hidden_width: int = Field(512, ge=2, description="width of the projection head")
    num_layers: int = Field(2, ge=1, le=8, description="linear layers of the projection head")
    temperature: float = Field(0.07, gt=0, le=1, description="temperature of InfoNCE, and mean of the concentrations")
    learn_temperature: bool = Field(False, description="train the temperature of InfoNCE too, starting from the above")
    lambda_proto: float = Field(0.5, ge=0, description="weight of ProtoNCE; 0 trains on InfoNCE alone")
    num_prototypes: int | None = Field(
        None, ge=1, description="prototypes a modality, at most pairs / 20; by default as many, up to 1024"
    )
    prototype_target: PrototypeTarget = Field(
        "own", description="own: pull a pair to its modality's prototype; cross: to its partner's; both: the mean"
    )
    prototype_source: PrototypeSource = Field(
        "kmeans", description="kmeans: clusters of any size; sinkhorn: of nearly equal sizes"
    )
    prototype_refresh_epochs: int = Field(3, ge=1, description="epochs between two clusterings")
    warmup_fraction: float = Field(0.15, ge=0, le=1, description="share of the epochs on InfoNCE alone")
    epochs: int = Field(30, ge=1, description="passes over the pairs")
    batch_size: int = Field(256, ge=4, description="pairs a step, over all workers together")
    learning_rate: float = Field(1e-3, gt=0, description="largest step size of AdamW; it falls along a cosine")
    finetune_rate: float = Field(
        0.3, gt=0, le=1, description="step size of last blocks that are trained, as a share of the heads'"
    )
    weight_decay: float = Field(1e-2, ge=0, description="weight decay of AdamW")
    dropout: float = Field(0.4, ge=0, lt=1, description="share of standardised features set to 0 in training")
    noise: float = Field(0.3, ge=0, description="standard deviation of the noise added to standardised features")
    lambda_align: float = Field(0.0, ge=0, description="weight of the squared distance between a pair's embeddings")
    lambda_uniform: float = Field(0.0, ge=0, description="weight of the uniformity of each modality on the sphere")
    held_back_fraction: float = Field(
        0.1, ge=0, lt=1, description="share of the pairs kept for the diagnostics and for stopping early, at most 2000"
    )
    early_stop_patience: int | None = Field(
        None,
        ge=1,
        description="stop once the held-back pairs have not been retrieved better for so many epochs, and keep the "
        "best; by default all epochs are run and the last is kept",
    )
    precision: Precision = Field(
        "float32", description="bfloat16: the heads' products in training only; faster where the processor has them"
    )
    out_of_fold_folds: int = Field(
        3, ge=0, le=20, description="parts of the pool, each scored by an encoder fitted on the others; 0: no scores"
    )
    out_of_fold_epochs: int | None = Field(
        None,
        ge=1,
        description="epochs of each of these fits, at most `epochs`; by default as many as make 1000 steps, at least 3",
    )
    robust_fraction: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="share of the pairs, lowest by out-of-fold alignment, that InfoNCE does not pull together",
    )

    @model_validator(mode="after")
    def _check_head(self) -> "EncoderConfig":
        if self.num_layers > 1 and self.hidden_width < self.dim:
            raise ValueError(
                f"hidden_width must be at least dim, got {self.hidden_width} < {self.dim}; "
                "raise hidden_width, or set num_layers to 1"
            )
        return self

    @model_validator(mode="after")
    def _check_folds(self) -> "EncoderConfig":
        if self.out_of_fold_folds == 1:
            raise ValueError("out_of_fold_folds must be 0 or at least 2, got 1; set it to 3, or to 0 for no scores")
        if self.robust_fraction and not self.out_of_fold_folds:
            raise ValueError(
                f"robust_fraction needs out-of-fold scores, got {self.robust_fraction} with out_of_fold_folds 0; "
                "set out_of_fold_folds to 3, or robust_fraction to 0"
            )
        return self

    @property
    def warmup_epochs(self) -> int:
        """Epochs on InfoNCE alone, rounded to the nearest."""
        return round(self.warmup_fraction * self.epochs)

    def refreshes_at(self, epoch: int) -> bool:
        """Say whether the prototypes are made anew before `epoch`, counted from 0."""
        since = epoch - self.warmup_epochs
        return self.lambda_proto > 0 and since >= 0 and since % self.prototype_refresh_epochs == 0
