"""Who is right about each call of a soak: what the log says of it, against what model server and client saw.

The rule a reader could break: nothing here forgives. Where bytes may be lost on the way, by a client or a server that left, the log must
lie between what the client had read and what the model server had said; everywhere else they are equal.
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.soak.scripts import APP_KEYS, CAP, EMBED_NANOUSD, INPUT_NANOUSD, OUTPUT_NANOUSD, UNANSWERED, Script, Seen, Served

MOST_CANCEL_S = 5.0  # 1 s is promised, and the slowest is told; this much on a machine that has no time
_WHOLE = {"json", "late", *UNANSWERED}  # answers of one piece


@dataclass(frozen=True, slots=True)
class Told:
    """What the log says of a call. times: how often."""

    outcome: str
    source: str | None
    input_tokens: int
    output_tokens: int
    cost_nanousd: int
    times: int = 1

    @classmethod
    def of(cls, line: dict[str, Any], *, times: int) -> "Told":
        figures = (line.get(name, 0) for name in ("input_tokens", "output_tokens", "cost_nanousd"))
        return cls(line["outcome"], line.get("usage_source"), *figures, times)


@dataclass(slots=True)
class Ledger:
    """told: by the log, by id. seen: by the clients. served: by the model server. wrong: what does not fit."""

    told: dict[str, Told]
    seen: dict[str, Seen]
    served: dict[str, Served]
    wrong: list[str] = field(default_factory=list)
    sources: Counter[str] = field(default_factory=Counter)
    reported: int = 0  # tokens, by the model server in answers that clients took whole
    reported_as_told: int = 0  # of these, tokens in the log
    slowest_s: float = 0.0  # from a client's leaving to the end of the model server's connection
    cancelled: int = 0  # calls that ended so

    def check(self) -> None:
        """Fill `wrong`."""
        for id in self.told.keys() - self.seen.keys():
            self.wrong.append(f"{id}: told of, and nobody called")
        for id in self.served.keys() - self.told.keys():
            self.wrong.append(f"{id}: served, and never told of")
        for id, seen in self.seen.items():
            told = self.told.get(id)
            if told is None:
                if seen.stayed:
                    self.wrong.append(f"{id}: answered with {seen.status}, and never told of")
                continue
            if told.times != 1:
                self.wrong.append(f"{id}: told of {told.times} times")
            why = self._unlike(Script.of(id), told, seen, self.served.get(id))
            if why is not None:
                self.wrong.append(f"{id}: {why}: {told} {seen} {self.served.get(id)}")
            self.sources[told.source or "nothing used"] += 1

    def _unlike(self, script: Script, told: Told, seen: Seen, served: Served | None) -> str | None:
        """What of a call does not fit, or None."""
        usage = told.input_tokens, told.output_tokens
        if served is None and (seen.stayed or told.source is None):
            return None if told.cost_nanousd == 0 == sum(usage) else "never served, and not free"
        if served is None:  # its client left as it was sent, and a reset overtook it: the input went out
            return None if (told.outcome, told.output_tokens) == ("client_gone", 0) or script.name in _WHOLE else "output of nobody"
        if script.name == "embed":
            cost = told.input_tokens * EMBED_NANOUSD
        else:
            cost = told.input_tokens * INPUT_NANOUSD + told.output_tokens * OUTPUT_NANOUSD
        if told.cost_nanousd != cost:
            return f"should cost {cost}"
        if script.name in ("refused", "failed"):
            return None if told.source is None and cost == 0 else "failed, and not free"
        if cost == 0:
            return "served, and free"
        if seen.left_s is not None and served.closed_s is not None and seen.key != "drain" and not served.whole:
            self.cancelled += 1
            self.slowest_s = max(self.slowest_s, served.closed_s - seen.left_s)
            if served.closed_s - seen.left_s > MOST_CANCEL_S:
                return "the model server went on for too long"
        if told.source == "reported":
            if served.whole and seen.stayed and served.reported is not None:
                self.reported += sum(served.reported)
                self.reported_as_told += sum(usage)
            return None if served.reported == usage else "not as it was reported"
        if seen.stayed and served.reported is not None:
            return "reported, and not taken at that"
        if script.name in _WHOLE:  # nobody saw how much of a whole answer was made
            return None if (told.source, told.output_tokens) == ("estimated", CAP) else "not billed at its cap"
        least = served.said if script.name in ("cut", "quiet") and seen.stayed else seen.words
        most = served.said if told.source == "counted" else 2 * served.said  # an estimate, where too many wait to be counted
        return None if least <= told.output_tokens <= most else f"not between {least} and {most}"

    def document(self) -> str:
        sources = ", ".join(f"{count:,} {source}" for source, count in self.sources.most_common())
        return (
            f"{len(self.seen):,} calls with an id by {len(APP_KEYS)} keys, {len(self.served):,} reached the model server; "
            f"usage: {sources}. The model server reported {self.reported:,} tokens in answers that were taken whole; "
            f"the log has {self.reported_as_told:,}. {self.cancelled:,} calls were cancelled, the slowest after {self.slowest_s:.2f} s."
        )


def seen_of(file: Path) -> dict[str, Seen]:
    """What clients wrote of their calls."""
    return {id: Seen(*rest) for id, *rest in map(json.loads, file.read_text("utf-8").splitlines())}


def served_of(file: Path) -> dict[str, Served]:
    """What a model server wrote of the calls that reached it."""
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines() if line]
    return {id: Served(tuple(reported) if reported else None, *rest) for id, reported, *rest in rows}
