"""The results store's tables, indexes and views, as SQL."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

VERSION = 5
READABLE = (2, 3, 4, VERSION)  # what an older one lacks, whoever writes to it adds
SINCE: Mapping[str, int] = MappingProxyType({"checksums": 3, "document_texts": 4, "task_groups": 5, "group_members": 5})
"""The version that brought a table, where it was not there from the beginning."""
APPLICATION_ID = 0x4A505354  # "JPST"

# Statements end with a semicolon, which nothing else here may contain.
SCHEMA = """
CREATE TABLE models (
    id INTEGER PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    dtype TEXT NOT NULL,            -- of the computation, and of weights in integers: 'float32, int8 weights'
    source TEXT,                    -- folder or hub id
    revision TEXT,
    num_layers INTEGER NOT NULL,
    UNIQUE (fingerprint, dtype)
);
CREATE TABLE tasks (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    num_fewshot INTEGER NOT NULL,
    bos TEXT NOT NULL,              -- auto, on, off: as asked
    settings TEXT NOT NULL,         -- canonical JSON of everything else that changes scores
    chance REAL,                    -- the score of guessing, NULL where it is not known
    main_metric TEXT NOT NULL,      -- what figures show
    UNIQUE (name, version, num_fewshot, bos, settings)
);
CREATE TABLE requests (
    id INTEGER PRIMARY KEY,
    task INTEGER NOT NULL REFERENCES tasks,
    document INTEGER NOT NULL,
    number INTEGER NOT NULL,        -- among the document's requests
    content TEXT NOT NULL,          -- hash of the request's text
    UNIQUE (task, document, number)
);
CREATE TABLE document_texts (       -- what people see of a document: the middle of long ones is left out
    task INTEGER NOT NULL REFERENCES tasks,
    document INTEGER NOT NULL,
    question TEXT NOT NULL,
    answer TEXT NOT NULL,           -- the right one
    PRIMARY KEY (task, document)
) WITHOUT ROWID;
CREATE TABLE task_groups (          -- lm-eval's groups of tasks, whose scores are made of their members' on reading
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    members TEXT NOT NULL,          -- a digest of all that tells them from other tasks
    definition TEXT NOT NULL,       -- canonical JSON: version, children, metrics with their weights and filters
    UNIQUE (name, members)
);
CREATE TABLE group_members (
    task_group INTEGER NOT NULL REFERENCES task_groups,
    place INTEGER NOT NULL,         -- in lm-eval's order
    task INTEGER NOT NULL REFERENCES tasks,
    PRIMARY KEY (task_group, place)
) WITHOUT ROWID;
CREATE TABLE plans (
    id INTEGER PRIMARY KEY,
    text TEXT NOT NULL UNIQUE,
    cost INTEGER NOT NULL,          -- layer applications
    depth INTEGER NOT NULL          -- layers on the longest chain
);
CREATE TABLE variants (             -- the strategies that a plan stands for in a model of num_layers layers
    id INTEGER PRIMARY KEY,
    plan INTEGER NOT NULL REFERENCES plans,
    strategy TEXT NOT NULL,         -- 'custom': a plan of the user's own, whose label is its text
    num_layers INTEGER NOT NULL,
    label TEXT NOT NULL,
    start INTEGER,
    seed INTEGER,
    iterations INTEGER,
    times INTEGER,
    layer INTEGER,
    affected INTEGER,               -- layers that the strategy changes
    UNIQUE (num_layers, label)
);
CREATE TABLE environments (
    id INTEGER PRIMARY KEY,
    description TEXT NOT NULL UNIQUE   -- canonical JSON: device, library versions
);
CREATE TABLE cells (
    id INTEGER PRIMARY KEY,
    model INTEGER NOT NULL REFERENCES models,
    task INTEGER NOT NULL REFERENCES tasks,
    plan INTEGER NOT NULL REFERENCES plans,
    documents INTEGER,              -- how many the metrics cover, NULL before the first are there
    status TEXT NOT NULL DEFAULT 'running' CHECK (status IN ('running', 'finished', 'not finite')),
    seconds REAL NOT NULL DEFAULT 0,   -- device time attributed by cost, summed over processes
    environment INTEGER REFERENCES environments,
    finished TEXT,                  -- ISO time, UTC
    UNIQUE (model, task, plan)
);
CREATE TABLE scores (
    cell INTEGER NOT NULL REFERENCES cells,
    request INTEGER NOT NULL REFERENCES requests,
    loglikelihood REAL,             -- nats, NULL: the logits were not finite, or the task generates
    is_greedy INTEGER NOT NULL,
    text TEXT,                      -- what a generative task's model wrote, NULL: the logits were not finite
    PRIMARY KEY (cell, request)
) WITHOUT ROWID;
CREATE TABLE metrics (
    cell INTEGER NOT NULL REFERENCES cells,
    metric TEXT NOT NULL,
    filter TEXT NOT NULL,
    value REAL,
    stderr REAL,
    higher_is_better INTEGER,
    PRIMARY KEY (cell, metric, filter)
) WITHOUT ROWID;
CREATE TABLE document_scores (      -- 0 or 1 for accuracies, log-likelihood in nats for perplexities
    cell INTEGER NOT NULL REFERENCES cells,
    document INTEGER NOT NULL,
    metric TEXT NOT NULL,
    filter TEXT NOT NULL,
    value REAL,
    PRIMARY KEY (cell, metric, filter, document)
) WITHOUT ROWID;
CREATE TABLE analyses (
    model INTEGER NOT NULL REFERENCES models,
    plan INTEGER NOT NULL REFERENCES plans,
    name TEXT NOT NULL,
    settings TEXT NOT NULL,         -- canonical JSON
    value TEXT NOT NULL,            -- JSON: nested lists of numbers, and of a story's texts
    PRIMARY KEY (model, plan, name, settings)
) WITHOUT ROWID;
CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    worker TEXT NOT NULL,
    started TEXT NOT NULL,          -- ISO time, UTC
    seconds REAL NOT NULL,
    executed INTEGER NOT NULL,      -- work in layer applications x positions: what ran
    distinct_work INTEGER NOT NULL, -- the least that could have
    separate INTEGER NOT NULL,      -- plan by plan, answer by answer
    command TEXT,
    UNIQUE (worker, started)
);
CREATE TABLE claims (               -- a live worker is computing what the model's cells miss of a request
    model INTEGER NOT NULL REFERENCES models,
    request INTEGER NOT NULL REFERENCES requests,
    worker TEXT NOT NULL,
    PRIMARY KEY (request, model)
) WITHOUT ROWID;
CREATE TABLE checksums (            -- of the rows of a table (part) that belong to an owner: jaxpaint.results.checksums
    part TEXT NOT NULL,
    owner INTEGER NOT NULL,
    value INTEGER NOT NULL,
    PRIMARY KEY (part, owner)
) WITHOUT ROWID;
CREATE INDEX cells_by_task ON cells (task);
CREATE INDEX variants_by_plan ON variants (plan);
CREATE VIEW results AS              -- one row per cell, strategy that its plan stands for, and metric
    SELECT m.source AS model, m.revision, m.fingerprint, m.dtype, m.num_layers,
        t.name AS task, t.version, t.num_fewshot, t.bos, t.settings, t.chance, t.main_metric,
        p.text AS plan, p.cost, p.depth,
        v.strategy, v.label, v.start, v.seed, v.iterations, v.times, v.layer, v.affected,
        r.metric, r.filter, r.value, r.stderr, r.higher_is_better,
        c.documents, c.status, c.seconds, c.finished, c.id AS cell
    FROM cells c
    JOIN models m ON m.id = c.model
    JOIN tasks t ON t.id = c.task
    JOIN plans p ON p.id = c.plan
    LEFT JOIN variants v ON v.plan = c.plan AND v.num_layers = m.num_layers
    LEFT JOIN metrics r ON r.cell = c.id;
CREATE VIEW responses AS            -- one row per cell and request, of whichever kind
    SELECT m.source AS model, m.fingerprint, m.dtype, t.name AS task, t.num_fewshot, t.bos, t.settings, p.text AS plan,
        q.document, q.number, s.loglikelihood, s.is_greedy, s.text, s.cell
    FROM scores s
    JOIN cells c ON c.id = s.cell
    JOIN models m ON m.id = c.model
    JOIN tasks t ON t.id = c.task
    JOIN plans p ON p.id = c.plan
    JOIN requests q ON q.id = s.request;
CREATE VIEW loglikelihoods AS       -- those of tasks that score texts
    SELECT model, fingerprint, dtype, task, num_fewshot, bos, plan, document, number, loglikelihood, is_greedy, cell
    FROM responses WHERE json_extract(settings, '$.kv') IS NULL;
CREATE VIEW generations AS          -- those of tasks that write them
    SELECT model, fingerprint, dtype, task, num_fewshot, bos, settings, plan, document, number, text, cell
    FROM responses WHERE json_extract(settings, '$.kv') IS NOT NULL;
CREATE VIEW document_results AS     -- one row per cell, document and metric
    SELECT m.source AS model, m.fingerprint, m.dtype, t.name AS task, t.num_fewshot, t.bos, p.text AS plan,
        d.document, d.metric, d.filter, d.value, d.cell
    FROM document_scores d
    JOIN cells c ON c.id = d.cell
    JOIN models m ON m.id = c.model
    JOIN tasks t ON t.id = c.task
    JOIN plans p ON p.id = c.plan
"""
STATEMENTS: Mapping[str, str] = MappingProxyType({text.split()[2]: text for text in SCHEMA.split(";")})
"""By the name of the table, index or view that it makes."""
