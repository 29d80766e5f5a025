"""An application that wraps its model when Serve imports it."""

from __future__ import annotations

from ray_zerocopy import ModelWrapper
from serve_apps import Service, model

app = Service.bind(ModelWrapper.from_model(model(7), name="at-import", lifetime="detached", get_if_exists=True))
