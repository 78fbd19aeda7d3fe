"""Which models may be called, and which name is sent for which."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, ClassVar

from proxy.call import Call
from proxy.policy.contract import Clause, Stage, option
from proxy.policy.scalar import NotEmpty, Wrong
from proxy.policy.values import Glob, Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Models(Clause):
    """Models that may be called, and other names for them."""

    clause: ClassVar[str] = "models"
    stage: ClassVar[Stage] = Stage.VALIDATE

    allow: Annotated[tuple[Glob, ...], NotEmpty("leave it out to allow every model")] | None = option(
        "models that may be sent upstream; left out: all", default=None
    )
    alias: Mapping[Model, Model] = option("name asked for → name sent instead", default_factory=dict)

    def __post_init__(self) -> None:
        if self.allow is None and not self.alias:
            raise Wrong("says nothing: it has neither allow nor alias")

    def sends(self, model: str) -> str:
        return self.alias.get(model, model)

    def prepare(self, call: Call) -> None:
        # From the name asked, never from one already renamed: so no order of policies can make a chain.
        if call.model_asked is not None and (model := self.sends(call.model_asked)) != call.model_asked:
            call.rename_model(model)

    def check(self, call: Call) -> None:
        if self.allow is None:
            return
        if call.model is None:
            if call.surface.model_required:
                raise self.refuse(
                    "model_not_allowed", f"Policy '{self.policy}' allows only named models; the call names none.", param="model"
                )
            return
        if not any(fnmatchcase(call.model, glob) for glob in self.allow):
            asked = "" if call.model == call.model_asked else f", sent for '{(call.model_asked or '')[:100]}'"
            raise self.refuse(
                "model_not_allowed",
                f"Policy '{self.policy}' does not allow the model '{call.model[:100]}'{asked}; it allows {', '.join(self.allow)}.",
                param="model",
            )
