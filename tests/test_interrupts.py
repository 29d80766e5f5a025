"""Ctrl-C, and a process that has nothing left to open a file with: nothing stays behind, and nothing dies."""

from __future__ import annotations

import sys

import pytest

from helpers import run_script


@pytest.mark.skipif(sys.version_info < (3, 11), reason="which places an exception can come from is not known there")
@pytest.mark.parametrize("what", ["loads", "drops", "puts", "calls"])
def test_an_interrupt_at_any_place_leaves_nothing_behind(what):
    run_script("programs/interrupts.py", what)


def test_with_hardly_a_descriptor_left():
    run_script("programs/few_descriptors.py")
