"""`hfssl pretrain`: accelerate's launcher on a recipe's name instead of its path."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from hfssl.errors import InputError
from hfssl.programs import recipe, recipes


def launch(arguments: Sequence[str]) -> int:
    """Runs `accelerate launch [flags] recipes/pretrain_NAME.py [arguments]` for `[flags] NAME [arguments]`.

    accelerate's own parser splits the flags, so whatever it accepts is accepted here.

    Returns:
        The exit code of the recipe.
    """
    from accelerate.commands.launch import launch_command, launch_command_parser

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
