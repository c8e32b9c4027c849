"""The README says what the code does: variables, exit codes, verdicts, images, commands; and it stays short."""

from __future__ import annotations

import os
import re
import shlex
from typing import Any

import pytest
import yaml
from attn_matrix import ROOT, cli
from attn_matrix.commands import run
from attn_matrix.host import engine
from attn_matrix.matrix.load import FILE, read
from attn_matrix.matrix.select import pick_one
from attn_matrix.rendered.kubernetes import NEVER_AGAIN, RETRIES, policy

from entrypoint import settings
from entrypoint.arguments import USAGE
from entrypoint.judge.finding import VERDICTS, Code
from entrypoint.spec import ImageSpec, from_json

README = (ROOT / "README.md").read_text(encoding="utf-8")
MATRIX = read(ROOT / FILE)
# The pages whose commands are those of this version.
PAGES = ("README.md", "docker/BUILDING.md", ".github/CONTRIBUTING.md")


def table(head: str) -> list[list[str]]:
    """The rows of the README's table whose first column is named `head`, each a list of cells."""
    rows = README.partition(f"\n| {head} |")[2].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def variables() -> set[str]:
    """The variables that the entrypoint parses."""
    return set(settings._parsers(spec()))


def spec() -> ImageSpec:
    return from_json((ROOT / "docker/specs/fa4-cu128-base.json").read_text(encoding="utf-8"))


# ---- size ----


def test_it_can_be_read_in_minutes() -> None:
    """10 KB. What is longer has a page of its own."""
    assert len(README.encode()) <= 10_240


# ---- variables ----


def test_the_same_variables_in_the_usage_the_readme_and_the_parsers() -> None:
    in_usage = set(re.findall(r"^  (ATTN_\w+) ", USAGE, re.MULTILINE))
    in_readme = {quoted(row[0])[0] for row in table("variable")}
    assert in_usage == in_readme == variables()


def usage_of(name: str) -> str:
    """The line of USAGE about the variable `name`."""
    return next(line for line in USAGE.splitlines() if line.startswith(f"  {name} "))


@pytest.mark.parametrize("row", table("variable"), ids=lambda row: str(row[0]))
def test_a_variables_values_and_default_are_those_of_its_parser(row: list[str]) -> None:
    """What the README and USAGE call the default is the default, and every value that they name can be given."""
    name, values = quoted(row[0])[0], quoted(row[1])
    parse = settings._parsers(spec())[name]
    default = getattr(settings.Settings(backend="fa4"), name.removeprefix("ATTN_").lower())
    marked = re.search(r"`([^`]+)` \(default\)|; `?([\w./-]+)`?$", row[1])
    if marked:
        said = marked[1] or marked[2]
        assert parse(said) == default
        assert said in usage_of(name)
    for value in values:
        parse(value)


@pytest.mark.parametrize("name", ["ATTN_CHECK", "ATTN_SLOW", "ATTN_ALLOW"])
def test_the_readme_and_the_usage_name_every_value_of_a_choice(name: str) -> None:
    """The parser names all of its choices when it gets another."""
    with pytest.raises(ValueError, match=r".") as caught:
        settings._parsers(spec())[name]("neither")
    choices = re.match(r"expected one of ([\w, -]+)\.", str(caught.value))
    known = set(choices[1].split(", ")) if choices else set(settings.ALLOWABLE)
    row = next(row for row in table("variable") if quoted(row[0]) == [name])
    assert set(quoted(row[1])) == known
    assert all(value in usage_of(name) for value in known)


# ---- verdicts and exit codes ----


def test_the_same_exit_codes_in_the_usage_the_readme_and_the_code() -> None:
    in_readme = {row[1]: int(row[0]) for row in table("code")}
    assert in_readme == {code.name: code.value for code in Code}
    in_usage = {name: int(number) for number, name in re.findall(r"\b(9\d) ([A-Z_]+)\b", USAGE)}
    assert in_usage == {name: number for name, number in in_readme.items() if number}


def test_the_same_verdicts_in_the_readme_and_the_code() -> None:
    assert [quoted(row[0])[0] for row in table("verdict")] == [*VERDICTS]


def test_the_job_acts_on_a_code_as_the_table_of_codes_says() -> None:
    """It fails for good where no node can help, and any other counts; the policy is that of docker/kubernetes."""
    spec = kubernetes()["spec"]
    advice = {int(row[0]): row[3] for row in table("code")}
    assert {c.value for c in NEVER_AGAIN} == {code for code, text in advice.items() if text.startswith("fail the job")}
    assert (spec["podFailurePolicy"], spec["backoffLimit"]) == (policy("train"), RETRIES)


def kubernetes() -> dict[str, Any]:
    (block,) = re.findall(r"^```yaml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    loaded: dict[str, Any] = yaml.safe_load(block)
    return loaded


def test_the_pod_mounts_what_it_names() -> None:
    """Each volume is declared, each ATTN_ variable known, and the image is one of ours."""
    pod = kubernetes()["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert {each["name"] for each in container["env"]} <= variables()
    pick_one(MATRIX, container["image"].rpartition(":")[2])


# ---- images ----


@pytest.mark.parametrize("row", table("GPU"), ids=lambda row: str(row[0]))
def test_an_image_in_the_table_runs_on_the_gpus_of_its_row(row: list[str]) -> None:
    """The row begins with GPUs that images.yaml gives as examples of an architecture, or with `none`."""
    gpus = re.split(r"[,;] ", row[0])
    serves = [
        {name for name, each in MATRIX.architectures.items() if any(example.startswith(gpu) for example in each.gpus)}
        for gpu in gpus
    ]
    for name in (name for cell in row[1:] for name in quoted(cell)):
        image = pick_one(MATRIX, name)
        assert gpus == ["none"] or all(known and known <= set(MATRIX.image_architectures(image)) for known in serves), (
            name
        )


def test_every_image_that_a_page_names_exists() -> None:
    """In commands, tables and prose alike; a glob names what it matches."""
    ids = "|".join([*MATRIX.backends, "all"])
    platforms = "|".join(MATRIX.platforms)
    named = re.findall(rf"(?<![\w-])(?:{ids})-(?:{platforms})(?:-\w+)*(?![\w*])", README)
    assert len(set(named)) > 5
    assert set(named) <= {image.id for image in MATRIX.images}


def test_the_drivers_of_the_readme_are_those_of_the_matrix() -> None:
    named = re.findall(r"`(\w+)` (?:needs\s+a\s+driver\s+of|one\s+of)\s+(\d+)", README)
    assert len(named) == 2
    for platform, driver in named:
        limits = MATRIX.platforms[platform].driver
        assert limits is not None
        assert limits.minimum.split(".")[0] == driver


def test_the_recipes_are_for_the_axolotl_that_the_images_hold() -> None:
    """Another version reads other keys, so the table is looked through again when one is pinned."""
    named = re.findall(r"([\d.]+)\s+\(((?:`\w+`(?:, )?)+)\)", README)
    told = {platform: version for version, platforms in named for platform in quoted(platforms)}
    assert told == {name: each.pins["axolotl"] for name, each in MATRIX.platforms.items() if not each.unlocked}


def test_the_recipes_are_those_of_the_matrix() -> None:
    """The value of attn_implementation, and whether it trains padded and packed; none where nothing trains."""
    told = {name: row[1:4] for row in table("backend") for name in row[0].split(", ")}
    for name, backend in MATRIX.backends.items():
        recipe, words = backend.recipe, {True: "trains", False: "no"}
        value = f"`{recipe.attn_implementation}`" if recipe else "none that trains"
        trains = [words[bool(recipe and packing in recipe.packings)] for packing in (False, True)]
        assert [*told.pop(name)] == [value, *trains], name
    assert not told


# ---- commands ----


def commands(page: str) -> list[str]:
    """Every line of the page's `bash` blocks, comments off."""
    blocks = re.findall(r"^```bash\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for raw in block.splitlines() if (line := raw.partition(" #")[0].strip())]


def sessions() -> list[tuple[str, list[str]]]:
    """Every call of a nox session on the pages, as the session and its arguments."""
    calls = [shlex.split(line.rpartition("&& ")[2]) for page in PAGES for line in commands(page) if "nox -s" in line]
    return [(words[2], words[words.index("--") + 1 :] if "--" in words else []) for words in calls]


@pytest.mark.parametrize(("session", "arguments"), sessions())
def test_a_command_of_a_page_is_one_that_the_parser_takes(session: str, arguments: list[str]) -> None:
    """With images that there are: what cannot be run here (a build of hours, a GPU) is at least spelt right."""
    if session in cli.COMMANDS:
        given = [session, *arguments]
        parsed = cli._parser(given).parse_args(given)
        for pattern in [*getattr(parsed, "ids", []), *filter(None, [getattr(parsed, "id", "")])]:
            assert any(re.fullmatch(pattern.replace("*", ".*"), image.id) for image in MATRIX.images), pattern
    else:
        assert session in {"tests", "lint"}
        assert [name for name in arguments if "/" in name and not (ROOT / name).exists()] == []


def test_the_docker_run_is_the_one_that_nox_echoes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the command of nox beside it, on a machine with a GPU."""
    (shown,) = [line for line in commands("README.md") if line.startswith("docker run")]
    session = next(arguments for name, arguments in sessions() if name == "run" and "fa4-cu128" in arguments)
    seen: list[engine.Request] = []
    monkeypatch.setattr(engine, "run", seen.append)
    monkeypatch.setattr(engine, "is_rootless", lambda: False)
    monkeypatch.setattr(run, "attn_variables", dict)
    monkeypatch.setattr(os, "getuid", lambda: 1234)
    monkeypatch.chdir(ROOT)
    cli.main(["run", "--gpus", "all", *session])
    echoed = shlex.join(seen[0].as_docker_run())
    assert shlex.join(shlex.split(shown.replace("$(id -u)", "1234").replace("$PWD", str(ROOT)))) == echoed
