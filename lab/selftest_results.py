# SPDX-License-Identifier: GPL-2.0
"""Tests of lab/results.py, see lab/selftest."""

import contextlib
import io
import statistics
import unittest

import results


class Comparison(unittest.TestCase):
    """A run of one row against an earlier one."""

    def run_of(self, *values, unit="instructions", iterations=1000, cpus=1):
        sample = {"median": statistics.median(values), "min": min(values), "values": values}
        boot = {"machine": "svm", "paging": "npt=1", "kernel": "release", "module": "on", "cpus": cpus,
                "run": {"unit": unit, "iterations": iterations},
                "rows": {"row": {"off": None, "seed": None, "on": sample}}}
        return {"revision": "r", "created": "c", "boots": [boot]}

    def compare(self, now, then):
        """Whether none is worse, and what is printed."""
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            good = results.print_comparison(now, then)
        return good, out.getvalue()

    def is_kept(self, now, then, **of):
        return self.compare(self.run_of(*now, **of), self.run_of(*then, **of))[0]

    def test_exact(self):
        earlier = (1000, 1000, 1001)
        self.assertTrue(self.is_kept((1005, 1005, 1005), earlier))
        good, text = self.compare(self.run_of(1006, 1006, 1006), self.run_of(*earlier))
        self.assertFalse(good)
        self.assertIn("NOT OK: svm, npt=1: row, on: 1.0060 times the earlier figure, at most 1.005", text)
        good, text = self.compare(self.run_of(990, 990, 990), self.run_of(*earlier))
        self.assertTrue(good)
        self.assertIn("better: svm, npt=1: row, on: 0.9900", text)

    def test_smallest_values(self):
        """What else a kernel does meanwhile is not the row's."""
        self.assertTrue(self.is_kept((1004, 1009, 1009), (1000, 1000, 1000)))

    def test_spread(self):
        """A run that spreads more than half a percent says nothing of half a percent."""
        steady, spread = (1000, 1000, 1000), (1000, 1010, 1020)
        self.assertTrue(self.is_kept((1010, 1015, 1020), steady))
        self.assertTrue(self.is_kept((1012, 1012, 1012), spread))
        self.assertFalse(self.is_kept((1015, 1025, 1030), steady))
        self.assertTrue(self.is_kept((1004, 1004, 1004, 1004, 1020), (1000, 1000, 1000, 1000, 1020)))

    def test_clock_that_is_not_exact(self):
        steady, later = (1000, 1000, 1000), (1015, 1015, 1015)
        for of in ({"unit": "tsc"}, {"iterations": 100}, {"cpus": 4}):
            self.assertTrue(self.is_kept(later, steady, **of), of)
            self.assertFalse(self.is_kept((1021, 1021, 1021), steady, **of), of)

    def test_nothing_to_compare(self):
        self.assertIsNone(self.compare(self.run_of(1000), self.run_of(1000, unit="tsc"))[0])
        other = self.run_of(1000)
        other["boots"][0]["rows"] = {}
        self.assertIsNone(self.compare(self.run_of(1000), other)[0])


class Aims(unittest.TestCase):
    """A missed aim is seen, and does not fail a run before what is promised instead is missed, too."""

    def checks_of(self, doorbell):
        """Of doorbells, of which a port's is 1000 and C's 4000."""
        def row(name, on, off, **of):
            samples = {state: {"median": value, "min": value, "values": [value]}
                       for state, value in (("off", off), ("seed", off), ("on", on))}
            return {name: {"port": "port", "counts": None, **of, **samples}}

        boot = {"machine": "vmx", "cpus": 1,
                "run": {"unit": "instructions", "iterations": 1000, "tdp": True},
                "module": "on", "rows": {**row("port", 1000, 1000), **row("mmio_event_match4", doorbell, 4000)}}
        return {check.promised: check for check in results.checks(boot)}

    def test_missed_and_promised(self):
        found = self.checks_of(820)
        self.assertFalse(results.kept(found[False]))
        self.assertIn("0.8200, at most 0.65: MISSED", results.describe(found[False]))
        self.assertTrue(results.kept(found[True]))

    def test_kept(self):
        self.assertTrue(all(map(results.kept, self.checks_of(640).values())))

    def test_worse_than_promised(self):
        self.assertFalse(any(map(results.kept, self.checks_of(840).values())))
