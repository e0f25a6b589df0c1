"""lm-eval's tasks and GLUE: their texts, requests and metrics. Never which plans run, nor where results are kept."""
