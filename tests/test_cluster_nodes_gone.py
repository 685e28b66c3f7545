"""Nodes that die between the moment Ray lists them and the moment they are asked."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from encore_core.cluster.nodes import about_this_node, ask_nodes
from encore_core.errors import InputError

ray = pytest.importorskip("ray")


class Cluster:
    """What `ask_nodes` uses of Ray, with nodes of which some are gone."""

    exceptions = ray.exceptions

    def __init__(self, names, gone):
        self.names, self.gone = names, gone
        bound = SimpleNamespace(NodeAffinitySchedulingStrategy=lambda name, soft: name)
        self.util = SimpleNamespace(scheduling_strategies=bound)

    def nodes(self):
        return [{"Alive": True, "NodeID": one, "NodeManagerHostname": one, "Resources": {}} for one in self.names]

    def remote(self, **_):
        return lambda task: SimpleNamespace(
            options=lambda scheduling_strategy: SimpleNamespace(remote=lambda paths: (scheduling_strategy, task, paths))
        )

    def get(self, asked, timeout):
        name, task, paths = asked
        if name in self.gone:
            raise self.exceptions.TaskUnschedulableError("The node specified doesn't exist any more")
        return task(paths)


def test_a_node_that_is_gone_is_left_out_and_the_others_are_used():
    assert [one.node for one in ask_nodes(Cluster("abc", "b"), ())] == ["a", "c"]


def test_that_all_are_gone_is_one_line():
    with pytest.raises(InputError, match="All nodes of the cluster are gone"):
        ask_nodes(Cluster("ab", "ab"), ())


def test_the_question_is_the_real_one():
    assert ask_nodes(Cluster("a", ""), ())[0].versions == about_this_node([])["versions"]
