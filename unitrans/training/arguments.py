"""The ``train`` section: transformers.TrainingArguments' names, types and help, for the names we honour.

A name of TrainingArguments that this trainer does not honour is refused with the reason, so that nothing is
accepted and then ignored.
"""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, create_model
from transformers import TrainingArguments

from unitrans.training.schedule import SCHEDULES


def _not_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


def _whole_or_part(value: int | float) -> int | float:
    if value > 1 and value != int(value):
        raise ValueError("expected a whole number of updates, or a part of the run between 0 and 1")
    return int(value) if value >= 1 else value


Int = Annotated[int, BeforeValidator(_not_bool)]
Float = Annotated[float, BeforeValidator(_not_bool), Field(allow_inf_nan=False)]
Steps = Annotated[
    int | Annotated[float, Field(allow_inf_nan=False)],
    BeforeValidator(_not_bool),
    AfterValidator(_whole_or_part),
]

# Honoured names: constraints, and what is to be added to the help of TrainingArguments.
_POSITIVE: dict[str, Any] = {"ge": 1}
_RECOMPUTE = (
    "Here for each Block: its activations are computed again in the backward pass instead of being kept."
)
_SHARD = "Here true or false, and on GPUs only: FSDP2, with each Block sharded on its own."
_HONOURED: dict[str, tuple[dict[str, Any], str]] = {
    "max_steps": ({"ge": -1}, "-1: train.num_train_epochs decides."),
    "num_train_epochs": ({"gt": 0}, "Used where train.max_steps is -1."),
    "per_device_train_batch_size": (
        _POSITIVE,
        "Samples per micro-batch; the global batch is this x gradient_accumulation_steps x processes.",
    ),
    "gradient_accumulation_steps": (_POSITIVE, ""),
    "per_device_eval_batch_size": (_POSITIVE, ""),
    "learning_rate": ({"ge": 0}, "The peak; see train.learning_rate_batch_size."),
    "lr_scheduler_type": ({}, "Here: " + ", ".join(SCHEDULES) + ", all after a linear warm-up."),
    "lr_scheduler_kwargs": (
        {},
        "Here only for multistep: milestones (updates, or parts of the run below 1) and gamma.",
    ),
    "warmup_steps": ({"ge": 0}, "Here it starts from train.warmup_learning_rate."),
    "weight_decay": ({"ge": 0}, "Here also excluded: all vectors and what the model names."),
    "adam_beta1": ({"ge": 0, "lt": 1}, ""),
    "adam_beta2": ({"ge": 0, "lt": 1}, ""),
    "adam_epsilon": ({"gt": 0}, ""),
    "max_grad_norm": ({"ge": 0}, ""),
    "bf16": ({}, ""),
    "gradient_checkpointing": ({}, _RECOMPUTE),
    "torch_compile": ({}, "The first updates take minutes; then they are faster on GPUs."),
    "fsdp": ({}, _SHARD),
    "use_cpu": ({}, ""),
    "seed": ({"ge": 0, "lt": 2**32}, "Order, masks, augmentation and initial weights all follow from it."),
    "logging_steps": ({"gt": 0}, ""),
    "eval_steps": ({"gt": 0}, "There is also one at the end."),
    "save_steps": ({"gt": 0}, "There is also one at the end and at each best evaluation."),
    "save_total_limit": (_POSITIVE, "The best and the latest are always kept."),
    "dataloader_num_workers": ({"ge": 0, "le": 1024}, "The result does not depend on it."),
    "dataloader_prefetch_factor": (_POSITIVE, ""),
}


class _Ours(BaseModel):
    """What TrainingArguments has no name for."""

    init: str | None = Field(
        None,
        description="Start from the weights of this run folder (its best checkpoint) or checkpoint, --init on the "
        "command line. A resumed run does not read it again. null: fresh weights.",
    )
    learning_rate_batch_size: Annotated[Int, Field(ge=1)] | None = Field(
        None,
        description="The rates are meant for a global batch of this size and are multiplied by (global batch) / "
        "(this), the linear rule of Swin and SimMIM (512) and MAE (256). null: rates are used as they are.",
    )
    min_learning_rate: Float = Field(
        0.0, ge=0, description="The rate at the end of a cosine or linear decay."
    )
    warmup_learning_rate: Float = Field(0.0, ge=0, description="The rate at the start of the warm-up.")
    warmup_prefix: bool = Field(
        False,
        description="true: the decay begins after the warm-up (Swin). false: it counts from update 0 and the "
        "warm-up hides its beginning (SimMIM).",
    )
    schedule_lag: Int = Field(
        0,
        ge=0,
        description="Updates by which the schedule runs late: 1 in the official Swin and SimMIM loops, where "
        "updates 0 and 1 share the first rate.",
    )
    decay_bias_tables: bool = Field(
        False,
        description="true: weight decay also acts on relative position tables and their like, as in official "
        "SimMIM pretraining. false: it does not, as in official Swin training and fine-tuning.",
    )
    decay_everything: bool = Field(
        False,
        description="true: weight decay acts on all parameters, biases, norms and embeddings too, as fairseq and the "
        "published Graphormer do.",
    )
    optim_eps_mode: Literal["corrected", "uncorrected"] = Field(
        "corrected",
        description="Where Adam adds train.adam_epsilon: corrected, to the bias-corrected root of the second moment, "
        "as in the paper and torch; uncorrected, to the root as it is, as fairseq does.",
    )
    layer_decay: Float = Field(
        1.0,
        gt=0,
        le=1,
        description="Fine-tuning: each layer below the last has this times the rate of the one above it. 1: all layers "
        "have the same rate.",
    )
    freeze: Literal["none", "encoder"] = Field(
        "none",
        description="encoder: only the head is trained, on features that do not change (linear probing); the encoder "
        "computes without dropout.",
    )
    sampling: Literal["uniform", "balanced"] = Field(
        "uniform",
        description="uniform: every training sample comes once an epoch. balanced: every class has the same share of "
        "an epoch; samples of small classes come back, differently augmented each time, and of large ones a part is "
        "left out. objective.class_weights is the other way to the same end.",
    )
    ema_decay: Annotated[Float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="Keep an exponential moving average of the weights with this decay, (1 + update) / (10 + update) "
        "where that is smaller. The average is what is evaluated, reported and found in model.safetensors. null: none.",
    )
    global_batch_size: Annotated[Int, Field(ge=1)] | None = Field(
        None,
        description="Samples of an update over all processes; train.gradient_accumulation_steps then follows from it, "
        "from train.per_device_train_batch_size and from the number of processes. null: it is their product.",
    )
    early_stopping_patience: Annotated[Int, Field(ge=1)] | None = Field(
        None,
        description="Stop after this many evaluations in a row without a new best validation loss. null: never.",
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
    "metrics go to metrics.jsonl and TensorBoard files in the run folder": (
        "report_to project trackio_space_id trackio_bucket_id trackio_static_space_id log_level log_level_replica "
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
}


def refusal(name: str) -> str | None:
    """Why a name of TrainingArguments is not taken; None when TrainingArguments has no such name."""
    if name not in {field.name for field in dataclasses.fields(TrainingArguments)}:
        return None
    for reason, names in _REASONS.items():
        if name in names.split():
            return reason
    return "this trainer does not use it"


def _honoured_field(field: dataclasses.Field[Any]) -> tuple[Any, Any]:
    constraints, note = _HONOURED[field.name]
    kind: Any = field.type
    kind = {int: Int, float: Float}.get(kind, kind)
    if field.name.endswith("_steps") and field.type is not int:
        kind = Steps  # a count, or a part of the run below 1
    if field.name == "lr_scheduler_type":
        kind = Literal[SCHEDULES]
    if field.name == "lr_scheduler_kwargs":
        kind = dict[str, Any] | None
    if field.name in ("gradient_checkpointing", "fsdp"):
        kind = bool
    if field.name in ("save_total_limit", "dataloader_prefetch_factor"):
        kind, constraints = Annotated[Int, Field(**constraints)] | None, {}
    default = {
        "eval_steps": 500,
        "gradient_checkpointing": False,
        "fsdp": False,
        "lr_scheduler_type": "cosine",
        "weight_decay": 0.05,
    }.get(field.name, field.default)
    text = " ".join(str(field.metadata.get("help", "")).replace("%%", "%").split())
    return kind, Field(default, description=f"{text} {note}".strip(), **constraints)


@lru_cache(maxsize=1)
def train_config_class() -> type[BaseModel]:
    """The pydantic model of the ``train`` section."""
    fields = {field.name: field for field in dataclasses.fields(TrainingArguments)}
    honoured = {name: _honoured_field(fields[name]) for name in _HONOURED if name in fields}
    ours: dict[str, Any] = {name: (field.annotation, field) for name, field in _Ours.model_fields.items()}
    order: dict[str, Any] = {}
    for name, definition in honoured.items():
        order[name] = definition
        if name == "learning_rate":
            order |= {key: ours.pop(key) for key in ("learning_rate_batch_size",)}
        if name == "warmup_steps":
            keys = ("warmup_learning_rate", "warmup_prefix", "min_learning_rate", "schedule_lag")
            order |= {key: ours.pop(key) for key in keys}
        if name == "gradient_accumulation_steps":
            order |= {key: ours.pop(key) for key in ("global_batch_size",)}
        if name == "weight_decay":
            order |= {
                key: ours.pop(key)
                for key in ("decay_bias_tables", "decay_everything", "layer_decay", "freeze")
            }
        if name == "adam_epsilon":
            order |= {key: ours.pop(key) for key in ("optim_eps_mode",)}
    return create_model("TrainConfig", __config__=ConfigDict(extra="forbid"), **order, **ours)
