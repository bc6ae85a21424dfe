"""``relaygate completion``: what a shell needs in order to complete the command's words.

The script is made out of the parser, so it knows what the command knows.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Iterator

__all__ = ["add_parser", "words"]

_EXAMPLES = """\
examples:
  relaygate completion bash >/etc/bash_completion.d/relaygate
  relaygate completion zsh  >/usr/local/share/zsh/site-functions/_relaygate
  relaygate completion fish >/etc/fish/completions/relaygate.fish

Exit status: 0 done; 2 wrong usage.
"""

# bash: the deepest path of subcommands that stands on the line decides.
_BASH = """\
# bash completion for relaygate, made by: relaygate completion bash
_relaygate() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" path="" word
    for word in "${{COMP_WORDS[@]:1:$((COMP_CWORD - 1))}}"; do
        case "$path $word" in
{paths}
        esac
    done
    local known=""
    case "$path" in
{known}
    esac
    COMPREPLY=($(compgen -W "$known" -- "$current"))
    if [ "${{#COMPREPLY[@]}}" -eq 0 ]; then
        compopt -o filenames 2>/dev/null
        COMPREPLY=($(compgen -f -- "$current"))
    fi
}}
complete -F _relaygate relaygate
"""


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
    make_parser: Callable[[], argparse.ArgumentParser],
) -> None:
    """Describe the command to the ``relaygate`` parser, which *make_parser* makes anew."""
    parser = subparsers.add_parser(
        "completion",
        help="print a script that completes this command in a shell",
        description="Print a script that lets a shell complete this command's words.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))

    def run(arguments: argparse.Namespace) -> int:
        print(_SCRIPTS[arguments.shell](words(make_parser())), end="")
        return 0

    parser.set_defaults(func=run)


def words(parser: argparse.ArgumentParser, path: str = "") -> dict[str, dict[str, str]]:
    """By path of subcommands (" pki issue"): the words that may follow, with their help."""
    found: dict[str, dict[str, str]] = {path: {}}
    for action in parser._actions:
        text = "" if action.help in (None, argparse.SUPPRESS) else str(action.help)
        if isinstance(action, argparse._SubParsersAction):
            helps = {each.dest: each.help or "" for each in action._choices_actions}
            for name, below in action.choices.items():
                found[path][name] = helps.get(name, "")
                found |= words(below, f"{path} {name}")
        elif action.option_strings:
            found[path][action.option_strings[-1]] = text.partition(" (")[0]
        elif action.choices:
            found[path] |= dict.fromkeys(map(str, action.choices), "")
    return found


def _bash(known: dict[str, dict[str, str]]) -> str:
    paths = "\n".join(
        f"            {shlex.quote(path)}) path={shlex.quote(path)} ;;" for path in known if path
    )
    lists = "\n".join(
        f"        {shlex.quote(path)}) known={shlex.quote(' '.join(following))} ;;"
        for path, following in known.items()
    )
    return _BASH.format(paths=paths, known=lists)


def _zsh(known: dict[str, dict[str, str]]) -> str:
    # zsh runs bash's completions.
    return f"#compdef relaygate\nautoload -U +X bashcompinit && bashcompinit\n{_bash(known)}"


def _fish(known: dict[str, dict[str, str]]) -> str:
    return "# fish completion for relaygate, made by: relaygate completion fish\n" + "".join(
        f"complete -c relaygate -n {shlex.quote(condition)} {what}"
        + (f" -d {shlex.quote(text)}" if text else "")
        + "\n"
        for path, following in known.items()
        for condition in [_fish_condition(path, known)]
        for what, text in _fish_words(following)
    )


def _fish_condition(path: str, known: dict[str, dict[str, str]]) -> str:
    parts = [f"__fish_seen_subcommand_from {name}" for name in path.split()]
    below = [name for name in known[path] if not name.startswith("-") and f"{path} {name}" in known]
    if below:
        parts.append(f"not __fish_seen_subcommand_from {' '.join(below)}")
    return "; and ".join(parts) or "true"


def _fish_words(following: dict[str, str]) -> Iterator[tuple[str, str]]:
    for word, text in following.items():
        yield (f"-l {word[2:]}" if word.startswith("--") else f"-a {shlex.quote(word)}"), text


_SCRIPTS = {"bash": _bash, "zsh": _zsh, "fish": _fish}
