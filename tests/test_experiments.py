"""What every experiment of the ledger has in common: its presets."""

import pytest

from experiments import cli, flagging, ledger


@pytest.mark.parametrize("preset", ledger.PRESETS)
@pytest.mark.parametrize("name", ledger.EXPERIMENTS)
def test_presets_can_be_planned(name, preset, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    module = ledger.load_module(name)
    assert cli.main(module, [*ledger.preset_flags(module, preset), "--dry_run"]) == 0
    assert "in all" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ledger.EXPERIMENTS)
def test_the_default_flagfile_names_every_setting_with_its_default(name):
    module = ledger.load_module(name)
    (config,), given = flagging.parse(ledger.preset_flags(module, "default"), module.Config)
    assert config == module.Config()
    assert set(given) == {f.name for f in flagging.flags_of(module.Config) if not f.about["local"]}


@pytest.mark.parametrize("name", ledger.EXPERIMENTS)
def test_every_claim_names_its_figure_and_its_code(name):
    def leaves(verdicts):
        for verdict in verdicts:
            if verdict.kind != "compound":
                yield verdict
            yield from leaves(v for v in (verdict.control, verdict.other_reading) if v)

    for verdict in leaves(ledger.claims.judge(ledger.load_module(name).CLAIMS, None)):
        assert verdict.code.startswith("experiments/"), verdict.id
        assert verdict.measures, verdict.id
        assert verdict.threshold_reason, verdict.id
