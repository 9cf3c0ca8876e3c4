"""The dashboard of what is found: whether the model still answers as it used to, over documents as they used to be."""

from ops.grafana.panels import SERVICE, WORKERS, Json, Query, below, choice, dashboard, gauges, heatmap, lines, quantile

LABELS = f'{SERVICE}, label=~"$label"'
LABELS_OF_WORKERS = f'{WORKERS}, label=~"$label"'
# What Prometheus makes of the bucket of 1, by its version.
ONE = ', le=~"1|1.0"'
# Those of the alert.
DRIFT = below((0, "red"), (0.67, "green"), (1.5, "red"))


def quality() -> Json:
    """What is found, in what, and how it compares with last week."""
    return dashboard(
        "gpner-quality",
        "gpner Quality",
        "What is found, how sure the model is, and how both compare with last week. None of it knows what is right: a "
        "change says that something is to be looked at, `gpner evaluate` says whether it is worse.",
        [("Entities", _entities()), ("Scores", _scores()), ("Documents", _documents())],
        hours=24,
        variables=[choice("label", "Label", f"gpner_entities_total{{{SERVICE}}}", "label")],
    )


def _entities() -> list[Json]:
    found = f"sum by (label) (rate(gpner_entities_total{{{LABELS_OF_WORKERS}}}[$__rate_interval]))"
    tokens = f"sum(rate(gpner_tokens_total{{{WORKERS}}}[$__rate_interval]))"
    return [
        lines(
            "Entities per thousand tokens",
            (16, 9),
            "By label. A step in all labels at once: other documents, or another model (purple marks). In one label: "
            "look at results of that label before and after with `gpner view`.",
            [Query(f"1000 * {found} / scalar({tokens} > 0)", "{{label}}")],
        ),
        gauges(
            "Against last week",
            (8, 9),
            "Entities per thousand tokens over the last day, over those of the same day a week ago; 1 is the same. "
            "Red is where an alert fires after an hour. Empty in the first week.",
            [Query(f"gpner:entity_rate:ratio1w{{{LABELS}}}", "{{label}}", "instant")],
            min=0,
            max=2,
            decimals=2,
            steps=DRIFT,
        ),
        lines(
            "Per thousand tokens over a day, and a week before",
            (12, 9),
            "The same, by the day: the line of a week ago lies under it as long as nothing changes.",
            [
                Query(f"gpner:entities_per_1000_tokens:rate1d{{{LABELS}}}", "{{label}}"),
                Query(f"gpner:entities_per_1000_tokens:rate1d{{{LABELS}}} offset 1w", "{{label}}, a week before"),
            ],
            dashed="/a week before/",
        ),
        lines(
            "Drift",
            (12, 9),
            "The course of that ratio. Outside the dashed lines for an hour an alert fires. A slow slope is the world "
            "that changes: time to label new documents.",
            [Query(f"gpner:entity_rate:ratio1w{{{LABELS}}}", "{{label}}")],
            max=2,
            steps=DRIFT,
        ),
    ]


def _scores() -> list[Json]:
    buckets = f"gpner_entity_score_bucket{{{LABELS_OF_WORKERS}}}"
    every = f"gpner_entity_score_count{{{LABELS_OF_WORKERS}}}"
    score = f"sum by (label) (rate(gpner_entity_score_%s{{{LABELS_OF_WORKERS}}}[$__rate_interval]))"
    return [
        heatmap(
            "Scores",
            (12, 9),
            "How sure the model is of what it returns: dark where most entities are. Weight that moves from the top "
            "downwards means that documents look less and less like those it was trained on.",
            Query(
                f"sum by (le) (increase({buckets}[$__rate_interval]))"
                f" / scalar(sum(increase({every}[$__rate_interval])) > 0)",
                kind="heatmap",
            ),
        ),
        lines(
            "Mean score",
            (12, 9),
            "By label. The one whose mean falls is the first that needs new examples in the training data.",
            [
                Query(
                    f"{score % 'sum'} / ({score % 'count'} > 0)",
                    "{{label}}",
                )
            ],
            max=1,
            from_zero=False,
        ),
        lines(
            "The least sure tenth",
            (12, 9),
            "A tenth of the entities of each label has a score below this. Near the threshold of the label many more "
            "lie just below it and are not returned: `gpner tune` on recent documents.",
            [Query(f"histogram_quantile(0.1, sum by (label, le) (rate({buckets}[$__rate_interval])))", "{{label}}")],
            max=1,
            from_zero=False,
        ),
        gauges(
            "Share of entities with a score below 0.75",
            (12, 9),
            "Over the whole range, by label. Those are the ones to show to a person, if anybody checks results.",
            [
                Query(
                    f'sum by (label) (increase(gpner_entity_score_bucket{{{LABELS_OF_WORKERS}, le="0.75"}}[$__range]))'
                    f" / (sum by (label) (increase(gpner_entity_score_count{{{LABELS_OF_WORKERS}}}[$__range])) > 0)",
                    "{{label}}",
                    "instant",
                )
            ],
            unit="percentunit",
            min=0,
            max=1,
            steps=below((0, "green"), (0.3, "yellow"), (0.6, "orange")),
        ),
    ]


def _documents() -> list[Json]:
    windows = f"gpner_document_windows_%s{{{WORKERS}%s}}[$__rate_interval]"
    many = f"sum(rate({windows % ('count', '')}))"
    one = f"sum(rate({windows % ('bucket', ONE)}))"
    return [
        lines(
            "Tokens of a document",
            (12, 9),
            "Half the documents have fewer, and 95 in a hundred. A change here explains many a change above: other "
            "sources.",
            [
                Query(quantile(share, "gpner_document_tokens"), name)
                for name, share in (("half", 0.5), ("95 of 100", 0.95))
            ],
            unit="tokens",
            logarithmic=True,
        ),
        lines(
            "Windows of a document",
            (12, 9),
            "In how many pieces documents are read, on average, and the share of those that need more than one. A "
            "large share means that the model's context is short for these documents: `gpner extend`.",
            [
                Query(f"sum(rate({windows % ('sum', '')})) / ({many} > 0)", "windows, on average"),
                Query(f"1 - {one} / ({many} > 0)", "share read in more than one"),
            ],
        ),
    ]
