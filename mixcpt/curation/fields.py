"""The fields of a source's records that are read."""

from mixcpt.config import FieldNames, FilesSource, HuggingFaceSource, Pool, Source


def field_names(source: Source) -> FieldNames:
    """Return the field names of a source; the closed world has the default names."""
    return source.fields if isinstance(source, FilesSource | HuggingFaceSource) else FieldNames()


def wanted_fields(source: Source) -> tuple[str, ...]:
    """Return all fields that are read from the records of a source."""
    fields = field_names(source)
    by_pool: dict[Pool, tuple[str, ...]] = {
        "domain": (fields.text, "title"),
        "general": (fields.text, "title"),
        "instructions": (fields.prompt, fields.input, fields.response, fields.text),
        "preferences": (fields.prompt, fields.input, fields.chosen, fields.rejected),
    }
    return (fields.id, *by_pool[source.pool])
