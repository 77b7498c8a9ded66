from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fairmedfm_monai.data.prepare import find_dataset, prepare_dataset
from fairmedfm_monai.studies import cells as cells_module
from fairmedfm_monai.studies.cells import in_order, study_cells
from fairmedfm_monai.studies.jobs import Job, job_folder
from fairmedfm_monai.studies.plan import PlannedCell, make_plan
from fairmedfm_monai.studies.plan_text import duration, plan_lines
from fairmedfm_monai.studies.sources import find_source
from fairmedfm_monai.studies.spec import Study
from fairmedfm_monai.studies.spec_reading import read_study
from tests.miniatures import montgomery
from tests.studies.small import small_study

PROBE = "made/demo_clip/linear_probe/erm/seed0"


def study(**changes: Any) -> Study:
    return read_study({**small_study(), **changes}, origin="small")


def plan_of(output: Path, content: Study | None = None, **options: Any) -> dict[str, PlannedCell]:
    return {planned.cell.key: planned for planned in make_plan(content or study(), output=output, **options)}


def counted(plan: dict[str, PlannedCell]) -> dict[str, int]:
    statuses = [planned.status for planned in plan.values()]
    return {status: statuses.count(status) for status in statuses}


def finish(output: Path, planned: PlannedCell) -> None:
    job = Job(job_folder(output, planned.cell.key), planned.settings_hash)
    job.start(planned.cell.to_json(), {})
    job.finish({})


def fail(output: Path, planned: PlannedCell) -> None:
    job = Job(job_folder(output, planned.cell.key), planned.settings_hash)
    job.start(planned.cell.to_json(), {})
    job.fail("train", "ValueError: no")


class TestCells:
    def test_grids_are_multiplied_out(self) -> None:
        keys = [cell.key for cell in study_cells(study())]
        # 2 datasets x 2 FMs: 3 methods x 2 seeds of the probe; zero-shot once, but per seed where the data are.
        assert len(keys) == len(set(keys)) == 2 * (2 * 3 * 2) + 2 * (1 + 2) + 2
        assert "made/demo_clip/zero_shot/erm/seed1" not in keys
        assert "seeded/demo_clip/zero_shot/erm/seed1" in keys

    def test_methods_after_training_build_on_erm_of_their_seed(self) -> None:
        by_key = {cell.key: cell for cell in study_cells(study())}
        after = by_key["seeded/demo_clip/linear_probe/threshold_per_group-sex.age/seed1"]
        assert after.base == "seeded/demo_clip/linear_probe/erm/seed1"
        assert after.train == {}
        assert by_key["seeded/demo_clip/linear_probe/group_dro-sex/seed1"].base is None

    def test_base_of_the_same_label_comes_first(self) -> None:
        content = small_study()
        grid = {**content["grids"][0], "datasets": ["made"], "usages": ["linear_probe"], "seeds": [0]}
        labelled = {**grid, "label": "short", "train": {"epochs": 1}}
        by_key = {cell.key: cell for cell in study_cells(study(grids=[grid, labelled]))}
        key = "made/demo_clip/linear_probe-short/threshold_per_group-sex.age/seed0"
        assert by_key[key].base == "made/demo_clip/linear_probe-short/erm/seed0"
        only_after = {**labelled, "mitigations": [{"name": "threshold_per_group", "attributes": ["sex", "age"]}]}
        by_key = {cell.key: cell for cell in study_cells(study(grids=[grid, only_after]))}
        assert by_key[key].base == PROBE

    def test_bases_come_before_what_builds_on_them(self) -> None:
        content = small_study()
        content["grids"][0]["mitigations"].reverse()
        keys = [cell.key for cell in study_cells(study(grids=content["grids"]))]
        assert keys.index(PROBE) < keys.index("made/demo_clip/linear_probe/threshold_per_group-sex.age/seed0")

    def test_a_circle_is_refused(self) -> None:
        first, second, *_ = study_cells(study())
        circle = [
            cells_module.replace(first, base=second.key),
            cells_module.replace(second, base=first.key),
        ]
        with pytest.raises(ValueError, match="in a circle"):
            in_order(circle)

    def test_seeds_and_overrides_of_a_call(self) -> None:
        cells = study_cells(study(), seeds=[7], overrides={"train": {"epochs": 1}, "evaluate": {"batch_size": 4}})
        assert {cell.seed for cell in cells} == {7}
        by_usage = {(cell.usage, cell.mitigation): cell for cell in cells}
        assert by_usage["linear_probe", "erm"].train == {"epochs": 1}
        assert by_usage["zero_shot", "erm"].train == {}
        assert by_usage["zero_shot", "erm"].evaluate == {"batch_size": 4}

    @pytest.mark.parametrize(
        ("overrides", "told"),
        [
            ({"train": {"epoch": 1}}, "no train.json of this study has the key 'epoch'"),
            ({"epochs": 1}, "`overrides` must be"),
            ({"train": 1}, "`overrides` must be"),
        ],
    )
    def test_overrides_that_would_do_nothing_are_refused(self, overrides: dict[str, Any], told: str) -> None:
        with pytest.raises(ValueError, match=told):
            study_cells(study(), overrides=overrides)

    def test_overrides_may_not_touch_what_the_study_sets(self) -> None:
        with pytest.raises(ValueError, match=r"'seed', which the study itself sets"):
            study_cells(study(), overrides={"train": {"seed": 1}})


class TestStatuses:
    def test_nothing_at_hand(self, tmp_path: Path) -> None:
        plan = plan_of(tmp_path / "out")
        assert counted(plan) == {"ready": 15, "no weights": 15, "no data": 1, "not offered": 1}
        assert not (tmp_path / "out").exists()
        missing = plan["made/clip-ViT-B-16-quickgelu/linear_probe/erm/seed0"]
        assert "weights fetch --fm clip --variant ViT-B-16-quickgelu" in missing.reason
        after = plan["made/clip-ViT-B-16-quickgelu/linear_probe/threshold_per_group-sex.age/seed0"]
        assert after.reason.startswith(f"base not ready: {missing.cell.key}")
        assert "sees volumes" in plan["lungs/sam_med3d/prompted/erm/seed0"].reason

    def test_tiny_weights_are_always_at_hand(self, tmp_path: Path) -> None:
        assert counted(plan_of(tmp_path, weights="tiny")) == {"ready": 30, "no data": 1, "not offered": 1}

    def test_prepared_data(self, tmp_path: Path) -> None:
        release, raw = find_dataset("montgomery"), montgomery.make(tmp_path / "raw")
        prepare_dataset(release, raw, tmp_path / "data" / "lungs", choice=release.choose(), workers=1, progress=False)
        planned = plan_of(tmp_path / "out", data=tmp_path / "data")["lungs/demo_sam/prompted/erm/seed0"]
        assert (planned.status, planned.dataset_dir) == ("ready", tmp_path / "data" / "lungs")

    def test_done_failed_and_interrupted(self, tmp_path: Path) -> None:
        before = plan_of(tmp_path)
        finish(tmp_path, before[PROBE])
        other = "made/demo_clip/linear_probe/erm/seed1"
        fail(tmp_path, before[other])
        third = before["made/demo_clip/zero_shot/erm/seed0"]
        Job(job_folder(tmp_path, third.cell.key), third.settings_hash).start(third.cell.to_json(), {})
        plan = plan_of(tmp_path)
        assert (plan[PROBE].status, plan[PROBE].seconds) == ("done", 0)
        assert plan[other].status == "failed"
        assert "train failed" in plan[other].reason
        assert plan[third.cell.key].status == "ready"
        assert "interrupted" in plan[third.cell.key].reason
        # What builds on a failed cell can run after it.
        assert plan["made/demo_clip/linear_probe/threshold_per_group-sex.age/seed1"].status == "ready"

    def test_only_leaves_out_but_done_stays_done(self, tmp_path: Path) -> None:
        finish(tmp_path, plan_of(tmp_path)[PROBE])
        plan = plan_of(tmp_path, only=["made/demo_clip/*/threshold*", "*/zero_shot/*"])
        assert plan[PROBE].status == "done"
        assert plan["made/demo_clip/linear_probe/threshold_per_group-sex.age/seed0"].status == "ready"
        assert plan["made/demo_clip/zero_shot/erm/seed0"].status == "ready"
        assert plan["made/demo_clip/linear_probe/group_dro-sex/seed0"].status == "left out"
        waiting = plan["made/demo_clip/linear_probe/threshold_per_group-sex.age/seed1"]
        assert waiting.status == "left out"
        assert waiting.reason.startswith("base not ready: made/demo_clip/linear_probe/erm/seed1")

    def test_a_pattern_that_fits_nothing_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no cell answers to 'nih/\\*'; keys look like made/"):
            make_plan(study(), output=tmp_path, only=["nih/*"])

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"fms": ["sam"]}, "sam is a model for segmentation"),
            ({"fms": ["dinov2"], "usages": ["zero_shot"]}, "dinov2 has no usage zero_shot"),
            ({"fms": ["ct_fm"]}, "ct_fm sees volumes"),
            ({"mitigations": [{"name": "febs", "attributes": ["sex"]}]}, "febs is for segmentation"),
        ],
    )
    def test_what_the_catalog_does_not_offer_is_a_status(
        self, tmp_path: Path, changes: dict[str, Any], told: str
    ) -> None:
        grid = {**small_study()["grids"][0], "mitigations": ["erm"], "usages": ["linear_probe"], "seeds": [0]}
        content = study(grids=[{**grid, "train": {}, **changes}], published=[])
        plan = make_plan(content, output=tmp_path, weights="tiny")
        assert {planned.status for planned in plan} == {"not offered"}
        assert told in plan[0].reason
        assert all(planned.seconds == 0 for planned in plan)

    def test_methods_for_two_classes_are_not_offered_for_six(self, tmp_path: Path) -> None:
        grid = {**small_study()["grids"][0], "datasets": ["six"], "fms": ["demo_clip"], "usages": ["linear_probe"]}
        six = {"release": "nih_chestxray14", "options": {"rule": "six_diseases"}}
        plan = make_plan(study(datasets={"six": six}, grids=[grid], published=[]), output=tmp_path)
        by_method = {planned.cell.mitigation: planned.status for planned in plan}
        assert by_method == {"erm": "no data", "group_dro": "no data", "threshold_per_group": "not offered"}


class TestHash:
    def test_it_covers_what_decides_the_numbers(self, tmp_path: Path) -> None:
        found = plan_of(tmp_path)[PROBE].settings_hash
        own = tmp_path / "own.pt"
        own.write_bytes(b"1")
        options: Sequence[dict[str, Any]] = (
            {"weights": "tiny"},
            {"weights": str(own)},
            {"n_bootstrap": 10},
            {"overrides": {"train": {"epochs": 1}}},
            {"overrides": {"evaluate": {"batch_size": 4}}},
        )
        others = [plan_of(tmp_path, **each)[PROBE].settings_hash for each in options]
        assert len({found, *others}) == 1 + len(options)

    def test_it_does_not_know_where_things_are(self, tmp_path: Path) -> None:
        first, second = (plan_of(tmp_path / name, only=["made/*"]) for name in ("a", "b"))
        assert first[PROBE].settings_hash == second[PROBE].settings_hash

    def test_it_follows_the_content_of_the_data(self, tmp_path: Path, xray_dir: Path) -> None:
        content = study()
        source = find_source("made", content.datasets["made"], data=None, output=tmp_path, seed=0)
        folder = Path(shutil.copytree(xray_dir, source.folder))
        before = plan_of(tmp_path)[PROBE]
        assert before.dataset_dir == folder
        card = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        (folder / "dataset.json").write_text(json.dumps({**card, "title": "other"}), encoding="utf-8")
        assert plan_of(tmp_path)[PROBE].settings_hash != before.settings_hash

    def test_it_follows_the_base(self, tmp_path: Path) -> None:
        after = "made/demo_clip/linear_probe/threshold_per_group-sex.age/seed0"
        changed = plan_of(tmp_path, overrides={"train": {"epochs": 1}})
        assert changed[after].cell == plan_of(tmp_path)[after].cell
        assert changed[after].settings_hash != plan_of(tmp_path)[after].settings_hash

    def test_data_made_per_seed_differ(self, tmp_path: Path) -> None:
        plan = plan_of(tmp_path)
        folders = {plan[f"seeded/demo_clip/linear_probe/erm/seed{seed}"].dataset_dir for seed in (0, 1)}
        assert len(folders) == 2
        assert len({plan[f"made/demo_clip/linear_probe/erm/seed{seed}"].dataset_dir for seed in (0, 1)}) == 1


class TestCosts:
    def test_an_fm_encodes_a_dataset_once(self, tmp_path: Path) -> None:
        plan = plan_of(tmp_path, only=["made/demo_clip/*"])
        probes = [planned for key, planned in plan.items() if key.startswith("made/demo_clip/linear_probe/erm")]
        assert probes[0].seconds == probes[1].seconds
        assert plan["made/demo_clip/zero_shot/erm/seed0"].seconds > 2  # the first of them encodes
        alone = plan_of(tmp_path, only=[PROBE])
        assert alone[PROBE].seconds == pytest.approx(
            probes[0].seconds + plan["made/demo_clip/zero_shot/erm/seed0"].seconds - 2, abs=1e-6
        )

    def test_done_cells_have_encoded(self, tmp_path: Path) -> None:
        before = plan_of(tmp_path)
        finish(tmp_path, before["made/demo_clip/zero_shot/erm/seed0"])
        assert plan_of(tmp_path)[PROBE].seconds == before[PROBE].seconds
        assert plan_of(tmp_path, only=[PROBE])[PROBE].seconds == before[PROBE].seconds


class TestText:
    def test_it_tells_counts_reasons_cost_and_choices(self, tmp_path: Path) -> None:
        content = study()
        text = "\n".join(plan_lines(content, make_plan(content, output=tmp_path), jobs=4))
        for told in (
            "A small study",
            "32 cells: 15 ready, 1 no data, 15 no weights, 1 not offered",
            "prepare montgomery --source RAW",
            "demo_clip",
            "erm, group_dro-sex, threshold_per_group-sex.age",
            "of one CPU core, about",
            "with 4 jobs",
            "estimate: images x",
            "choices that were not published (ours",
            "epochs: 2 (time)",
        ):
            assert told in text
        assert "cross-entropy" not in text

    @pytest.mark.parametrize(
        ("seconds", "text"), [(0, "0 s"), (99, "99 s"), (150, "2 min"), (9000, "2.5 h"), (9e6, "2,500 h")]
    )
    def test_durations(self, seconds: float, text: str) -> None:
        assert duration(seconds) == text
