"What the experiments share: figures are rounded into a file that is added to, jobs come back with their results."

import operator

import common
import torch


def test_a_file_is_gone_on_with(tmp_path):
    path = tmp_path / "made" / "x.json"
    assert common.stored(path, runs=[]) == {"runs": []}
    common.store(path, {"runs": [1 / 3], "machine": common.machine()})
    assert common.stored(path, runs=[]) == {"runs": [0.33333], "machine": common.machine()}
    assert torch.__version__.split("+")[0] in common.machine()


def test_every_job_comes_back_once_with_its_result():
    jobs = [(a, 2) for a in range(6)]
    found = list(common.runs(operator.mul, jobs, 2, fresh=True))
    assert sorted(at for at, *_ in found) == [f"{k}/6" for k in range(1, 7)]
    assert {job: result for _, job, result in found} == {job: job[0] * 2 for job in jobs}
    assert [result for *_, result in common.runs(threads, [()], 1)] == [1]


def threads() -> int:
    return torch.get_num_threads()


def test_options_are_those_asked_for(tmp_path):
    words = common.parser("what it does", tmp_path / "x.json", workers=3, data=True)
    given = words.parse_args(["--workers", "1"])
    assert (given.workers, given.out, given.data) == (1, tmp_path / "x.json", common.DATA)
    assert vars(common.parser("nothing").parse_args([])) == {}
