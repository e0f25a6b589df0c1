"""What is read off compiled programs: of text with known answers, and of programs that this machine compiles."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxpaint.bench.hlo import Module, weight_copies

TEXT = """HloModule jit_run, is_scheduled=true

%fused (param_0: bf16[32,8,16], param_1: s32[]) -> bf16[8,16] {
  %slice = bf16[1,8,16]{2,1,0} dynamic-slice(%param_0, %param_1), dynamic_slice_sizes={1,8,16}
  ROOT %bitcast = bf16[8,16]{1,0} bitcast(%slice)
}

%body (carry: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %kernel = bf16[8,16]{1,0} fusion(%stack, %i), kind=kLoop, calls=%fused, {"estimated_cycles":"50"}
  %prefetched = bf16[8,16]{1,0:S(1)} copy(%kernel), backend_config={"estimated_cycles":"7"}
  %product = bf16[4,16]{1,0} dot(%x, %kernel), backend_config={"estimated_cycles":"1000"}
  %reduced = bf16[4,8]{1,0} all-reduce(%product), to_apply=%sum
  %picked = f32[3]{0} gather(%table, %ids), offset_dims={}
  ROOT %out = (s32[], bf16[4,8]) tuple(%next, %reduced)
}

%condition (carry: (s32[], bf16[4,8])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (state: bf16[32,8,16]) -> bf16[4,8] {
  %turned = bf16[32,8,16]{1,2,0} copy(%state), backend_config={"estimated_cycles":"300"}
  %loop = (s32[], bf16[4,8]) while(%first), condition=%condition, body=%body, {"known_trip_count":{"n":"5"}}
  ROOT %last = bf16[4,8]{1,0} get-tuple-element(%loop), index=1
}
"""


def test_loops_cycles_collectives_and_copies() -> None:
    module = Module.parse(TEXT)
    assert (module.entry, module.loops, module.layer_loop) == ("main", {"body": 5}, "body")
    assert module.cycles("body") == 1057
    assert module.cycles() == 300 + 5 * 1057
    assert module.collectives("body") == {("all-reduce", 4 * 8 * 2): 1}
    assert [line.name for line in module.in_loops if line.operation == "gather"] == ["picked"]
    # A layer's kernel and the whole stack are written; a prefetch is not, nor what a fusion holds inside.
    copies = weight_copies(module, {(8, 16), (32, 8, 16)})
    assert [(line.name, line.bytes) for line in copies] == [("turned", 32 * 8 * 16 * 2), ("kernel", 8 * 16 * 2)]
    assert weight_copies(module, {(8, 17)}) == []


def test_operations_of_kernels_count_as_they_say() -> None:
    kernel = '  %attention = bf16[4,8]{1,0} custom-call(%x), custom_call_target="tpu_custom_call", backend_config={'
    module = Module.parse(TEXT.replace("  %picked", f'{kernel}"cost_estimate":{{"flops":"640"}}}}\n  %picked'))
    assert (module.kernel_flops("body"), module.kernel_flops()) == (640, 5 * 640)
    assert module.cycles("body") == 1057


def test_loops_in_a_loop() -> None:
    outer = """
%outer (carry: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %loop = (s32[], bf16[4,8]) while(%carry), condition=%condition, body=%body, {"known_trip_count":{"n":"5"}}
  %vocabulary = bf16[4,8]{1,0} dot(%x, %head), backend_config={"estimated_cycles":"5000"}
  %summed = f32[4,8]{1,0} all-reduce(%z), to_apply=%sum
}

ENTRY"""
    text = TEXT.replace("\nENTRY", outer).replace(
        'body=%body, {"known_trip_count":{"n":"5"}}\n  ROOT %last', "body=%outer\n  ROOT %last"
    )
    module = Module.parse(text)
    assert module.around("body") == "outer"
    assert module.around("outer") is None
    assert (module.layer_loop, module.nested_layer_loop) == ("outer", "body")
    assert module.collectives("outer") - module.collectives("body") == {("all-reduce", 4 * 8 * 4): 1}


def test_a_loop_of_unknown_length_counts_once() -> None:
    module = Module.parse(TEXT.replace(', {"known_trip_count":{"n":"5"}}', ""))
    assert module.loops == {"body": None}
    assert module.cycles() == 300 + 1057


def test_collectives_that_are_begun_and_awaited() -> None:
    begun = "  %reduced = bf16[4,8]{1,0} all-reduce-start(%product), to_apply=%sum\n"
    gathered = "  %all = (bf16[4,8]{1,0}, bf16[16,8]{1,0}) all-gather-start(%x), dimensions={0}\n"
    module = Module.parse(TEXT.replace("  %picked", begun + gathered + "  %picked"))
    assert module.collectives("body") == {("all-reduce", 4 * 8 * 2): 2, ("all-gather", 16 * 8 * 2): 1}


def test_what_a_called_computation_writes_counts_and_a_branch_once() -> None:
    """As XLA writes a GPU's command buffers, and conditionals."""
    called = """
%commands (p: bf16[8,16]) -> bf16[8,16] {
  %copied = bf16[8,16]{1,0} copy(%p)
}

%dear (p: f32[3]) -> f32[3] {
  %sorted = f32[3]{0} sort(%p), to_apply=%sum, {"estimated_cycles":"90"}
}

%cheap (p: f32[3]) -> f32[3] {
  %same = f32[3]{0} copy(%p), {"estimated_cycles":"2"}
}

%body ("""
    lines = """  %buffered = bf16[8,16]{1,0} call(%kernel), to_apply=%commands
  %chosen = f32[3]{0} conditional(%which, %a, %b), branch_computations={%cheap, %dear}
  %either = f32[3]{0} conditional(%which, %a, %b), true_computation=%cheap, false_computation=%cheap
"""
    text = TEXT.replace("\n%body (", called, 1).replace("  %picked", f"{lines}  %picked")
    module = Module.parse(text)
    assert "copied" in [line.name for line in weight_copies(module, {(8, 16)})]
    assert module.cycles("body") == 1057 + 90 + 2


def test_of_what_xla_writes_here() -> None:
    def run(weights: jax.Array, x: jax.Array, n: jax.Array) -> jax.Array:
        return jax.lax.while_loop(lambda s: s[0] < n, lambda s: (s[0] + 1, jnp.sin(s[1] @ weights[s[0]])), (0, x))[1]

    compiled = jax.jit(run).lower(jnp.ones((7, 64, 64)), jnp.ones((4, 64)), jnp.int32(3)).compile()
    module = Module.parse(compiled.as_text())
    assert list(module.loops.values()) == [None]
    assert module.layer_loop in module.written
    assert module.cycles() == 0
    # A CPU copies the layer out of the stack.
    assert [line.arrays[0][1] for line in weight_copies(module, {(64, 64)})] == [(64, 64)]
