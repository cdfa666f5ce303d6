"""Trains a swarm: episode after episode, each one world that every agent plays for itself, learning.

What comes of it is decided by ``TrainingSettings`` alone: the same settings give the same swarm, bit for bit, on any
number of processes, in one go or resumed. (A stability field at a URL is the one thing that may differ.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from amaru.errors import AmaruError, CheckpointError
from amaru.learning import checkpoints as saved
from amaru.learning import crew as c
from amaru.learning import decision_samples, exchange, metrics_csv, population, swarm_files
from amaru.learning.checkpoints import AgentState, Checkpoint, TrainingSettings
from amaru.learning.decision_samples import DecisionLog
from amaru.learning.metrics_csv import EpisodeMetrics, MetricsLog
from amaru.learning.pace import Pace, Progress, Trained
from amaru.learning.preconditions import check_family, family_digest
from amaru.learning.psi_field import Reading, TrainingField
from amaru.learning.rewards import compute_reward, references_of
from amaru.learning.swarm_files import SwarmFile, TrainedAgent
from amaru.routing.kernels import Floats
from amaru.simulation.scenario import Scenario
from amaru.stability.guardian import Intervention

SCORED_OVER = 50
"""Episodes that a score is the moving average of."""
ALBEDO_FACTOR, ALBEDO_MOST = 1.5, 0.3
WRITING_SHARE = 0.05
"""Checkpoints take at most this part of the time, however large they are."""


class Training:
    """One run of a training, in ``out``.

    Parameters
    ----------
    settings
        What decides the result.
    episodes
        To have been played in the end, those of earlier runs included.
    start
        State that every agent begins with; ``None``: nothing.
    loaded, loaded_from
        A checkpoint to go on from, and the directory that it was found in, with the files that belong to it.
    field
        Told the rewards after every episode, and done as it asks.
    checkpoint_every_s
        Least seconds between two checkpoints.
    clock, now
        Seconds, for rates and files' ``seconds``; and the date, for ``created``.
    say
        Takes a line for the user.

    Raises
    ------
    AmaruError
        The family is for evaluation, or the checkpoint is of another family.
    CheckpointError
        The files beside the checkpoint do not belong to it.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        scenario: Scenario,
        out: Path,
        *,
        episodes: int,
        processes: int = 1,
        start: bytes | None = None,
        loaded: Checkpoint | None = None,
        loaded_from: Path | None = None,
        field: TrainingField | None = None,
        checkpoint_every_s: float = 30.0,
        clock: Callable[[], float],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        check_family(scenario)
        self.settings = settings
        self.episodes = episodes
        self._scenario = scenario
        self._family = family_digest(scenario)
        self._references = references_of(scenario)
        self._out = out
        self._processes = processes
        self._field = field
        self._every_s = checkpoint_every_s
        self._clock, self._now, self._say = clock, now, say
        self._metrics = MetricsLog(with_field=field is not None)
        self._decisions = DecisionLog(out)
        self._earlier = loaded_from
        self._replaces = loaded_from is None or loaded_from.resolve() != out.resolve()
        """Whether what lies in ``out`` is another training's."""
        self._told_of_disk = False
        agents = settings.agents
        self._averages = settings.policy == "qlearning"
        self._requests, self._seconds_before = 0, 0.0
        self.episode, self._scored, self._epsilon = 0, 0, settings.epsilon
        self._scores = [0.0] * agents
        self._fresh = [False] * agents
        self._center = exchange.blank_center() if start is None else exchange.center_of(settings.policy, start)
        self._states: list[bytes | None] = [start] * agents
        self._given = {} if settings.learning_rate is None else {"learning_rate": settings.learning_rate}
        if loaded is None or loaded_from is None:
            self._knobs = population.first_knobs(settings.policy, agents, settings.seed, self._given)
        else:
            self._take_over(loaded, loaded_from)
        self._run_requests = 0

    def _take_over(self, loaded: Checkpoint, directory: Path) -> None:
        if loaded.family != self._family:
            raise CheckpointError(
                f"{directory / saved.NAME}: was trained on another version of {self.settings.worlds!r}, with other"
                " worlds; train anew"
            )
        self.episode, self._scored, self._epsilon = loaded.episode, loaded.scored, loaded.epsilon
        self._requests, self._seconds_before = loaded.requests, loaded.seconds
        self._knobs = [{**agent.knobs} for agent in loaded.agents]
        self._scores = [agent.score for agent in loaded.agents]
        self._fresh = [agent.fresh for agent in loaded.agents]
        self._states = [agent.state for agent in loaded.agents]
        try:
            self._center = exchange.unpacked(loaded.center)
        except ValueError as error:
            raise CheckpointError(f"{directory / saved.NAME}: center: {error}; train anew") from None
        self._metrics.take_over(directory / metrics_csv.NAME, loaded.episode)
        if self._field is not None and loaded.field is not None:
            try:
                self._field.load(loaded.field)
            except ValueError as error:
                raise CheckpointError(
                    f"{directory / saved.NAME}: field: {error}; go on without --psi-field, or train anew"
                ) from None

    # ---- the loop -----------------------------------------------------------------------------------------------

    def run(
        self, stopped: Callable[[], bool] = lambda: False, show: Callable[[Progress], None] = lambda _: None
    ) -> Trained:
        """Train until ``episodes`` are played, or ``stopped`` says so between two of them; then save.

        Raises
        ------
        AmaruError
            A process ended, or the result could not be written.
        """
        settings = self.settings
        plan = c.Plan(self._scenario, settings.policy, settings.steps, settings.seed, settings.decisions)
        members = [
            c.Member(id, knobs, state, fresh)
            for id, (knobs, state, fresh) in enumerate(zip(self._knobs, self._states, self._fresh, strict=True))
        ]
        self._states = []
        with c.Crew(plan, members, exchange.packed(self._center), processes=self._processes) as crew:
            crew.states()  # compiled, and every state accepted, before anything is written
            if self._earlier is not None:
                self._continue_files(self._earlier)
            self._started_s = self._clock()
            self._next_save_s = self._started_s + self._every_s
            pace = Pace(self._started_s)
            while self.episode < self.episodes and not stopped():
                last = self._play(crew, pace)
                show(self._progress(last, pace))
                if self._clock() >= self._next_save_s:
                    self._save_if_possible(crew)
            return self._finish(crew)

    def _play(self, crew: c.Crew, pace: Pace) -> EpisodeMetrics:
        """A few episodes, and what is due after them; returns the last one's metrics."""
        settings = self.settings
        to_exchange = settings.share_every - self.episode % settings.share_every
        count = min(to_exchange, self.episodes - self.episode, 1 if self._field else pace.batch())
        epsilons = []
        for _ in range(count):
            epsilons.append(self._epsilon)
            least = min(self._epsilon, settings.epsilon_least)
            self._epsilon = max(self._epsilon * settings.epsilon_kept, least)
        played = crew.play(self.episode + 1, epsilons, self._best)
        before_s, now_s = pace.last_s, self._clock()
        pace.add(count, int(played.counts[:, :, c.REQUESTS].sum()), now_s)
        for place in range(count):
            self.episode += 1
            at_s = before_s + (now_s - before_s) * (place + 1) / count - self._started_s + self._seconds_before
            metrics = self._count(played.counts[place], epsilons[place], at_s, crew)
            self._metrics.add(metrics)
        if self._decisions.add(played.decisions):
            self._keep_decisions()
        if self.episode % settings.share_every == 0:
            self._exchange(crew)
        return metrics

    def _count(self, counts: Floats, epsilon: float, seconds: float, crew: c.Crew) -> EpisodeMetrics:
        """An episode's metrics, the agents' scores, and what the field wants after it."""
        requests, served = counts[:, c.REQUESTS], counts[:, c.SERVED]
        rewards = [self._reward(agent) for agent in counts]
        if requests.all():
            self._scored = min(self._scored + 1, SCORED_OVER)
            for id, utility in enumerate((counts[:, c.UTILITY] / requests).tolist()):
                self._scores[id] += (utility - self._scores[id]) / self._scored
        all_requests, all_served = float(requests.sum()), float(served.sum())
        self._requests += int(all_requests)
        self._run_requests += int(all_requests)
        reading = self._ask_field(rewards, crew)
        return EpisodeMetrics(
            episode=self.episode,
            q_table_size=float(counts[:, c.TABLE_SIZE].mean()),
            avg_reward=float(np.mean(rewards)),
            best_reward=max(rewards),
            worst_reward=min(rewards),
            epsilon=epsilon,
            fill_rate=all_served / all_requests if all_requests else math.nan,
            avg_cost=float(counts[:, c.COST_USD].sum()) / all_served if all_served else math.nan,
            avg_latency=float(counts[:, c.LATENCY_MS].sum()) / all_served if all_served else math.nan,
            utility=float(counts[:, c.UTILITY].sum()) / all_requests if all_requests else math.nan,
            requests=int(all_requests),
            seconds=round(seconds, 3),
            field=reading,
        )

    def _reward(self, counts: Floats) -> float:
        requests, served = float(counts[c.REQUESTS]), float(counts[c.SERVED])
        if not served:
            return 0.0
        cost, latency = float(counts[c.COST_USD]) / served, float(counts[c.LATENCY_MS]) / served
        return compute_reward(served / requests, cost, latency, references=self._references)

    def _ask_field(self, rewards: Sequence[float], crew: c.Crew) -> Reading | None:
        reading = self._field.read(rewards) if self._field else None
        if self._field is None or reading is None or reading.intervention is None:
            return reading
        if reading.intervention is Intervention.NIGREDO:
            worst = int(np.argmin(rewards))
            crew.reset(worst)
            self._fresh[worst] = True
            self._scores[worst] = min(self._scores)  # those of the past are not its own any more
            what, how = f"agent {worst}", f"what it had learned, for a reward of {rewards[worst]:.4f} -> nothing"
        else:
            before = self._epsilon
            wanted = ALBEDO_FACTOR * max(before, self.settings.epsilon_least)
            self._epsilon = max(before, min(wanted, ALBEDO_MOST))
            what, how = "epsilon", f"{before:.4f} -> {self._epsilon:.4f}"
        if reading.id is not None:
            self._field.applied(reading.id, {what: how})
        self._say(f"episode {self.episode:,}: {reading.intervention}: {what}: {how}")
        return reading

    @property
    def _best(self) -> int:
        return int(np.argmax(self._scores))

    def _exchange(self, crew: c.Crew) -> None:
        """What the agents tell each other: see ``exchange`` and ``population``."""
        settings = self.settings
        if settings.agents == 1:
            return
        if self._averages:
            said = [one for one in crew.contributions() if one is not None]
            self._center = exchange.merged(self._center, said, self._scores)
            crew.adopt(exchange.packed(self._center))
            self._fresh = [False] * settings.agents
        if self.episode % (settings.share_every * population.EVERY):
            return
        for turn in population.turns(
            settings.policy, self._scores, self._knobs, self._given, settings.seed, self.episode
        ):
            crew.turn(turn.agent, turn.knobs)
            self._knobs[turn.agent] = turn.knobs
            self._scores[turn.agent] = self._scores[turn.donor]

    # ---- files --------------------------------------------------------------------------------------------------

    def _continue_files(self, directory: Path) -> None:
        try:
            if self._replaces:
                self._clear()
            self._decisions.take_over(directory, self.episode)
        except OSError as error:
            raise AmaruError(f"{self._out}: cannot be written: {error.strerror or error}") from error

    def _clear(self) -> None:
        """Make room for this training: what an earlier one left would be mixed up with it."""
        self._decisions.clear()
        final = self._out / f"{swarm_files.NAME}.json"
        for path in (self._out / saved.NAME, self._out / metrics_csv.NAME, final, *swarm_files.binaries_of(final)):
            path.unlink(missing_ok=True)
        self._replaces = False

    def _save(self, crew: c.Crew) -> list[AgentState]:
        """The checkpoint, and the rows up to it. The checkpoint comes last: it never is ahead of its rows."""
        if self._replaces:
            self._clear()
        agents = [
            AgentState(knobs={**knobs}, score=score, fresh=fresh, state=state)
            for knobs, score, fresh, state in zip(self._knobs, self._scores, self._fresh, crew.states(), strict=True)
        ]
        self._metrics.write(self._out / metrics_csv.NAME)
        self._decisions.flush(self.episode)
        checkpoint = Checkpoint(
            settings=self.settings,
            family=self._family,
            episode=self.episode,
            wanted=self.episodes,
            epsilon=self._epsilon,
            scored=self._scored,
            agents=tuple(agents),
            center=exchange.packed(self._center),
            requests=self._requests,
            seconds=self._seconds_before + self._clock() - self._started_s,
            field=None if self._field is None else self._field.state(),
        )
        saved.save_checkpoint(checkpoint, self._out / saved.NAME)
        return agents

    def _keep_decisions(self) -> None:
        """Out of memory, between two checkpoints."""
        try:
            if self._replaces:
                self._clear()
            self._decisions.flush(self.episode)
        except OSError as error:
            raise AmaruError(f"decisions could not be written to {self._out}: {error.strerror or error}") from error

    def _save_if_possible(self, crew: c.Crew) -> None:
        begun_s = self._clock()
        try:
            self._save(crew)
        except OSError as error:
            if not self._told_of_disk:
                self._say(
                    f"no checkpoint could be written to {self._out} ({error.strerror or error}); training goes on"
                )
                self._told_of_disk = True
        done_s = self._clock()
        self._next_save_s = done_s + max(self._every_s, (done_s - begun_s) / WRITING_SHARE)

    def _finish(self, crew: c.Crew) -> Trained:
        seconds = self._clock() - self._started_s
        final = self._out / f"{swarm_files.NAME}.json"
        try:
            agents = self._save(crew)
            self._decisions.finish(self.episode)
            swarm = SwarmFile(
                source=final,
                created=self._now().isoformat(timespec="seconds"),
                seed=self.settings.seed,
                worlds=self.settings.worlds,
                episodes=self.episode,
                best=self._best,
                agents=tuple(
                    TrainedAgent(
                        id=id, policy=self.settings.policy, knobs={**agent.knobs}, score=agent.score, state=agent.state
                    )
                    for id, agent in enumerate(agents)
                ),
            )
            files = swarm_files.save_swarm_file(swarm)
        except OSError as error:
            raise AmaruError(
                f"the result could not be written to {self._out}: {error.strerror or error}; make room, and go on from"
                f" its {saved.NAME} with --load, if it has one"
            ) from error
        return Trained(
            episode=self.episode,
            complete=self.episode >= self.episodes,
            requests=self._requests,
            seconds=self._seconds_before + seconds,
            run_requests=self._run_requests,
            run_seconds=seconds,
            score=self._scores[self._best],
            best=self._best,
            files=(*files, *(self._out / name for name in (metrics_csv.NAME, decision_samples.NAME, saved.NAME))),
        )

    def _progress(self, last: EpisodeMetrics, pace: Pace) -> Progress:
        return Progress(
            episode=self.episode,
            episodes=self.episodes,
            elapsed_s=pace.last_s - self._started_s,
            requests_per_s=pace.requests_per_s,
            eta_s=pace.eta_s(self.episodes - self.episode),
            agents=self.settings.agents,
            avg_reward=last.avg_reward,
            best_reward=last.best_reward,
            utility=last.utility,
            fill_rate=last.fill_rate,
            epsilon=last.epsilon,
            table_size=last.q_table_size,
        )
