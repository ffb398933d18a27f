"""The closed world: invented entities, documents about them, and questions with known answers. It imports no torch."""

from mixcpt.closed_world.items import WorldItem, first_documents, items
from mixcpt.closed_world.records import records

__all__ = ["WorldItem", "first_documents", "items", "records"]
