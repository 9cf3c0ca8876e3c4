"""The dashboard that an operator looks at first: alive, keeping up, efficient, and what goes wrong."""

from ops.grafana.panels import SERVICE, WORKERS, Json, Query, below, dashboard, lines, quantile, stat, states, table

DONE = f'gpner_documents_total{{{WORKERS}, outcome="done"}}'
FAILED = f'gpner_documents_total{{{WORKERS}, outcome="failed"}}'
OBJECTIVES = below((0, "green"), (0.5, "yellow"), (1, "red"))
PERCENTILES = (("half", 0.5), ("95 of 100", 0.95), ("99 of 100", 0.99))


def overview() -> Json:
    """Everything about a service that is not what it finds."""
    return dashboard(
        "gpner-overview",
        "gpner Overview",
        "From top to bottom: is it alive, does it keep up, is it efficient, what goes wrong.",
        [("Alive", _alive()), ("Keeping up", _keeping_up()), ("Efficient", _efficient()), ("Wrong", _wrong())],
        hours=3,
    )


def _alive() -> list[Json]:
    return [
        stat(
            "Workers ready",
            (4, 5),
            "Workers that take documents, and those that answer Prometheus. Fewer than you started: see Workers "
            "beside, and /readyz of the one that is missing.",
            [
                Query(f"sum(gpner_ready{{{SERVICE}}})", "ready", "instant"),
                Query(f"gpner:workers_up:sum{{{SERVICE}}}", "up", "instant"),
            ],
            steps=below((0, "red"), (1, "green")),
        ),
        stat(
            "Redis",
            (4, 5),
            "Whether Redis answers its exporter. Down: nothing is accepted or committed, and nothing is lost; start "
            "Redis again, the workers go on by themselves.",
            [Query(f"redis_up{{{SERVICE}}}", "", "instant")],
            mappings=[
                {"type": "value", "options": {"0": {"text": "down", "index": 0}, "1": {"text": "up", "index": 1}}}
            ],
            steps=below((0, "red"), (1, "green")),
        ),
        stat(
            "Alerts",
            (4, 5),
            "How many fire; the table at the bottom says which, docs/operations.md what to do.",
            [Query('count(ALERTS{alertname=~"Gpner.*", alertstate="firing"}) or vector(0)', "", "instant")],
            steps=below((0, "green"), (1, "red")),
        ),
        states(
            "Workers",
            (12, 5),
            "Ready or not. A band with gaps is a worker that restarts: read the end of its log. Not ready for long: "
            "/readyz says why.",
            [Query(f"gpner_ready{{{WORKERS}}}", "{{instance}}")],
            [
                {
                    "type": "value",
                    "options": {
                        "0": {"text": "not ready", "color": "orange", "index": 0},
                        "1": {"text": "ready", "color": "green", "index": 1},
                    },
                }
            ],
        ),
        table(
            "Versions",
            (24, 6),
            "What each worker runs. More than one revision for longer than a reload takes: documents get different "
            "answers; reload the workers that have the old one.",
            [
                Query(
                    f"(time() - gpner_process_start_time_seconds{{{WORKERS}}})"
                    f" * on (instance) group_left (model, revision, device) gpner_model_info{{{SERVICE}}}"
                    f" * on (instance) group_left (version) gpner_worker_info{{{SERVICE}}}",
                    kind="table",
                )
            ],
            columns={
                "instance": "Worker",
                "version": "gpner",
                "model": "Model",
                "revision": "Revision",
                "device": "Device",
                "Value": "Running for",
            },
            units={"Running for": "dtdurations"},
        ),
    ]


def _keeping_up() -> list[Json]:
    return [
        stat(
            "All done in",
            (4, 8),
            "The backlog over the rate at which documents end, if nothing more arrives. Infinite: nothing gets done.",
            [Query(f"gpner:drain_seconds{{{SERVICE}}}", "", "instant")],
            unit="dtdurations",
            steps=below((0, "green"), (600, "yellow"), (3600, "red")),
        ),
        lines(
            "Age of the oldest document, as a share of its objective",
            (10, 8),
            "Above 1 the promise is broken. More workers; if the device below is idle meanwhile, they would not help. "
            "The objectives stand in ops/prometheus/rules/recording.yml.",
            [
                Query(
                    f"gpner:queue_oldest_age_seconds:max{{{SERVICE}}}"
                    " / on (priority) group_left () gpner:queue_age_objective_seconds",
                    "{{stream}}",
                )
            ],
            unit="percentunit",
            steps=OBJECTIVES,
        ),
        lines(
            "Unfinished documents",
            (10, 8),
            "By stream: those that wait and those that workers hold. Growing for long means that more arrives than is "
            "read.",
            [
                Query(f"gpner:queue_depth:max{{{SERVICE}}}", "{{stream}}"),
                Query(f"gpner:documents_waiting:sum{{{SERVICE}}}", "held by no worker"),
            ],
        ),
        lines(
            "Documents a second",
            (12, 8),
            "What ends, against what arrives (ended, plus how fast the backlog grows). Arriving above done for long: "
            "more workers. Done at 0 with a backlog: look at the log of a worker.",
            [
                Query(f"sum(rate({DONE}[$__rate_interval]))", "done"),
                Query(f"sum(rate({FAILED}[$__rate_interval]))", "failed"),
                Query(
                    f"clamp_min(gpner:documents_ended:rate5m{{{SERVICE}}}"
                    f" + on (namespace) sum by (namespace) (deriv(gpner:queue_depth:max{{{SERVICE}}}[5m])), 0)",
                    "arriving, over 5 minutes",
                ),
            ],
            unit="docs/s",
        ),
        lines(
            "From arrival to result",
            (12, 8),
            "Of half the documents, of 95 and of 99 in a hundred. If it grows, the stages below say where the time "
            "goes: queue means too few workers.",
            [Query(quantile(share, "gpner_document_duration_seconds"), name) for name, share in PERCENTILES],
            unit="s",
            logarithmic=True,
        ),
    ]


def _efficient() -> list[Json]:
    tokens = f"sum by (instance) (rate(gpner_tokens_total{{{WORKERS}}}[$__rate_interval]))"
    flops = f"sum by (instance) (rate(gpner_model_flops_total{{{WORKERS}}}[$__rate_interval]))"
    return [
        lines(
            "Tokens a second",
            (12, 8),
            "By worker. One that does much less than its equals has a slower device, or shares it.",
            [Query(tokens, "{{instance}}")],
            unit="tokens/s",
            stacked=True,
        ),
        lines(
            "Busy share of the device",
            (12, 8),
            "Seconds of forward and decode in a second. Below 0.7 while documents wait the device starves: see the "
            "cores below, and the stages: tokenize (GPNER_TOKENIZER_THREADS), commit (Redis), batch "
            "(GPNER_MAX_HELD_TOKENS).",
            [Query(f"gpner:device_busy:ratio_rate5m{{{WORKERS}}}", "{{instance}}")],
            unit="percentunit",
            max=1,
            steps=below((0, "orange"), (0.7, "green")),
        ),
        lines(
            "Share of the device's peak",
            (8, 8),
            "The model's arithmetic over what the device did on large matrix products at the start. Low while busy: "
            "batches too small (see their fill), or documents so short or so long that attention and decoding count "
            "most.",
            [Query(f"{flops} / on (instance) (gpner_device_peak_flops{{{WORKERS}}} > 0)", "{{instance}}")],
            unit="percentunit",
        ),
        lines(
            "Batch fill",
            (8, 8),
            "Tokens of a batch over the most that it may hold; it has no padding. Low under load: documents come in "
            "too slowly, or memory ran out. Low otherwise: nothing to fill it with, which is as it should be.",
            [
                Query(
                    f"sum(rate(gpner_batch_fill_ratio_sum{{{WORKERS}}}[$__rate_interval]))"
                    f" / sum(rate(gpner_batch_fill_ratio_count{{{WORKERS}}}[$__rate_interval]))",
                    "mean",
                ),
                Query(quantile(0.1, "gpner_batch_fill_ratio"), "the least filled tenth"),
            ],
            unit="percentunit",
        ),
        lines(
            "Documents in a batch",
            (8, 8),
            "The mean, by worker. 1 with long documents is in order; 1 with short ones means that nothing is waiting.",
            [
                Query(
                    f"sum by (instance) (rate(gpner_batch_documents_sum{{{WORKERS}}}[$__rate_interval]))"
                    f" / sum by (instance) (rate(gpner_batch_documents_count{{{WORKERS}}}[$__rate_interval]))",
                    "{{instance}}",
                )
            ],
        ),
        lines(
            "Time in each stage",
            (14, 9),
            "95 in a hundred take less. queue: too few workers. tokenize: more GPNER_TOKENIZER_THREADS. batch: the "
            "device is behind, or documents wait for company (GPNER_MAX_WAIT_SECONDS). commit: Redis is slow; see its "
            "disk.",
            [Query(quantile(0.95, "gpner_stage_duration_seconds", "stage"), "{{stage}}")],
            unit="s",
            logarithmic=True,
        ),
        table(
            "Time in each stage, over the whole range",
            (10, 9),
            "Of half, of 95 and of 99 in a hundred. queue and batch count documents, the others groups of them.",
            [
                Query(quantile(share, "gpner_stage_duration_seconds", "stage", over="$__range"), kind="table")
                for _, share in PERCENTILES
            ],
            columns={"stage": "Stage", "Value #A": "half", "Value #B": "95 of 100", "Value #C": "99 of 100"},
            units={name: "s" for name, _ in PERCENTILES},
        ),
        lines(
            "Memory of the device",
            (8, 8),
            "What each worker holds: reserved on a GPU, resident on a CPU. Growing for days on a CPU: restart the "
            "worker, and report it.",
            [Query(f"gpner_device_memory_bytes{{{WORKERS}}}", "{{instance}}")],
            unit="bytes",
        ),
        lines(
            "Processor cores in use",
            (8, 8),
            "By worker. With a GPU, one core fully used means that Python is the brake: more workers on smaller "
            "devices do better. On a CPU it should be GPNER_CPU_THREADS; less means that the container's limit is "
            "lower.",
            [Query(f"rate(gpner_process_cpu_seconds_total{{{WORKERS}}}[$__rate_interval])", "{{instance}}")],
        ),
        lines(
            "Documents held",
            (8, 8),
            "Between reading and commit, by worker. Constant while nothing is done: commits wait for Redis, or a "
            "forward hangs.",
            [Query(f"gpner_documents_in_flight{{{WORKERS}}}", "{{instance}}")],
        ),
    ]


def _wrong() -> list[Json]:
    failed = f"sum by (reason) (increase({FAILED}[$__rate_interval]))"
    return [
        lines(
            "Failures, by reason",
            (12, 8),
            "malformed and unknown_label: the producer's mistake. engine_error: `gpner-worker dead list` has what the "
            "model said. too_many_deliveries: documents that killed workers. out_of_memory: longer than the device "
            "can hold.",
            [Query(failed, "{{reason}}")],
            as_bars=True,
            stacked=True,
        ),
        lines(
            "Share that fails",
            (12, 8),
            "Of the documents that end. Above 1 % an alert fires: read the reasons beside.",
            [
                Query(
                    f"sum(rate({FAILED}[$__rate_interval])) / "
                    f'(sum(rate(gpner_documents_total{{{WORKERS}, outcome=~"done|failed"}}[$__rate_interval])) > 0)',
                    "failed",
                )
            ],
            unit="percentunit",
            steps=below((0, "green"), (0.01, "red")),
        ),
        lines(
            "Dead letters",
            (8, 8),
            "Failed documents that are kept. `gpner-worker dead list` shows them; retry or drop them once the reason "
            "is gone.",
            [Query(f"gpner:dead_letters:max{{{SERVICE}}}", "dead letters")],
        ),
        lines(
            "Taken over, and out of memory",
            (8, 8),
            "Documents taken over from workers that died: again and again means that workers keep dying. Forwards that "
            "did not fit: set a smaller GPNER_MAX_BATCH_TOKENS.",
            [
                Query(f"sum(increase(gpner_redelivered_total{{{WORKERS}}}[$__rate_interval]))", "taken over"),
                Query(f"sum(increase(gpner_out_of_memory_total{{{WORKERS}}}[$__rate_interval]))", "out of memory"),
            ],
            as_bars=True,
        ),
        lines(
            "Memory of Redis",
            (8, 8),
            "Of `maxmemory`. At 1 it refuses documents and results: read more, lower GPNER_RESULT_TTL_SECONDS, or "
            "give it more.",
            [Query(f"redis_memory_used_bytes{{{SERVICE}}} / (redis_memory_max_bytes{{{SERVICE}}} > 0)", "used")],
            unit="percentunit",
            max=1,
            steps=below((0, "green"), (0.8, "orange"), (0.95, "red")),
        ),
        table(
            "Alerts that fire",
            (24, 7),
            "Each has a heading in docs/operations.md: what it means, where to look first, what to do.",
            [Query('ALERTS{alertname=~"Gpner.*", alertstate="firing"}', kind="table")],
            columns={
                "alertname": "Alert",
                "severity": "Severity",
                "namespace": "Service",
                "instance": "Worker",
                "stream": "Stream",
                "label": "Label",
            },
            units={},
        ),
    ]
