"""``unitrans doctor``: what this installation is and can do, for people and for bug reports."""

from __future__ import annotations

from collections.abc import Sequence

from unitrans.cli.parser import Parser


def main(arguments: Sequence[str]) -> int:
    """Prints the report. Exit code 1 when something is wrong that slows down or stops a run."""
    Parser(
        prog="unitrans doctor", description="Say what this installation can do.", allow_abbrev=False
    ).parse(list(arguments))
    import torch

    from unitrans.train.environment import describe_environment, torch_note

    found = describe_environment(torch.device("cpu"))
    print(f"unitrans {found['unitrans']}, Python {found['python']}, {found['platform']}")
    print("packages   " + ", ".join(f"{name} {version}" for name, version in found["packages"].items()))
    missing = [name for name, version in found["packages"].items() if version is None]
    print(f"processor  {found['processor']}, {found['cpus']} usable, {found['threads']} threads for torch")
    print(f"ISA        torch uses {found['torch_isa']}")
    for number, (name, state) in enumerate(found["backends"].items()):
        print(f"{'attention' if number == 0 else '':<10} {name}: {state}")
    gpus = ", ".join(found["gpus"])
    print(f"GPU        {gpus or _why_no_gpu()}")
    problems = [f"{name} is not installed: pip install {name}" for name in missing]
    problems += [note for note in [torch_note()] if note]
    if found["backend"] == "reference":
        problems.append(f"attention runs on the slow reference: {found['backends'].get('cpu')}")
    for problem in problems:
        print(f"problem    {problem}")
    if not problems:
        print("no problem found")
    return 1 if problems else 0


def _why_no_gpu() -> str:
    import torch

    if torch.version.cuda is None:
        return f"none: this torch ({torch.__version__}) is built without CUDA"
    return "none: torch is built for CUDA but finds no device or driver"
