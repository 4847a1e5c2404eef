"""What the documents tell a reader to type exists and is spelt right."""

from __future__ import annotations

import configparser
import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from edgeage.cli import VERBS, cli

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def command_lines(text: str) -> list[str]:
    """Lines of the shell blocks of a Markdown text, continued lines joined, comments taken off."""
    lines = []
    for block in re.findall(r"^```(?:sh|bash|shell|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words:
                lines.append(shlex.join(words))
    return lines


def told(program: str) -> list[tuple[str, str]]:
    """(document, command line) of every line that starts with a program."""
    return [
        (document.relative_to(ROOT).as_posix(), line)
        for document in DOCUMENTS
        for line in command_lines(document.read_text(encoding="utf-8"))
        if shlex.split(line)[0] == program
    ]


def check(line: str) -> None:
    """Parse an `edgeage ...` line as the command line would, without running it."""
    words = shlex.split(line)[1:]
    if not words or words[0].startswith("-"):
        return
    verb = cli.get_command(click.Context(cli), words[0])
    assert verb is not None, f"no verb {words[0]!r}"
    # paths of an example need not exist here
    for parameter in verb.params:
        if isinstance(parameter.type, click.Path):
            parameter.type.exists = False
    with verb.make_context(words[0], words[1:]):
        pass


def test_the_readme_shows_the_two_commands():
    lines = [line for _, line in told("make")]
    assert "make demo" in lines
    assert "make test" in lines


def test_every_make_target_exists():
    for document, line in told("make"):
        own = (ROOT / document).parent / "Makefile"  # a sample's; else the project's
        makefile = own if own.is_file() else ROOT / "Makefile"
        targets = set(re.findall(r"^([a-z-]+):(?!=)", makefile.read_text(), re.MULTILINE))
        goals = [word for word in shlex.split(line)[1:] if not word.startswith("-") and "=" not in word]
        assert set(goals) <= targets, f"{document}: {line}"


def test_every_command_in_the_documents_is_valid():
    lines = told("edgeage")
    assert lines
    for document, line in lines:
        try:
            check(line)
        except click.UsageError as error:
            pytest.fail(f"{document}: {line}: {error.format_message()}")


def test_every_extra_in_the_documents_exists():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = set(config["options.extras_require"])
    for document in DOCUMENTS:
        for names in re.findall(r"(?:edgeage|\.)\[([a-z,-]+)\]", document.read_text(encoding="utf-8")):
            assert set(names.split(",")) <= extras, f"{document.name}: [{names}]"


def test_links_to_files_lead_somewhere():
    broken = []
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#\s]+)", document.read_text(encoding="utf-8")):
            if "://" not in target and not (document.parent / target).exists():
                broken.append(f"{document.name}: {target}")
    assert broken == []


@pytest.mark.parametrize("verb", [None, *VERBS])
def test_every_help_has_an_example_that_is_valid(verb: str | None):
    result = CliRunner().invoke(cli, [verb, "--help"] if verb else ["--help"], terminal_width=200)
    assert result.exit_code == 0, result.output
    examples = re.findall(r"edgeage [a-z].*", result.output.split("xample", 1)[-1])
    assert "xample" in result.output
    assert examples, f"--help of {verb} shows no example"
    for example in examples:
        try:
            check(example)
        except click.UsageError as error:
            pytest.fail(f"{example}: {error.format_message()}")


def test_a_summary_of_the_verb_stands_in_the_list_of_verbs():
    for verb, summary in VERBS.items():
        command = cli.get_command(click.Context(cli), verb)
        assert command is not None
        assert (command.help or "").split("\n")[0].strip(), f"{verb} has no help"
        assert summary.endswith(".")
