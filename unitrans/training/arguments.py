"""The ``train`` section: its keys, types, defaults and help.

Most names and their help are those of transformers.TrainingArguments. A name of TrainingArguments that is not among
them is refused with the reason, so that nothing is accepted and then ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


def _not_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


def _whole_or_part(value: int | float) -> int | float:
    if value > 1 and value != int(value):
        raise ValueError("expected a whole number of updates, or a part of the run between 0 and 1")
    return int(value) if value >= 1 else value


def _names(value: Any) -> Any:
    """One name stands for a list of it, "none" for an empty one."""
    if isinstance(value, str):
        return [] if value == "none" else [value]
    return value


Int = Annotated[int, BeforeValidator(_not_bool)]
Float = Annotated[float, BeforeValidator(_not_bool), Field(allow_inf_nan=False)]
Steps = Annotated[
    int | Annotated[float, Field(allow_inf_nan=False)],
    BeforeValidator(_not_bool),
    AfterValidator(_whole_or_part),
]
Tracker = Literal["tensorboard", "wandb", "mlflow", "comet_ml"]


class TrainConfig(BaseModel):
    """How a model is trained."""

    model_config = ConfigDict(extra="forbid")

    max_steps: Int = Field(
        -1,
        ge=-1,
        description="Overrides `num_train_epochs`. If set to a positive number, the total number of training "
        "steps to perform. Must be set when the training dataset does not implement `__len__` (e.g. a "
        "streaming dataset). -1: train.num_train_epochs decides.",
    )
    num_train_epochs: Float = Field(
        3.0,
        gt=0,
        description="Total number of training epochs to perform. Used where train.max_steps is -1.",
    )
    per_device_train_batch_size: Int = Field(
        8,
        ge=1,
        description="The batch size per device for training. Samples per micro-batch; the global batch is this x "
        "gradient_accumulation_steps x processes.",
    )
    gradient_accumulation_steps: Int = Field(
        1,
        ge=1,
        description="Number of update steps to accumulate gradients before performing a backward/update pass. "
        "Effective batch size = per_device_train_batch_size * num_devices * "
        "gradient_accumulation_steps.",
    )
    global_batch_size: Annotated[Int, Field(ge=1)] | None = Field(
        None,
        description="Samples of an update over all processes; train.gradient_accumulation_steps then follows from "
        "it, from train.per_device_train_batch_size and from the number of processes. null: it is "
        "their product.",
    )
    per_device_eval_batch_size: Int = Field(
        8,
        ge=1,
        description="The batch size per device (GPU/TPU core/CPU) for evaluation.",
    )
    learning_rate: Float = Field(
        5e-05,
        ge=0,
        description="The initial learning rate for the optimizer. The peak; see train.learning_rate_batch_size.",
    )
    learning_rate_batch_size: Annotated[Int, Field(ge=1)] | None = Field(
        None,
        description="The rates are meant for a global batch of this size and are multiplied by (global batch) / "
        "(this), the linear rule of Swin and SimMIM (512) and MAE (256). null: rates are used as they "
        "are.",
    )
    lr_scheduler_type: Literal["cosine", "linear", "multistep", "constant_with_warmup"] = Field(
        "cosine",
        description="The learning rate scheduler type to use. See `SchedulerType` for all possible values. Here: "
        "cosine, linear, multistep, constant_with_warmup, all after a linear warm-up.",
    )
    lr_scheduler_kwargs: dict[str, Any] | None = Field(
        None,
        description="The extra arguments for the lr_scheduler. See the documentation of each scheduler for "
        "possible values. Here only for multistep: milestones (updates, or parts of the run below 1) "
        "and gamma.",
    )
    warmup_steps: Steps = Field(
        0,
        ge=0,
        description="Number of steps for a linear warmup from 0 to `learning_rate`. Can be an integer (exact "
        "steps) or a float in [0, 1) (ratio of total steps). Here it starts from "
        "train.warmup_learning_rate.",
    )
    warmup_learning_rate: Float = Field(
        0.0,
        ge=0,
        description="The rate at the start of the warm-up.",
    )
    warmup_prefix: bool = Field(
        False,
        description="true: the decay begins after the warm-up (Swin). false: it counts from update 0 and the "
        "warm-up hides its beginning (SimMIM).",
    )
    min_learning_rate: Float = Field(
        0.0,
        ge=0,
        description="The rate at the end of a cosine or linear decay.",
    )
    schedule_lag: Int = Field(
        0,
        ge=0,
        description="Updates by which the schedule runs late: 1 in the official Swin and SimMIM loops, where "
        "updates 0 and 1 share the first rate.",
    )
    weight_decay: Float = Field(
        0.05,
        ge=0,
        description="Weight decay coefficient applied by the optimizer. Automatically excluded from bias and "
        "LayerNorm parameters. Here also excluded: all vectors and what the model names.",
    )
    decay_bias_tables: bool = Field(
        False,
        description="true: weight decay also acts on relative position tables and their like, as in official "
        "SimMIM pretraining. false: it does not, as in official Swin training and fine-tuning.",
    )
    decay_everything: bool = Field(
        False,
        description="true: weight decay acts on all parameters, biases, norms and embeddings too, as fairseq and "
        "the published Graphormer do.",
    )
    layer_decay: Float = Field(
        1.0,
        gt=0,
        le=1,
        description="Fine-tuning: each layer below the last has this times the rate of the one above it. 1: all "
        "layers have the same rate.",
    )
    freeze: Literal["none", "encoder"] = Field(
        "none",
        description="encoder: only the head is trained, on features that do not change (linear probing); the "
        "encoder computes without dropout.",
    )
    adam_beta1: Float = Field(
        0.9,
        ge=0,
        lt=1,
        description="The exponential decay rate for the first moment estimates (momentum) in Adam-based "
        "optimizers.",
    )
    adam_beta2: Float = Field(
        0.999,
        ge=0,
        lt=1,
        description="The exponential decay rate for the second moment estimates (variance) in Adam-based "
        "optimizers.",
    )
    adam_epsilon: Float = Field(
        1e-08,
        gt=0,
        description="Epsilon value for numerical stability in Adam-based optimizers.",
    )
    optim_eps_mode: Literal["corrected", "uncorrected"] = Field(
        "corrected",
        description="Where Adam adds train.adam_epsilon: corrected, to the bias-corrected root of the second "
        "moment, as in the paper and torch; uncorrected, to the root as it is, as fairseq does.",
    )
    max_grad_norm: Float = Field(
        1.0,
        ge=0,
        description="Maximum gradient norm for gradient clipping. Set to 0 to disable.",
    )
    bf16: bool = Field(
        False,
        description="Enable bfloat16 (BF16) mixed precision training. Generally preferred over FP16 due to better "
        "numerical stability.",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Deprecated alias of `activation_checkpointing`, will be removed in v6. Here for each Block: "
        "its activations are computed again in the backward pass instead of being kept.",
    )
    torch_compile: bool = Field(
        False,
        description="Compile the model using `torch.compile()` for faster training. The first updates take "
        "minutes; then they are faster on GPUs.",
    )
    fsdp: bool = Field(
        False,
        description="Enable PyTorch Fully Sharded Data Parallel (FSDP) for distributed training. Pass `--fsdp` "
        "(or `fsdp=True`) to turn FSDP on. Here true or false: FSDP2, with each Block sharded on its own.",
    )
    use_cpu: bool = Field(
        False,
        description="Whether or not to use cpu. If set to False, we will use the available torch device/backend.",
    )
    seed: Int = Field(
        42,
        ge=0,
        lt=2**32,
        description="Random seed that will be set at the beginning of training. Order, masks, augmentation and "
        "initial weights all follow from it.",
    )
    logging_steps: Steps = Field(
        500,
        gt=0,
        description="Log every X updates steps. Should be an integer or a float in range `[0,1)`. If smaller than "
        "1, will be interpreted as ratio of total training steps.",
    )
    eval_steps: Steps = Field(
        500,
        gt=0,
        description="Number of update steps between evaluations if `eval_strategy='steps'`. Defaults to "
        "`logging_steps` if not set. Should be an integer or a float in range `[0,1)`. If smaller "
        "than 1, will be interpreted as ratio of total training steps. There is also one at the end.",
    )
    save_steps: Steps = Field(
        500,
        gt=0,
        description="Save checkpoint every X updates steps. Should be an integer or a float in range `[0,1)`. If "
        "smaller than 1, will be interpreted as ratio of total training steps. There is also one at "
        "the end and at each best evaluation.",
    )
    save_total_limit: Annotated[Int, Field(ge=1)] | None = Field(
        None,
        description="Maximum number of checkpoints to keep. Deletes older checkpoints in `output_dir`. The best "
        "checkpoint is always retained when `load_best_model_at_end=True`. The best and the latest "
        "are always kept.",
    )
    dataloader_num_workers: Int = Field(
        0,
        ge=0,
        le=1024,
        description="Number of subprocesses to use for data loading (PyTorch only). 0 means that the data will be "
        "loaded in the main process. The result does not depend on it.",
    )
    dataloader_prefetch_factor: Annotated[Int, Field(ge=1)] | None = Field(
        None,
        description="Number of batches loaded in advance by each worker. 2 means there will be a total of 2 * "
        "num_workers batches prefetched across all workers.",
    )
    init: str | None = Field(
        None,
        description="Start from the weights of this run folder (its best checkpoint) or checkpoint, --init on the "
        "command line. A resumed run does not read it again. null: fresh weights.",
    )
    sampling: Literal["uniform", "balanced"] = Field(
        "uniform",
        description="uniform: every training sample comes once an epoch. balanced: every class has the same share "
        "of an epoch; samples of small classes come back, differently augmented each time, and of "
        "large ones a part is left out. objective.class_weights is the other way to the same end.",
    )
    ema_decay: Annotated[Float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="Keep an exponential moving average of the weights with this decay, (1 + update) / (10 + "
        "update) where that is smaller. The average is what is evaluated, reported and found in "
        "model.safetensors. null: none.",
    )
    early_stopping_patience: Annotated[Int, Field(ge=1)] | None = Field(
        None,
        description="Stop after this many evaluations in a row without a new best validation loss. null: never.",
    )
    report_to: Annotated[list[Tracker], BeforeValidator(_names)] = Field(
        ["tensorboard"],
        description="Where figures go beside metrics.jsonl: tensorboard (files in the run folder), wandb, mlflow, "
        "comet_ml, each where its package is installed; several as [tensorboard, wandb]. none: nowhere else.",
    )


# Reason: the names it is the reason for.
_REASONS: dict[str, str] = {
    "the run folder is chosen by --output DIR": "output_dir run_name",
    "evaluation, logging and checkpoints go by updates: use train.eval_steps, train.logging_steps, train.save_steps": (
        "eval_strategy logging_strategy save_strategy logging_first_step eval_delay eval_on_start"
    ),
    "only bfloat16 is offered as mixed precision: use train.bf16": (
        "fp16 fp16_full_eval bf16_full_eval tf32"
    ),
    "the optimizer is AdamW": "optim optim_args optim_target_modules",
    "metrics go to metrics.jsonl and where train.report_to says": (
        "project trackio_space_id trackio_bucket_id trackio_static_space_id log_level log_level_replica "
        "log_on_each_node logging_nan_inf_filter include_num_input_tokens_seen disable_tqdm"
    ),
    "the best checkpoint is always kept, by validation loss": (
        "load_best_model_at_end metric_for_best_model greater_is_better"
    ),
    "checkpoints always hold what is needed to go on, and --resume DIR goes on": (
        "save_only_model save_on_each_node resume_from_checkpoint restore_callback_states_from_checkpoint "
        "ignore_data_skip enable_jit_checkpoint"
    ),
    "the order of samples follows from train.seed, and no sample is dropped": (
        "data_seed dataloader_drop_last dataloader_in_order train_sampling_strategy length_column_name"
    ),
    "the loader has only train.dataloader_num_workers and train.dataloader_prefetch_factor": (
        "dataloader_pin_memory dataloader_persistent_workers dataloader_multiprocessing_context"
    ),
    "batches and losses are made by the domain and the objective": (
        "remove_unused_columns label_names label_smoothing_factor average_tokens_across_devices "
        "include_for_metrics prediction_loss_only batch_eval_metrics eval_do_concat_batches eval_use_gather_object "
        "eval_accumulation_steps use_cache neftune_noise_alpha"
    ),
    "activations are computed again by train.gradient_checkpointing": (
        "activation_checkpointing activation_checkpointing_kwargs"
    ),
    "it is not offered yet": (
        "gradient_checkpointing_kwargs torch_compile_backend torch_compile_mode fsdp_config "
        "deepspeed accelerator_config parallelism_config ddp_find_unused_parameters ddp_bucket_cap_mb "
        "ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout"
    ),
    "the command and the launcher decide that": "do_train do_eval do_predict local_rank",
    "training does not upload anything": (
        "push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision"
    ),
    "this trainer does not use it": (
        "use_liger_kernel liger_kernel_config torch_empty_cache_steps auto_find_batch_size full_determinism debug "
        "skip_memory_metrics"
    ),
}


def refusal(name: str) -> str | None:
    """Why a name of TrainingArguments is not taken; None when TrainingArguments has no such name."""
    return next((reason for reason, names in _REASONS.items() if name in names.split()), None)
