"""The compiled host planners, or a clear sentence where the compiled part was never built."""

try:
    from unitrans import _graph as graph_planners
    from unitrans import _planning as planners
except ImportError as error:
    raise ImportError(
        f"the compiled part of unitrans is missing ({error}); install it with `pip install .`"
    ) from error

__all__ = ["graph_planners", "planners"]
