"""How users write it; a type checker reads this file, nothing runs it."""

from __future__ import annotations

from typing import Any, Literal

import ray
import torch
from typing_extensions import assert_type

import ray_zerocopy
from ray_zerocopy import CompiledModel, JITActorWrapper, JITModelWrapper, JITTaskWrapper, ModelWrapper, StandIn, errors


class Pipeline:
    def __init__(self) -> None:
        self.encoder = torch.nn.Linear(2, 2)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.encoder(x))


class InferenceActor:
    def __init__(self, model_wrapper: ModelWrapper[Pipeline]) -> None:
        self.pipeline = model_wrapper.load(prefault=True)
        assert_type(self.pipeline, Pipeline)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.pipeline.encode(x)


wrapper = ModelWrapper.from_model(Pipeline(), mode="actor", model_attr_names=["encoder"])
assert_type(wrapper, ModelWrapper[Pipeline])
assert_type(wrapper.load(), Pipeline)
assert_type(wrapper.model_refs, dict[str, "ray.ObjectRef[Any]"])
assert_type(ModelWrapper.from_model(torch.nn.Linear(2, 2)).load(), torch.nn.Linear)
assert_type(wrapper.serialize(), dict[str, Any])
again: ModelWrapper[Pipeline] = ModelWrapper.deserialize(**wrapper.serialize())
assert_type(ray_zerocopy.huge_pages(), bool)
assert_type(ray_zerocopy.huge_pages(wrapper), float)
assert_type(ray_zerocopy.isolation(), Literal["copy-on-write", "read-only", "copy"])
assert_type(JITActorWrapper(Pipeline()).load(), Pipeline)
assert_type(JITActorWrapper(Pipeline()).constructor_kwargs, dict[str, Any])
assert_type(JITModelWrapper.from_model(Pipeline()), JITModelWrapper[Pipeline])
wrapped = ModelWrapper.for_tasks(Pipeline(), method_names=["encode"])
assert_type(wrapped, Pipeline)
assert_type(wrapped.encode(torch.ones(2)), torch.Tensor)
if isinstance(wrapped, StandIn):  # for a type checker: both
    wrapped.options(num_cpus=1, fresh=True).remote(torch.ones(2))
assert_type(JITTaskWrapper(Pipeline()), JITTaskWrapper)
ModelWrapper.from_model(Pipeline(), mode="actors")  # type: ignore[call-overload]

named: ModelWrapper[Pipeline] = ModelWrapper.get("encoder", namespace="team", version=2)
assert_type(named.load(timeout=5.0), Pipeline)
assert_type(named.latest(), ModelWrapper[Pipeline])
assert_type((named.name, named.version, named.nbytes), tuple[str | None, int | None, int])
file = ModelWrapper.to_file(Pipeline(), "pipeline.rzc")
assert_type(file, ModelWrapper[Pipeline])
assert_type(file.put(name="encoder"), ModelWrapper[Pipeline])
assert_type(ModelWrapper.open("pipeline.rzc").load(), Any)
assert_type(file.load(into=torch.nn.Linear(2, 2), strict=False), torch.nn.Linear)
assert_type(file.tensors(), dict[str, torch.Tensor])
wrapper.save("pipeline.rzc", share_with=[file])
assert_type(ModelWrapper.from_safetensors("x.safetensors", into=torch.nn.Linear(2, 2)).load(), torch.nn.Linear)
assert_type(ModelWrapper.from_model(Pipeline(), share_with=wrapper), ModelWrapper[Pipeline])
kept = ModelWrapper.from_model(Pipeline(), name="encoder", lifetime="detached", get_if_exists=True)
assert_type(kept, ModelWrapper[Pipeline])
made = ModelWrapper.from_factory(Pipeline, name="made", lifetime="detached", num_cpus=2, runtime_env={})
assert_type(made.load(), Pipeline)
assert_type(JITActorWrapper(Pipeline(), name="jit", replace=True).load(), Pipeline)
ModelWrapper.from_model(Pipeline(), name="x", lifetime="forever")  # type: ignore[call-overload]
compiled = ModelWrapper.from_model(torch.nn.Linear(2, 2), compile=(torch.ones(2),), fallback="eager", name="compiled")
assert_type(compiled, ModelWrapper[CompiledModel])
assert_type(compiled.load().state_dict(), dict[str, torch.Tensor])
assert_type(ModelWrapper.for_tasks(torch.nn.Linear(2, 2), compile={"input": torch.ones(2)}), CompiledModel)
assert_type(
    ModelWrapper.from_factory(torch.nn.Linear, 2, 2, compile=(torch.ones(2),), num_cpus=2),
    ModelWrapper[CompiledModel],
)
assert_type(CompiledModel.from_package("model.pt2", weights=torch.nn.Linear(2, 2)), CompiledModel)
ModelWrapper.from_model(Pipeline(), compile=(torch.ones(2),))  # type: ignore[call-overload]
ModelWrapper.delete("encoder")
ModelWrapper.delete("encoder", namespace="team")
named.delete()
assert_type(ray_zerocopy.list_models()[0].nbytes, int)


async def load_without_blocking() -> None:
    assert_type(await named.load_async(timeout=5.0), Pipeline)


try:
    wrapper.load()
except errors.ImageLostError as error:
    print(error)
except errors.RayZeroCopyError as error:
    print(error)
