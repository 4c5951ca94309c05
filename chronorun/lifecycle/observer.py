"""Looks at the population at an evaluation: all that the policies will read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chronorun.config.lifecycle import LifecycleConfig
from chronorun.errors import UserError
from chronorun.lifecycle.decide.policy_state import PolicyState
from chronorun.lifecycle.decide.signals import LayerSignals, check_signals
from chronorun.lifecycle.edit.population import Population
from chronorun.lifecycle.edit.what_if import Answers, ask_probe
from chronorun.lifecycle.experts.basins import basin_records
from chronorun.lifecycle.observe.reader import LayerInput, SignalReader

if TYPE_CHECKING:
    from chronorun.governance.decisions import ControlDecision
    from chronorun.telemetry.layer import LayerSnapshot
    from chronorun.telemetry.recorder import RoutingRecorder
    from chronorun.telemetry.snapshots import SystemSnapshot
    from chronorun.telemetry.windows import LayerWindow


@dataclass(frozen=True)
class Seen:
    """What an evaluation found: signals by layer, and the records of basins and releases."""

    step: int
    signals: list[LayerSignals]
    windows: Mapping[int, LayerWindow]
    basins: list[dict[str, Any]]
    releases: list[dict[str, Any]]


class Observer:
    """Brings a population up to an evaluation, and reads its signals."""

    def __init__(
        self,
        population: Population,
        reader: SignalReader,
        recorder: RoutingRecorder | None,
        config: LifecycleConfig,
    ) -> None:
        self.population, self.reader = population, reader
        self.recorder, self.config = recorder, config

    def look(
        self,
        snapshot: SystemSnapshot,
        decisions: Sequence[ControlDecision],
        policy: PolicyState,
    ) -> Seen:
        """Return what is to be seen. Raises UserError for a snapshot of another population."""
        self._check(snapshot)
        population, ledger, step = self.population, self.population.ledger, snapshot.step
        shares = {layer.layer_id: layer.utilization_shares for layer in snapshot.layers}
        # What the steps of the window left on the device comes to the host in one go.
        population.tap.gather(0 if self.recorder is None else self.recorder.sequences)
        # Ages count this evaluation, so that the limits below are those of the configuration.
        ledger.open_evaluation(step, shares)
        # A stale plane makes a release look worse than it is: even the pairs out first.
        population.releases.balance()
        released = population.release_twins(step)
        # After the releases: twins that are free now may end their cooling at this evaluation.
        ledger.settle(shares)
        # After the releases, too: they change weights, and an edit is judged as things are.
        answers = ask_probe(population, policy, self.config, step)
        windows = {} if self.recorder is None else self.recorder.last_layers()
        control = {decision.layer_id: decision for decision in decisions}
        seen = Seen(step, [], windows, [], released)
        # Last, because signals report states and what the probe said.
        for layer in snapshot.layers:
            self._read(seen, layer, control.get(layer.layer_id), policy, answers)
        return seen

    def _check(self, snapshot: SystemSnapshot) -> None:
        for layer in snapshot.layers:
            expected, got = self.population.registry.slots(layer.layer_id), layer.utilization_shares
            if len(got) != len(expected):
                raise UserError(
                    f"lifecycle: layer {layer.layer_id} of the snapshot has {len(got)} experts, "
                    f"expected {len(expected)}; take snapshots of windows in which the population "
                    f"did not change"
                )

    def _read(
        self,
        seen: Seen,
        layer: LayerSnapshot,
        control: ControlDecision | None,
        policy: PolicyState,
        answers: Answers,
    ) -> None:
        layer_id, ledger = layer.layer_id, self.population.ledger
        known, names = policy.layers.get(layer_id), ledger.registry.slots(layer_id)
        readings, gains = answers
        x = LayerInput(
            seen.step,
            policy.checkpoint + 1,
            layer,
            seen.windows.get(layer_id),
            control,
            self.reader.watches[layer_id].look(names),
            frozenset(ledger.ramps),
            frozenset() if known is None else frozenset(known.counters.overload),
            len(ledger.registry.pending(layer_id)),
            0.0 if self.recorder is None else self.recorder.tokens_per_step(),
            readings.get(layer_id, []),
            gains,
        )
        entries = self.reader.basins(x)
        for record, entry in zip(ledger.registry.live(layer_id), entries, strict=True):
            record.basin.append(entry)
        seen.basins.extend(basin_records(layer_id, names, entries))
        signals = self.reader.read(x)
        check_signals(signals)
        seen.signals.append(signals)
