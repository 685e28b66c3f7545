"""One search for the targets of several methods, as long as the model is unedited.

Before any edit, all settings that differ in when a search stops, and not in where it goes, walk the same path: the one
goes on where the other stopped (see `targets.RuleSearch`).
"""

from __future__ import annotations

from collections.abc import Sequence

from encore_core.editing.batch import FindTargets
from encore_core.editing.batch_report import EditProgress, OnProgress
from encore_core.editing.session import EditSession
from encore_core.editing.target_loss import TargetSettings, target_settings
from encore_core.editing.targets import RuleSearch, Target, path_of
from encore_core.facts import Fact
from encore_core.methods import Settings
from encore_core.models.editable import EditableModel


class SharedSearch:
    """Targets on the unedited model, for all sessions with these settings.

    Args:
        lm: the model.
        settings: of every session that will ask.
    """

    def __init__(self, lm: EditableModel, settings: Sequence[Settings]):
        self.lm = lm
        self.rules: dict[tuple, list[TargetSettings]] = {}
        for one in settings:
            rules = self.rules.setdefault(_path(one), [])
            rule = target_settings(one)
            if rule not in rules:
                rules.append(rule)
        # Of the last facts alone: others are hardly asked for again.
        self._searches: dict[tuple, tuple[tuple[Fact, ...], RuleSearch]] = {}

    def of(self, session: EditSession) -> FindTargets:
        """What finds the targets of a session, whose model is still unedited."""
        path, rule = _path(session.settings), target_settings(session.settings)
        rules = self.rules[path]

        def find(facts: Sequence[Fact], on_progress: OnProgress | None) -> Sequence[Target]:
            tell = on_progress or (lambda progress: None)
            for_facts, search = self._searches.pop(path, ((), None))
            if search is None or for_facts != tuple(facts):
                search = RuleSearch(
                    self.lm, facts, session.prefixes, session.settings.layers[-1], rules,
                    F=session.metric(), fast=session.fast_targets,
                )  # fmt: skip
            found = search.found(
                rules.index(rule),
                lambda done, step, loss: tell(EditProgress("targets", done, len(facts), step, loss)),
            )
            self._searches[path] = tuple(facts), search  # not one that was interrupted
            return found

        return find


def share_search(one: Settings, other: Settings) -> bool:
    """Whether two methods share a search before any edit: the one goes on where the other stopped."""
    return not (one.from_gradients or other.from_gradients) and _path(one) == _path(other)


def _path(settings: Settings) -> tuple:
    """What decides where a search goes: the last edited layer, and all that is no stopping rule."""
    return settings.layers[-1], path_of(target_settings(settings))
