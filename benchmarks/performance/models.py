"""The contenders of a training step: the GPT as it is, and with its MoE layers replaced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from omegaconf import OmegaConf
from reference_onehot import DenseOfEqualFLOPs, OneHotMoE
from torch import Tensor, nn

from chronorun.config.model import ModelConfig, RouterConfig
from chronorun.config.training import OptimizerConfig
from chronorun.model import GPT, MoELayer
from chronorun.training.optimizer import build_optimizer
from performance.timing import Step

BATCH = {"nano": 16, "tiny": 16, "small": 16, "medium": 8}
VOCABULARY = 256
ROOT = Path(__file__).resolve().parents[2]


def preset_config(preset: str, **changes: int) -> ModelConfig:
    """Read ``conf/model/<preset>.yaml``."""
    fields = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "model" / f"{preset}.yaml"))
    assert isinstance(fields, dict)
    return ModelConfig(**{str(key): value for key, value in fields.items()} | changes)


def build(kind: str, config: ModelConfig) -> GPT:
    """Return the GPT with its MoE layers as they are (ours), or replaced (one-hot, dense)."""
    generator = torch.Generator().manual_seed(0)
    model = GPT(config, RouterConfig(), VOCABULARY, generator=generator)
    replace: dict[str, Callable[[MoELayer], nn.Module]] = {
        "one-hot": OneHotMoE,
        "dense": DenseOfEqualFLOPs,
    }
    for block in model.blocks:
        if kind in replace and isinstance(block.feed_forward, MoELayer):
            block.feed_forward = replace[kind](block.feed_forward)
    return model


def flops_per_token(model: GPT) -> tuple[int, int]:
    """Return (multiply-adds of weights one token meets, of these in routers)."""
    router = sum(layer.router.weight.numel() for layer in model.moe_layers())
    return model.parameter_counts()["active"], router


def check_equal_flops(config: ModelConfig) -> int:
    """Return the active multiply-adds per token; ours and dense differ by the router's only."""
    active, router = flops_per_token(build("ours", config))
    dense, _ = flops_per_token(build("dense", config))
    assert active - router == dense, (active, router, dense)
    return dense


def random_tokens(config: ModelConfig, batch: int) -> Tensor:
    """Return [batch, context + 1] tokens, the same at every call."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(VOCABULARY, (batch, config.context_length + 1), generator=generator)


def step_of(model: GPT, config: ModelConfig, batch: int, bf16: bool = False) -> Step:
    """Return a function that takes one training step of a model: forward, backward, AdamW.

    Tokens and model stay on the model's device, and nothing is copied to the host.
    """
    optimizer, router = build_optimizer(model, OptimizerConfig()), RouterConfig()
    device = model.embedding.weight.device
    tokens = random_tokens(config, batch).to(device)

    def step() -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            out = model(tokens[:, :-1], tokens[:, 1:])
        loss = out.loss + router.load_balancing_coef * out.load_balancing_loss
        torch.autograd.backward(loss + router.z_loss_coef * out.router_z_loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def layer_step(layer: nn.Module, config: ModelConfig, batch: int) -> Step:
    """Return a function that runs one layer forward and backward."""
    shape = (batch, config.context_length, config.d_model)
    x: Tensor = torch.randn(shape, generator=torch.Generator().manual_seed(2)).requires_grad_()

    def step() -> None:
        out, _ = layer(x)
        torch.autograd.backward(out, x.detach())
        layer.zero_grad(set_to_none=True)
        x.grad = None

    return step


def moe_layer(config: ModelConfig, num_experts: int) -> MoELayer:
    """Return one MoE layer with that many experts, weights from N(0, 0.02)."""
    layer = MoELayer(0, config, RouterConfig(), num_experts)
    generator = torch.Generator().manual_seed(3)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, 0.0, 0.02, generator=generator)
    return layer
