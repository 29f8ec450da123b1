"""The command line: ``unitrans COMMAND``. Modules are imported when a command needs them."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence

from unitrans.cli.parser import UsageError, nearest
from unitrans.errors import ConfigError, InterruptedRunError, RunError, out_of_memory, system_error

COMMANDS = {
    "train": "learn by hiding part of the data and predicting it",
    "predict": "predict images or the rows of a table with a trained model",
    "eval": "judge a trained model on labelled data",
    "embed": "write the encoder's vector of every image, text or molecule",
    "export": "write a model for onnxruntime or torch.export",
    "convert": "read the weights of one code base, write them for another",
    "bench": "measure speed, memory and quality side by side with published implementations",
    "report": "write one HTML page about training runs",
    "doctor": "say what this installation can do (attach it to bug reports)",
}

_HELP = """usage: unitrans COMMAND [...]

One Transformer framework for images, language and graphs on one masked attention core.

commands:
{commands}

  unitrans train                       a first run, on data that is already here, in minutes
  unitrans train --data FOLDER         the same on your own images
  unitrans train --print-config        every setting, explained
  unitrans COMMAND --help              more about a command
  unitrans --debug COMMAND             where an error comes from, and not only its sentence
"""


def _help() -> str:
    return _HELP.format(commands="\n".join(f"  {name:<8} {text}" for name, text in COMMANDS.items()))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code: 0, 2 for what the user can mend, 1 for a run that failed,
    130 and 143 after Ctrl-C and SIGTERM. A bug shows its traceback, any other error with --debug."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help(), end="")
        return 0
    if arguments[0] == "--version":
        from unitrans import __version__

        print(f"unitrans {__version__}")
        return 0
    name = arguments[0]
    try:
        if name not in COMMANDS:
            expected = ", ".join(COMMANDS)
            raise UsageError(f"unknown command {name!r}: expected one of {expected}{nearest(name, COMMANDS)}")
        # An entry of oneDNN's cache per number of rows, 1,024 by default, is a tenth of a run on texts; 64 take no more
        # time. It is read when torch is loaded, and left alone in programs that load it themselves.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
        command = importlib.import_module(f"unitrans.cli.{name}")
        return int(command.main(arguments[1:]))
    except (UsageError, ConfigError) as error:
        return _fail(str(error), 2, debug)
    except InterruptedRunError as stopped:
        return 128 + int(signal.Signals(stopped.signum))
    except (RunError, MemoryError, RuntimeError) as error:
        sentence = str(error) if isinstance(error, RunError) else out_of_memory(error)
        if sentence is None:
            raise
        return _fail(sentence, 1, debug)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:  # the reader of our output has gone, as in "unitrans ... | head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        sentence = system_error(error)
        if sentence is None:
            raise
        return _fail(sentence, 1, debug)


def _fail(sentence: str, code: int, debug: bool = False) -> int:
    if debug:
        traceback.print_exc()
    print(f"unitrans: {sentence}", file=sys.stderr)
    return code
