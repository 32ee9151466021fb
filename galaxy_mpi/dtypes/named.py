"""A format is one object in a process: what a message brings is the receiver's own."""

__all__ = ["Named"]


class Named:
    """A format that travels as its name."""

    name: str

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return _of_name, (self.name,)


def _of_name(name: str) -> object:
    from galaxy_mpi.dtypes.dtype import DTYPES  # which imports the formats

    return DTYPES[name]
