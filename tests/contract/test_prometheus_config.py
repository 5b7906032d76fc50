"""The shipped Prometheus configuration is valid and scrapes the programs where they listen."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml

CONFIG = Path(__file__).parents[2] / "prometheus" / "prometheus.yml"


def test_promtool_accepts_the_configuration(promtool_binary):
    checked = subprocess.run(
        [promtool_binary, "check", "config", str(CONFIG)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_both_programs_are_scraped_every_second_on_their_default_ports():
    config = yaml.safe_load(CONFIG.read_text())
    targets = {
        job["job_name"]: [t for group in job["static_configs"] for t in group["targets"]]
        for job in config["scrape_configs"]
    }
    assert targets == {"loadgen": ["127.0.0.1:9210"], "sidecar": ["127.0.0.1:9211"]}
    assert config["global"]["scrape_interval"] == "1s"
