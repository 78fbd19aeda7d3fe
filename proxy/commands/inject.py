"""`tollhouse inject`: the webhook that puts the sidecar into pods, until a signal."""

import argparse
import os
import sys

from proxy.injector.server import run_injector
from proxy.settings import INJECT_SETTINGS, SettingsError, add_flags, read_inject_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_flags(parser, INJECT_SETTINGS)


def run(arguments: argparse.Namespace) -> int:
    flags = {setting.field: getattr(arguments, setting.field) for setting in INJECT_SETTINGS}
    try:
        settings = read_inject_settings(os.environ, flags)
    except SettingsError as error:
        print(*(f"tollhouse: {mistake}" for mistake in error.mistakes), sep="\n", file=sys.stderr)
        return 2
    return run_injector(settings)
