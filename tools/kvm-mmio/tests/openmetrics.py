#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Read a file of OpenMetrics with Prometheus' client library; print its samples as JSON Lines."""

import json
import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families

with open(sys.argv[1]) as file:
    families = list(text_string_to_metric_families(file.read()))
for family in families:
    for sample in family.samples:
        print(json.dumps({"name": sample.name, "labels": sample.labels, "value": sample.value}))
