"""From checked settings to everything a run needs in memory: data, device, model, hooks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric

from fercore.builtin.defaults import Defaults
from fercore.config import RunConfig
from fercore.data import DomainSet, StepLoader, open_domains
from fercore.engine.checkpoint import seed_everything
from fercore.engine.evaluate import Evaluator
from fercore.errors import UserInputError
from fercore.hooks.assemble import Company
from fercore.hooks.manager import Plugins
from fercore.models import Model
from fercore.schedule import Stage, ViewRequest


@dataclass(frozen=True)
class Workshop:
    """A run's parts, built and seeded, before the first step.

    Attributes:
        company: settings and plugins. plugins: their hooks. domains: the data. fabric: device and precision.
        model: the network on its device. stages, views: what the method asked for. evaluator: sees target labels.
    """

    company: Company
    plugins: Plugins
    domains: DomainSet
    fabric: Fabric
    model: Model
    stages: tuple[Stage, ...]
    views: tuple[ViewRequest, ...]
    evaluator: Evaluator

    @property
    def config(self) -> RunConfig:
        """The run's settings."""
        return self.company.config

    def loader(self) -> StepLoader:
        """Return a loader at the start of its first epoch."""
        config = self.config
        return StepLoader(
            self.domains, self.views, config.data, seed=config.seed, mean=self.model.mean, std=self.model.std
        )


def build_plugins(company: Company) -> Plugins:
    """Register the built-in defaults and the run's plugins."""
    return Plugins([Defaults()], company.plugins, company.versions)


def build_workshop(company: Company) -> Workshop:
    """Open the data, seed, and build the network.

    Raises:
        UserInputError: for data, settings or a device that cannot be used; nothing has been written then.
    """
    config = company.config
    plugins = build_plugins(company)
    fabric = build_fabric(config)
    domains = open_domains(config.data, seed=config.seed)
    seed_everything(config.seed)
    model = plugins.build_model(config, len(domains.classes))
    _set_statistics(model, config)
    views = plugins.request_views(config)
    _check_views(views)
    stages = plugins.plan(config, model)
    model.run_through(fabric.setup_module)
    return Workshop(company, plugins, domains, fabric, model, stages, views, Evaluator(fabric, plugins, config.data))


def build_fabric(config: RunConfig) -> Fabric:
    """Choose device and precision.

    Raises:
        UserInputError: if CUDA is asked for and not there.
    """
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserInputError("no CUDA device is usable here", where="--device cuda", fix="run with --device cpu")
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    torch.use_deterministic_algorithms(config.train.deterministic, warn_only=True)
    return Fabric(accelerator=device, devices=1, precision=config.train.precision)


def _set_statistics(model: Model, config: RunConfig) -> None:
    model.mean = config.data.mean or model.mean
    model.std = config.data.std or model.std


def _check_views(views: Sequence[ViewRequest]) -> None:
    if not any(view.side == "source" for view in views):
        raise UserInputError("no plugin of this run asks for a view of the source", fix="name a method that trains")
