"""`hfssl pretrain`: accelerate's launcher on a recipe's name instead of its path, and signals that reach the recipe."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from hfssl.errors import InputError
from hfssl.programs import recipe, recipes

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def launch(arguments: Sequence[str]) -> int:
    """Runs `accelerate launch [flags] recipes/pretrain_NAME.py [arguments]` for `[flags] NAME [arguments]`.

    accelerate's own parser splits the flags, so whatever it accepts is accepted here. A single process takes the place
    of this one, so that a signal to it is a signal to the recipe. Several get each signal once from here, and this one
    waits until they have saved and left.

    Returns:
        The exit code of the recipe.
    """
    from accelerate.commands.config import default_config_file
    from accelerate.commands.launch import (
        _validate_launch_command,
        launch_command,
        launch_command_parser,
        prepare_simple_launcher_cmd_env,
    )

    parser = launch_command_parser()

    def refuse(message: str):
        if "training_script" in message:
            message = f"which recipe? one of {', '.join(recipes())}, or a script"
        raise InputError(message)

    parser.error = refuse
    options = parser.parse_args(list(arguments))
    options.training_script = str(recipe(options.training_script))
    on_cpu = options.cpu or "--use_cpu" in options.training_script_args
    if on_cpu and (options.num_processes or 1) > 1 and not (options.multi_gpu or options.config_file):
        # accelerate takes these flags together and silently starts one process (seen in 1.15).
        raise InputError(
            "accelerate would start a single process; several CPU processes need `--multi_gpu --num_processes N` "
            "before the recipe and `--use_cpu` after it"
        )
    if not options.config_file and not os.path.isfile(default_config_file):
        _fill_in(options, on_cpu)
    if _is_single(options):
        options = _validate_launch_command(options)[0]
        command, environment = prepare_simple_launcher_cmd_env(options)
        sys.stdout.flush()
        os.execvpe(command[0], command, environment)
    options.signals_to_handle = "SIGHUP,SIGQUIT"  # torch's own way with the others kills after a while, and raises
    for number in SIGNALS:
        signal.signal(number, _send_on)
    try:
        launch_command(options)
    except subprocess.CalledProcessError as error:
        return error.returncode if error.returncode > 0 else 128 - error.returncode
    except Exception as error:
        failures = getattr(error, "failures", None)  # torch.distributed's ChildFailedError, one entry a process
        if not failures:
            raise
        code = next(iter(failures.values())).exitcode
        return code if code > 0 else 128 - code
    return 0


def _fill_in(options, on_cpu: bool) -> None:
    """The values that accelerate takes by itself, and says so in five lines, where no config file has any."""
    import torch

    if options.num_processes is None:
        options.num_processes = 1 if on_cpu else max(1, torch.cuda.device_count())
        options.multi_gpu |= options.num_processes > 1
    for name, value in (("num_machines", 1), ("mixed_precision", "no"), ("dynamo_backend", "no")):
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.num_cpu_threads_per_process is None and "OMP_NUM_THREADS" in os.environ:
        options.num_cpu_threads_per_process = int(os.environ["OMP_NUM_THREADS"])


def _is_single(options) -> bool:
    kinds = (
        "multi_gpu",
        "config_file",
        "use_deepspeed",
        "use_fsdp",
        "use_megatron_lm",
        "use_parallelism_config",
        "tpu",
    )
    return options.num_processes == 1 and not any(getattr(options, kind, None) for kind in kinds)


def _send_on(number: int, frame) -> None:
    """To the processes of the recipe. They are in sessions of their own, so a Ctrl-C at the terminal misses them."""
    import psutil

    for child in psutil.Process().children():
        child.send_signal(number)
