"""``amaru train``: a swarm of policies that learn in the war-game."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from amaru.cli.ledger_option import RecordIn, said_of
from amaru.cli.reports import obstacle_to
from amaru.cli.train_receipt import record_training
from amaru.errors import AmaruError, CheckpointError

if TYPE_CHECKING:
    from rich.console import Console

    from amaru.learning.checkpoints import Checkpoint, TrainingSettings
    from amaru.learning.pace import Trained
    from amaru.learning.training import Training
    from amaru.simulation.scenario import Scenario

FAMILY = "hidden-train-v1"
AGENTS, EPISODES, DECISIONS, SHARE_EVERY = 10, 1000, 20, 10
EPSILON = {"qlearning": 0.2, "thompson": 0.0, "hybrid": 0.0}
"""By default; the other two explore by what they are unsure of."""
EPSILON_KEPT, EPSILON_LEAST = 0.999, 0.01
ONE_PRESS_S = 0.5

_SWARM = "The swarm"
_WORLDS = "What it trains on"
_RUN = "The run, and where it goes"


def train(
    policy: Annotated[
        str | None,
        typer.Option(
            help="What the agents are: qlearning, thompson or hybrid; by default qlearning.",
            rich_help_panel=_SWARM,
            show_default=False,
        ),
    ] = None,
    agents: Annotated[
        int | None,
        typer.Option(help=f"By default {AGENTS}.", min=1, max=1000, rich_help_panel=_SWARM, show_default=False),
    ] = None,
    episodes: Annotated[
        int | None,
        typer.Option(
            help=f"In all, those before a checkpoint included; by default {EPISODES:,}.",
            min=0,
            max=10_000_000,
            rich_help_panel=_SWARM,
            show_default=False,
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Least step of Q-learning's updates: the first agent's, the others begin around it; by default 0.05.",
            min=0.0001,
            max=1,
            rich_help_panel=_SWARM,
            show_default=False,
        ),
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(
            help="Share of the choices that are drawn, at the start; it falls by 0.1 % an episode, to 0.01. By default"
            " 0.2 for qlearning, else 0.",
            min=0,
            max=1,
            rich_help_panel=_SWARM,
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Of worlds and agents, by default 0: the same gives the same swarm, bit for bit.",
            min=0,
            max=2**63 - 1,
            rich_help_panel=_SWARM,
            show_default=False,
        ),
    ] = None,
    psi_field: Annotated[
        str | None,
        typer.Option(
            metavar="URL|local",
            help="A stability field that is told the agents' rewards, and may ask for intervention: a service"
            " (`amaru psi serve`), or `local`, one in this process.",
            rich_help_panel=_SWARM,
            show_default=False,
        ),
    ] = None,
    worlds: Annotated[
        str | None,
        typer.Option(
            metavar="FAMILY",
            help=f"A family of worlds by its name, or a scenario file; by default {FAMILY}.",
            rich_help_panel=_WORLDS,
            show_default=False,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Of an episode; by default the family's.",
            min=1,
            max=1_000_000,
            rich_help_panel=_WORLDS,
            show_default=False,
        ),
    ] = None,
    dataset: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="DATASET",
            help="Begin with what the gateway has seen: a data set of `amaru dataset build`.",
            rich_help_panel=_WORLDS,
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory for the swarm and its files.", rich_help_panel=_RUN)] = Path(
        "out"
    ),
    load: Annotated[
        Path | None,
        typer.Option(
            metavar="CHECKPOINT",
            help="Go on from a checkpoint.bin, with its settings.",
            rich_help_panel=_RUN,
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the training that is in --out.", rich_help_panel=_RUN)
    ] = False,
    checkpoint_every: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="Least time between two checkpoints.", min=0.1, rich_help_panel=_RUN),
    ] = 30.0,
    processes: Annotated[
        int | None,
        typer.Option(
            help="By default one per core; the result is the same for any number.",
            min=1,
            max=256,
            rich_help_panel=_RUN,
            show_default=False,
        ),
    ] = None,
    ledger: RecordIn = None,
) -> None:
    """Train a swarm of policies in the war-game: each episode is one world, which every agent plays and learns from.

    Writes swarm_final.json, training_metrics.csv, decisions.parquet and checkpoint.bin. Ctrl-C finishes the episode
    and saves; `--load out/checkpoint.bin` goes on as if it had never stopped.
    """
    # Imported here, so that `amaru train --help` need not wait for them.
    from rich.console import Console

    from amaru.learning.checkpoints import load_checkpoint
    from amaru.learning.preconditions import check_family
    from amaru.learning.psi_field import LOCAL, LocalField, PsiField, TrainingField
    from amaru.learning.training import Training

    asked = {
        "policy": policy,
        "agents": agents,
        "learning_rate": learning_rate,
        "epsilon": epsilon,
        "seed": seed,
        "worlds": worlds,
        "steps": steps,
        "warm_start": None if dataset is None else str(dataset),
    }
    console = Console()

    def say(words: str) -> None:
        console.print(words, markup=False, highlight=False, soft_wrap=True)

    loaded = None if load is None else load_checkpoint(load)
    settings, scenario = _settings(asked, loaded)
    check_family(scenario)
    _check_out(out, load, overwrite=overwrite)
    wanted = EPISODES if episodes is None else episodes
    if loaded is not None:
        _check_loaded(loaded, load, episodes)
        wanted = wanted if episodes is not None else max(loaded.wanted, loaded.episode)
    field: TrainingField | None = None
    if psi_field == LOCAL:
        field = LocalField(settings.agents)
    elif psi_field is not None:
        field = PsiField(psi_field, settings.agents, say=say, clock=time.monotonic)
    start = None if dataset is None or loaded is not None else _warm(settings, dataset, say=say)
    _make(out)
    processes = min(processes or len(os.sched_getaffinity(0)), settings.agents)
    training = Training(
        settings,
        scenario,
        out,
        episodes=wanted,
        processes=processes,
        start=start,
        loaded=loaded,
        loaded_from=None if load is None else load.absolute().parent,
        field=field,
        checkpoint_every_s=checkpoint_every,
        clock=time.monotonic,
        say=say,
    )
    with _interrupts(time.monotonic) as interrupts:
        say(_beginning(settings, training.episode, wanted, processes, out))
        try:
            done = _run(training, interrupts, console)
        except KeyboardInterrupt:
            where = out / "checkpoint.bin"
            kept = f"; {where} holds what was saved last" if where.exists() else ""
            typer.echo(f"Stopped at once{kept}.", err=True)
            raise typer.Exit(130) from None
    _report(done, out, wanted, say)
    if entry := record_training(ledger, settings, done, wanted):
        say(said_of(entry))
    if field is not None and field.missed:
        say(f"The psi-field was away for {field.missed:,} episodes.")
    if not done.complete:
        raise typer.Exit(130)


def _settings(asked: Mapping[str, object], loaded: Checkpoint | None) -> tuple[TrainingSettings, Scenario]:
    """What is trained, and where: as asked for, or as in the checkpoint."""
    import msgspec

    from amaru.learning.checkpoints import TrainingSettings
    from amaru.simulation.scenario_files import load_scenario

    given = {name: value for name, value in asked.items() if value is not None}
    if loaded is not None:
        before = msgspec.structs.asdict(loaded.settings)
        for name, value in given.items():
            if before[name] != value:
                option = "from" if name == "warm_start" else name.replace("_", "-")
                raise AmaruError(
                    f"--{option} {value}: the checkpoint was trained with {before[name] or 'none'}; leave the option"
                    " out to go on from it, or leave --load out to train anew"
                )
        return loaded.settings, load_scenario(loaded.settings.worlds)
    given.setdefault("policy", "qlearning")
    policy = str(given["policy"])
    if policy not in EPSILON:
        raise AmaruError(f"--policy {policy}: choose one that learns, {', '.join(EPSILON)}")
    if "learning_rate" in given and policy != "qlearning":
        raise AmaruError(f"--learning-rate: {policy} has none; it belongs to qlearning")
    given.setdefault("worlds", FAMILY)
    scenario = load_scenario(str(given["worlds"]))
    defaults = {
        "agents": AGENTS,
        "learning_rate": None,
        "epsilon": EPSILON[policy],
        "seed": 0,
        "steps": scenario.steps,
        "epsilon_kept": EPSILON_KEPT,
        "epsilon_least": min(EPSILON_LEAST, float(str(given.get("epsilon", EPSILON[policy])))),
        "share_every": SHARE_EVERY,
        "decisions": DECISIONS,
    }
    return msgspec.convert({**defaults, **given}, TrainingSettings), scenario


def _check_out(out: Path, load: Path | None, *, overwrite: bool) -> None:
    """Refuse, before anything is written, to mix two trainings up, or to write where one cannot."""
    from amaru.learning.preconditions import files_of_a_training

    if obstacle := obstacle_to(out):
        raise AmaruError(f"--out {out}: {obstacle}; name another directory")
    goes_on = load is not None and load.absolute().parent.resolve() == out.resolve()
    held = files_of_a_training(out)
    if held and not goes_on and not overwrite:
        raise AmaruError(
            f"--out {out}: holds a training already ({', '.join(path.name for path in held)}); go on from it with"
            f" --load {out / 'checkpoint.bin'}, replace it with --overwrite, or name another directory"
        )
    if goes_on and overwrite:
        raise AmaruError("--overwrite: would replace the training that --load goes on from; leave one of them out")


def _check_loaded(loaded: Checkpoint, load: Path | None, episodes: int | None) -> None:
    if episodes is not None and episodes < loaded.episode:
        raise CheckpointError(
            f"{load}: has played {loaded.episode:,} episodes already, and --episodes {episodes:,} is the number in all"
        )


def _warm(settings: TrainingSettings, dataset: Path, *, say: Callable[[str], None]) -> bytes:
    """What a policy has learned from what the gateway has seen."""
    from amaru.learning.history import warm_start
    from amaru.routing.policies import make_policy

    knobs = {} if settings.learning_rate is None else {"learning_rate": settings.learning_rate}
    policy = make_policy(settings.policy, **knobs)
    report = warm_start(policy, dataset)
    say(f"{dataset}: learned from {report.learned:,} attempts of {report.decisions:,} decisions")
    return policy.state()


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AmaruError(f"--out {out}: {error.strerror or error}; name another directory") from error


class _Interrupts:
    """Whether to stop. The second signal raises KeyboardInterrupt.

    What comes within half a second of the first is the same press of Ctrl-C: wrappers such as ``timeout`` pass on
    what the terminal has sent to all of its processes already.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._first_s: float | None = None

    @property
    def stopped(self) -> bool:
        """Whether a signal came."""
        return self._first_s is not None

    def hear(self, _number: int, _frame: FrameType | None) -> None:
        """A signal came."""
        if self._first_s is not None:
            if self._clock() - self._first_s < ONE_PRESS_S:
                return
            raise KeyboardInterrupt
        self._first_s = self._clock()
        # Not through Python's buffers, in whose midst the signal may have come.
        os.write(2, b"Finishing the episode and saving; Ctrl-C again stops at once.\n")


@contextmanager
def _interrupts(clock: Callable[[], float]) -> Iterator[_Interrupts]:
    heard = _Interrupts(clock)
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, heard.hear) for number in numbers]
    try:
        yield heard
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _run(training: Training, interrupts: _Interrupts, console: Console) -> Trained:
    from amaru.cli.train_view import LiveView, PlainView

    with LiveView(console) if console.is_terminal else PlainView(console) as view:
        return training.run(lambda: interrupts.stopped, view.show)


def _beginning(settings: TrainingSettings, done: int, wanted: int, processes: int, out: Path) -> str:
    words = "agent" if settings.agents == 1 else "agents"
    going_on = f", going on after {done:,}" if done else ""
    return (
        f"{settings.agents:,} {settings.policy} {words} on {settings.worlds}: {wanted:,} episodes of"
        f" {settings.steps:,} steps{going_on}; {processes} {'process' if processes == 1 else 'processes'}, into {out}"
    )


def _report(done: Trained, out: Path, wanted: int, say: Callable[[str], None]) -> None:
    from amaru.readiness.markdown import number
    from amaru.readiness.replay_plan import time_text

    if not done.complete:
        say(
            f"Stopped after episode {done.episode:,} of {wanted:,}, and saved; go on with"
            f" `amaru train --load {out / 'checkpoint.bin'} --out {out}`."
        )
    if done.run_requests:
        rate = done.run_requests / max(done.run_seconds, 1e-9)
        took = time_text(done.run_seconds) if done.run_seconds >= 10 else f"{done.run_seconds:.1f} s"
        say(
            f"{done.run_requests:,} requests in {took}, {number(rate)}/s;"
            f" the best agent is {done.best}, with a utility of {done.score:.3f} lately."
        )
    say(f"Wrote {', '.join(str(path) for path in done.files)}.")
    if done.complete:
        say(f"Judge it with `amaru evaluate --ai-agents {out / 'swarm_final.json'}`.")
