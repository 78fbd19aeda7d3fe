"""Policy files in force: the file is watched for as long as the process lives, and who depends on it hears of each new version.

The rule a reader could break: a file that is wrong is reported, and changes nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Callable

from proxy.pager import Pager
from proxy.policy.contract import Balance
from proxy.policy.lints import lints
from proxy.policy.policyset import PolicySet
from proxy.policy.shelf import Loaded, Shelf
from proxy.sinks import sinks_of
from proxy.telemetry.faults import report
from proxy.telemetry.logs import Log
from proxy.telemetry.metrics import Metrics

LOOK_S = 1.0  # how often the policy file and the secrets it names are looked at


class Activation:
    """Runs until it is cancelled. file: as it is called in the log. highest: where the budgets in force stand, as the books know it."""

    def __init__(
        self, shelf: Shelf, *, highest: Callable[[], AsyncIterator[Balance]], pager: Pager, metrics: Metrics, log: Log, file: str
    ) -> None:
        self._shelf = shelf
        self._highest = highest
        self._pager = pager
        self._metrics = metrics
        self._log = log
        self._file = file

    def __repr__(self) -> str:
        return f"<Activation {self._shelf!r}>"

    async def run(self) -> None:
        """Look at the file, again and again."""
        await self._show_budgets()
        await self._lint()
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                if not await asyncio.to_thread(self._shelf.changed):
                    continue
                before = self._shelf.current
                result = await asyncio.to_thread(self._shelf.reload)
            except Exception as error:  # a last line of defence: the set in force stays, and the next look comes
                report(self._log, error, where="policy watch")
                continue
            if isinstance(result, Loaded):
                self.tell(before)
                await self._show_budgets()
                await self._lint()
            else:
                self._metrics.policy_rejected()
                mistakes = [str(mistake) for mistake in result.mistakes]
                self._log.event(
                    "policy.rejected",
                    level="error",
                    mistakes=len(mistakes),
                    mistake_lines=mistakes,
                    policy_version=self._shelf.current.version,
                )

    def tell(self, before: PolicySet | None) -> None:
        """A version is in force. before: the one that was."""
        now = self._shelf.current
        self._pager.configure(sinks_of(now.pages))
        self._metrics.policy_activated(
            version=now.version,
            models=(*now.prices.listed, *now.prices.own),
            keys=[key.id for key in now.keys.keys],
            clauses=[(p.name, c.clause, "shadow" if p.shadow else "enforce") for p in now.policies for c in p.clauses],
        )
        self._log.event(
            "policy.activated",
            policy_version=now.version,
            previous_version=before.version if before is not None else None,
            price_version=now.prices.version,
            file=self._file,
        )

    async def _show_budgets(self) -> None:
        """Show what is spent of the budgets in force, or each would seem unspent until a call is charged to it."""
        try:
            async for balance in self._highest():
                self._metrics.budget_settled(balance)
        except Exception as error:  # a last line of defence: the next call that is charged shows it
            report(self._log, error, where="budgets shown")

    async def _lint(self) -> None:
        """Say what looks unintended. In a thread, since it tries every rule on every key and model."""
        now = self._shelf.current
        try:
            found = [str(lint) for lint in await asyncio.to_thread(lints, now)]
        except Exception as error:  # a last line of defence: without lints the file is as valid as with them
            report(self._log, error, where="policy lints")
            return
        if found:
            self._log.event("policy.linted", level="warning", lint_lines=found, policy_version=now.version)
