"""The tutorials run as they stand, each in a process of its own, and what they say of their numbers holds."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.envs.maniskill_support import skip_without_maniskill

TUTORIALS = Path(__file__).resolve().parents[1] / "tutorials"
SCRIPTS = sorted(TUTORIALS.glob("*.py"))

# Evaluated among the variables that a script leaves. Thresholds are loose: rounding differs from machine to machine.
CLAIMS = {
    "01_where_does_the_agent_look": [
        "curve['success_at_end'][-1] > 0.4 > 0.1 > curve['success_at_end'][0]",
        "curve['gaze_distance'][-1] < 0.5 * curve['gaze_distance'][0]",
        # The gaze comes first.
        "curve['gaze_distance'][3] < 0.7 * curve['gaze_distance'][0] and curve['success_at_end'][3] < 0.3",
        "metrics['trained']['gaze_distance'] < 0.3 * metrics['untrained']['gaze_distance']",
        "metrics['trained']['success_at_end'] == levels['easy']['success_at_end'] == curve['success_at_end'][-1]",
        "levels['shift']['success_at_end'] < levels['easy']['success_at_end']",
        "(episodes['trained'][:, 0]['pixels'] == episodes['untrained'][:, 0]['pixels']).all()",
        "(folder / 'gaze.gif').exists()",
    ],
    "02_three_lines_in_coding_ppo": [
        "len(logs['reward']) == 20 and np.isfinite(logs['loss'] + logs['loss_contrast']).all()",
        "logs['reward'][-1] > 3 * logs['reward'][0]",
        "logs['eval success'][-1] > logs['eval success'][0]",
        "logs['eval gaze distance'][-1] < 0.15",
        "logs['mined'][0] == 0 < min(logs['mined'][1:])",  # the bank holds min_steps after two rollouts
        "loss_vals['triplet_valid'] > 0",
        "len(triplets.bank) == 8192 and triplets.bank.written == total_frames",  # repeats are skipped
    ],
    "03_a_buffer_that_knows_what_mattered": [
        "np.allclose(by_hand, label[episode])",
        "halfway.labelled()[1].float().mean() == 0.8 and known.all()",
        "label[purposeful].mean() > 5 * label[~purposeful].mean()",
        "len(mined) == 64 and mined['anchor', 'pixels'].float().std() > 0",
        "table['QuantileMiner']['similar to positive'] > 0.3 < table['QuantileMiner']['to negative']",
        "table['QuantileMiner']['from negative'] > 5 * table['QuantileMiner']['label differs from positive']",
        "table['VisualMiner']['similar to positive'] > 0.3 > 0.1 > table['VisualMiner']['to negative']",
        "abs(table['RandomMiner']['similar to positive']) < 0.1 > abs(table['RandomMiner']['to negative'])",
        "0.7 < table['ShuffledReturnsMiner']['from negative'] "
        "/ table['ShuffledReturnsMiner']['label differs from positive'] < 1.4",
        "losses[-20:].mean() < 0.9 * losses[:20].mean()",
        "'features' not in sample.keys() and sample['triplets', 'valid'].all()",
    ],
    "04_write_your_own_gaze_and_miner": [
        "attention.shape == (4, 12, 12) and 0 <= attention.min() < attention.max() <= 1",
        "found.valid.all() and labels[found.positive].min() >= 8 and labels[found.negative].max() <= 1",
        "config.gaze.sigma == 0.2 and config.readout._target_.endswith('FlattenReadout')",
        "listing.startswith('miner=ends') and 'share: 0.2' in listing",
        "all(len(run) == 24 and np.isfinite(run['loss_contrast']).all() for run in metrics.values())",
        "all(run['mined_triplets'][-1] > 0 for run in metrics.values())",
        "'my_gaze.StripeGaze' in (work / 'sweep' / '1' / 'config.yaml').read_text()",
        "Path(my_gaze.__file__).is_relative_to(work)",
    ],
    "05_sac_from_pixels_on_maniskill": [
        "(rollout['proprio'].shape, rollout['pixels'].shape) == ((2, 4, 25), (2, 4, 3, 64, 64))",
        "not require_renderer().is_cpu or seconds['low-polygon'] < 0.5 * seconds['as ManiSkill draws it']",
        "len(set(totals.values())) == 1",
        "not (first['low-polygon']['pixels'] == first['as ManiSkill draws it']['pixels']).all()",
        "np.isfinite([metrics[name] for name in ('loss_actor', 'loss_qvalue', 'loss_contrast')]).all()",
        "len(metrics) == 3 and metrics['mined_triplets'].min() > 0",
        "video.n_frames == 50 and np.asarray(video.convert('RGB')).std() > 10",
    ],
    "06_composing_a_loss": [
        "issubclass(GazeTD3Loss, TD3Loss) and 'loss_contrast' in refused",
        "np.isfinite(sum((logs[name] for name in ('loss_qvalue', 'loss_actor', 'loss_contrast')), [])).all()",
        "np.mean(logs['curl_accuracy'][-80:]) > 0.8 > 2 * np.mean(logs['curl_accuracy'][:80])",
        "np.mean(logs['reward'][-4:]) > np.mean(logs['reward'][:4])",
        "norms['loss_qvalue', 'encoder'] > 0 < norms['loss_contrast', 'encoder']",
        "norms['loss_actor', 'encoder'] == norms['loss_actor', 'gaze'] == norms['loss_actor', 'readout'] == 0",
        "norms['loss_contrast', 'gaze'] == norms['loss_contrast', \"actor's head\"] == 0",
        "norms['loss_actor', \"actor's head\"] > 0 < norms['loss_qvalue', 'gaze']",
    ],
    "07_inside_torchrls_trainers": [
        "(len(ppo_log.rows), len(sac_log.rows)) == (16, 8)",
        "ppo_log.rows[-1]['gaze_distance'] < 0.85 * ppo_log.rows[0]['gaze_distance']",
        "all(log.rows[0]['mined_triplets'] == 0 < log.rows[-1]['mined_triplets'] for log in (ppo_log, sac_log))",
        "np.isfinite([value for log in (ppo_log, sac_log) for row in log.rows for value in row.values()]).all()",
        "all(one.isfinite().all() for one in loss.parameters())",
    ],
    "08_from_a_laptop_to_a_cluster": [
        "same == {'metrics.csv': True, 'evaluation.csv': True}",
        "2048 <= killed_at < 5120 > stopped_at >= 2048 and 'gaze-train resume=' in last_words",
        "before.any() and (one[before] == other[before]).all()",
        "len(one) == len(other) == 10",
    ],
}

RUN = """
import json, runpy, sys
script, *claims = sys.argv[1:]
sys.argv = [script]
variables = runpy.run_path(script, run_name="__main__")
import numpy
variables["np"] = numpy
print("\\nCLAIMS", json.dumps([claim for claim in claims if not eval(claim, variables)]))
"""


# Minutes of what test_plugins.py, envs/test_maniskill_training.py, integration/test_trainers.py and
# training/test_resume.py try in small.
LONG = ("04", "05", "07", "08")


def marks(script: Path) -> list[pytest.MarkDecorator]:
    quick, robot, tried = script.stem.startswith("03"), "maniskill" in script.stem, script.stem.startswith(LONG)
    return [pytest.mark.slow] * (not quick) + [pytest.mark.maniskill] * robot + [pytest.mark.thorough] * tried


@pytest.mark.parametrize("script", [pytest.param(one, id=one.stem, marks=marks(one)) for one in SCRIPTS])
def test_runs_and_claims_hold(script, tmp_path):
    if "maniskill" in script.stem:
        skip_without_maniskill()
    environment = {**os.environ, "MPLBACKEND": "Agg", "OMP_WAIT_POLICY": "PASSIVE", "TMPDIR": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", RUN, str(script), *CLAIMS[script.stem]],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert json.loads(run.stdout.rpartition("CLAIMS ")[2]) == [], run.stdout[-3000:]


def test_without_a_renderer_the_robot_tutorial_is_skipped_with_a_reason(tmp_path):
    environment = {**os.environ, "VK_ICD_FILENAMES": "/nowhere.json", "VK_DRIVER_FILES": "/nowhere.json"}
    script = TUTORIALS / "05_sac_from_pixels_on_maniskill.py"
    run = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert run.stderr.strip().splitlines()[-1].startswith("Skipped: ")
    assert "install Mesa >= 24.3" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_has_the_form_of_a_gallery_script(script):
    """What sphinx-gallery shows: a title, then text and code in turn; and what every one of ours tells its reader."""
    text = script.read_text()
    title, underline = text.splitlines()[1:3]
    assert underline == "=" * len(title)
    for part in ("**Author**", "What you will learn:", "Prerequisites:", "# Conclusion", "# Further reading"):
        assert part in text, part
    assert text.count("\n" + "#" * 70 + "\n# ") >= 5
    assert "__main__" not in text
    assert "the paper's" not in text
    assert script.name in (TUTORIALS / "README.rst").read_text()
    for document in re.findall(r"``((?:docs|tests|tutorials)/[\w/]+(?:\.\w+)?)``", text):
        assert (TUTORIALS.parent / document).exists(), document
