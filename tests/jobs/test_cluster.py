from jobs.cluster import _init_arguments
from jobs.config import RayConfig
from pipelines.stage_run import Resources


def test_a_ray_of_our_own_has_no_dashboard_unless_asked_for_and_then_on_loopback() -> None:
    assert _init_arguments(RayConfig(), Resources())["include_dashboard"] is False
    for config in (RayConfig(), RayConfig(include_dashboard=True)):
        assert _init_arguments(config, Resources())["dashboard_host"] == "127.0.0.1"


def test_a_cluster_that_is_joined_is_left_as_it_is() -> None:
    joined = _init_arguments(RayConfig(address="auto"), Resources())
    assert joined["address"] == "auto"
    assert not {"include_dashboard", "num_cpus", "num_gpus"} & set(joined)
