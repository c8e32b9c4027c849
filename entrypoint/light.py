"""`dataclass`, `suppress` and more of the standard library's, for the modules that every start loads.

`dataclasses` writes the source of each class's methods and compiles it, and imports `inspect` for that: 15 ms of
processor time for the classes of a start, which is twice what Python itself takes. These take keywords alone. A type
checker sees the standard library's, and so does who asks for fields: `dataclasses.asdict` and `replace` work.

TYPE_CHECKING is `typing`'s, which takes 2 ms: what only a type checker needs is imported under it.
"""

from __future__ import annotations

# ruff: noqa: N807, RUF063 (these are methods, and `inspect` is what is not imported)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import suppress
    from dataclasses import dataclass, field, replace
else:

    class field:  # noqa: N801  (the standard library's name)
        """The default of a field that is made anew for each value."""

        def __init__(self, *, default_factory):
            self.default_factory = default_factory

    class _Fields:
        """`__dataclass_fields__`, made by the standard library when somebody asks for it."""

        def __init__(self, names, defaults):
            self._names, self._defaults, self._fields = names, defaults, None

        def __get__(self, _, cls):
            if self._fields is None:
                self._fields = self._made(cls.__name__)
            return self._fields

        def _made(self, name):
            import dataclasses

            def made(default):
                if isinstance(default, field):
                    return dataclasses.field(default_factory=default.default_factory)
                return dataclasses.field(default=default)

            fields = [
                (each, kind, made(self._defaults[each])) if each in self._defaults else (each, kind)
                for each, kind in self._names.items()
            ]
            return dataclasses.make_dataclass(name, fields, kw_only=True).__dataclass_fields__

    def dataclass(*, frozen=False, kw_only):
        assert kw_only, "a value of these has no order"
        return lambda cls: _made(cls, frozen)

    def _made(cls, frozen):
        names = cls.__dict__.get("__annotations__", {})
        defaults = {name: cls.__dict__[name] for name in names if name in cls.__dict__}

        def __init__(self, **given):
            values = self.__dict__
            for name in names:
                if name in given:
                    values[name] = given.pop(name)
                elif name in defaults:
                    default = defaults[name]
                    values[name] = default.default_factory() if isinstance(default, field) else default
                else:
                    raise TypeError(f"{cls.__name__} needs {name}")
            if given:
                raise TypeError(f"{cls.__name__} has no {', '.join(given)}")

        def __eq__(self, other):
            return _values(self) == _values(other) if other.__class__ is self.__class__ else NotImplemented

        def __repr__(self):
            return f"{cls.__qualname__}({', '.join(f'{name}={value!r}' for name, value in _values(self).items())})"

        def __hash__(self):
            return hash(tuple(_values(self).values()))

        def __setattr__(self, name, value):
            raise AttributeError(f"cannot assign to field {name!r}")

        cls.__init__, cls.__eq__, cls.__repr__ = __init__, __eq__, __repr__
        cls.__hash__ = __hash__ if frozen else None
        if frozen:
            cls.__setattr__ = cls.__delattr__ = __setattr__
        cls.__dataclass_fields__ = _Fields(names, defaults)
        return cls

    class suppress:  # noqa: N801  (the standard library's name)
        """These errors end the block, and nothing else: without what else `contextlib` loads and makes."""

        def __init__(self, *errors):
            self.errors = errors

        def __enter__(self):
            return self

        def __exit__(self, kind, *_):
            return kind is not None and issubclass(kind, self.errors)

    def replace(value, **changes):
        """The same value with these fields changed."""
        return value.__class__(**{**_values(value), **changes})

    def _values(value):
        """Those of its fields: a `cached_property` is in its `__dict__` too."""
        return {name: value.__dict__[name] for name in value.__class__.__annotations__}


__all__ = ["dataclass", "field", "replace", "suppress"]
