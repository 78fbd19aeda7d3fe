"""The shipped price table can be made anew, comes out the same each time, and not at all when two sources disagree."""

import json
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from policies.update_prices import TABLE, Unusable, main, read_wheel, table
from proxy.policy.prices import PriceTable, price_of

SAMPLE = """{
  "zeta-1": {"mode": "chat", "input_cost_per_token": 2e-06, "cache_read_input_token_cost": 5e-07, "output_cost_per_token": 8e-06,
             "input_cost_per_token_priority": 3.5e-06, "max_input_tokens": 128000, "litellm_provider": "openai"},
  "alpha": {"mode": "responses", "input_cost_per_token": 0.00015, "output_cost_per_token": 0.0006, "input_cost_per_audio_token": 3.2e-05,
            "cache_creation_input_token_cost": 0.0001875},
  "embed": {"mode": "embedding", "input_cost_per_token": 2e-08, "max_input_tokens": 8191},
  "free": {"mode": "moderation", "input_cost_per_token": 0.0, "output_cost_per_token": 0.0, "max_input_tokens": 32768},
  "ft:misnamed": {"mode": "chat", "input_cost_per_token": 4e-06, "cache_creation_input_token_cost": 2e-06, "output_cost_per_token": 1e-05},
  "odd name: x": {"mode": "completion", "input_cost_per_token": 4e-07, "output_cost_per_token": 4e-07},
  "per-image": {"mode": "image_generation", "input_cost_per_image": 0.009},
  "painter": {"mode": "image_generation", "input_cost_per_token": 5e-06, "input_cost_per_image_token": 1e-05,
              "output_cost_per_image_token": 4e-05},
  "high/1024-x-1536/painter": {"mode": "image_generation", "input_cost_per_image": 0.25},
  "high/1024-x-1024/painter": {"mode": "image_generation", "input_cost_per_image": 0.167},
  "low/1024-x-1024/painter": {"mode": "image_generation", "input_cost_per_image": 0.5},
  "ears": {"mode": "audio_transcription", "input_cost_per_second": 0.000283333333333},
  "mouth": {"mode": "audio_speech", "input_cost_per_character": 1.5e-05},
  "seeker-search-preview": {"mode": "chat", "input_cost_per_token": 1e-06, "output_cost_per_token": 1e-06, "max_output_tokens": 4096,
            "search_context_cost_per_query": {"search_context_size_low": 0.025, "search_context_size_high": 0.05}},
  "reader": {"mode": "chat", "input_cost_per_token": 2e-06, "output_cost_per_token": 8e-06, "input_cost_per_token_flex": 1e-06,
            "output_cost_per_token_flex": 4e-06, "input_cost_per_token_priority": 3e-06, "output_cost_per_token_priority": 2e-05,
            "input_cost_per_token_above_272k_tokens": 4e-06, "output_cost_per_token_above_272k_tokens": 1.2e-05,
            "input_cost_per_token_above_272k_tokens_flex": 2e-06, "output_cost_per_token_above_272k_tokens_flex": 6e-06},
  "per-session": {"mode": "chat"},
  "per-hour": {"mode": "chat", "input_cost_per_token": null, "output_cost_per_token": 1e-06},
  "elsewhere": {"mode": "chat", "input_cost_per_token": 1e-06, "output_cost_per_token": 1e-06, "litellm_provider": "azure"}
}"""

WRITTEN = """\
as_of: 2026-11-22
source: "a sample"
models:
  alpha: {input: "150.00", cache_write: "187.50", output: "600.00", audio_input: "32.00"}
  ears: {input: "0.00", output: "0.00", second: "0.000283334"}
  embed: {input: "0.02", output: "0.00"}
  free: {input: "0.00", output: "0.00"}
  ft:misnamed: {input: "4.00", output: "10.00"}
  mouth: {input: "0.00", output: "0.00", character: "0.000015"}
  "odd name: x": {input: "0.40", output: "0.40"}
  painter: {input: "5.00", output: "40.00", image_input: "10.00", image_output: "40.00", most_output: 6250}
  reader: {input: "2.00", output: "8.00", long: {above: 272000, input: "4.00", output: "12.00"}, tiers: {flex: {input: "1.00", \
output: "4.00", long: {above: 272000, input: "2.00", output: "6.00"}}, priority: {input: "3.00", output: "20.00", long: {above: \
272000, input: "4.00", output: "20.00"}}}}
  seeker-search-preview: {input: "1.00", output: "1.00", call: "0.05", most_output: 4096}
  zeta-1: {input: "2.00", cached_input: "0.50", output: "8.00", context: 128000}
"""


def parsed(text: str) -> Mapping[str, Any]:
    return json.loads(text, parse_float=Decimal)


def written(models: Mapping[str, Any], **kwargs: Any) -> str:
    return table(models, **{"as_of": "2026-11-22", "source": "a sample", "opinion": None} | kwargs)


def test_a_model_is_a_line_and_the_lines_are_sorted() -> None:
    text = written(parsed(SAMPLE))
    assert text[text.index("as_of") :] == WRITTEN
    assert text == written(dict(reversed(parsed(SAMPLE).items())))


def test_what_is_written_can_be_read_back() -> None:
    prices = PriceTable.parse(written(parsed(SAMPLE)).encode())
    assert prices.find("zeta-1") == price_of({"input": "2", "cached_input": "0.5", "output": "8"})
    assert prices.find("odd name: x") == price_of({"input": "0.4", "output": "0.4"})
    assert prices.contexts == {"zeta-1": 128_000}


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ('{"mode": "chat", "input_cost_per_token": 1e-06}', "no price for output"),
        ('{"mode": "chat", "input_cost_per_token": -1e-06, "output_cost_per_token": 1e-06}', "input is -1"),
        ('{"mode": "chat", "input_cost_per_token": 1e-17, "output_cost_per_token": 1e-06}', "input is"),
        (
            '{"mode": "chat", "input_cost_per_token": 1e-06, "output_cost_per_token": 1e-06, "cache_read_input_token_cost": 2e-06}',
            "cached input costs more",
        ),
        ('{"mode": "audio_speech"}', "no model"),
        ('{"mode": "video_generation", "output_cost_per_second": 0.1}', "no model"),
    ],
)
def test_a_source_that_cannot_be_right_writes_nothing(entry: str, reason: str) -> None:
    with pytest.raises(Unusable, match=reason):
        written(parsed(f'{{"m": {entry}}}'))


def test_two_sources_that_disagree_write_nothing_and_each_difference_is_named() -> None:
    def elsewhere(model: str) -> dict[str, Decimal] | None:
        return {"input": Decimal(2), "output": Decimal(9), "cached_input": Decimal("0.6")} if model == "zeta-1" else None

    with pytest.raises(Unusable) as refused:
        written(parsed(SAMPLE), opinion=elsewhere)
    assert [line.split(" is ")[0] for line in str(refused.value).splitlines()[1:]] == ["zeta-1: cached_input", "zeta-1: output"]


def test_a_second_source_that_agrees_or_has_no_opinion_changes_nothing() -> None:
    agreed = written(parsed(SAMPLE), opinion=lambda model: {"input": Decimal(2)} if model == "zeta-1" else None)
    assert agreed == written(parsed(SAMPLE))


def test_the_script_reads_a_file_and_takes_its_date(tmp_path: Path) -> None:
    source, target = tmp_path / "models.json", tmp_path / "prices.yaml"
    source.write_text(
        '{"_read": "2026-11-22", "models": {"made-up-1": {"mode": "chat", "input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06}}}'
    )
    assert main(["--from", str(source), "--to", str(target)]) == 0
    assert PriceTable.parse(target.read_bytes()).version.startswith("2026-11-22-")


def test_the_script_leaves_the_old_table_when_the_new_one_is_unusable(tmp_path: Path) -> None:
    source, target = tmp_path / "models.json", tmp_path / "prices.yaml"
    source.write_text('{"_read": "2026-11-22", "models": {}}')
    target.write_text("the old one")
    assert main(["--from", str(source), "--to", str(target)]) == 1
    assert target.read_text() == "the old one"


def test_a_table_without_a_date_is_not_written(tmp_path: Path) -> None:
    source = tmp_path / "models.json"
    source.write_text(SAMPLE)
    with pytest.raises(SystemExit):
        main(["--from", str(source), "--to", str(tmp_path / "prices.yaml")])
    assert not (tmp_path / "prices.yaml").exists()


def test_the_table_is_read_out_of_a_wheel_without_installing_it(tmp_path: Path) -> None:
    wheel = tmp_path / "litellm-1.2.3-py3-none-any.whl"
    with ZipFile(wheel, "w") as archive:
        archive.writestr(TABLE, SAMPLE)
        archive.writestr("litellm/__init__.py", "raise SystemExit('imported')")
    assert read_wheel(wheel) == (SAMPLE, "1.2.3")
