"""Sides of a log: whose histories are read, and whose vectors are compared."""

from __future__ import annotations

from typing import Literal, NamedTuple

Owner = Literal["user", "item", "all"]
"""Whose history it is: that of a user, of an item, or of everybody"""

TableKind = Literal["embeddings", "user_embeddings"]
"""The key of tables in a spec: those of items, or of users"""


class Side(NamedTuple):
    """Whose histories are read: those of candidates' users, items, or everybody; and who has the vectors."""

    owner: Owner = "user"
    own: bool = True
    """Whether a candidate sees the events of its own user in the history of its item, or of its item in its user's"""

    @property
    def partner(self) -> Literal["user", "item"]:
        """Whose vectors are compared."""
        return "user" if self.owner == "item" else "item"

    @property
    def partner_tables(self) -> TableKind:
        """The key of the tables with the partners' vectors."""
        return "embeddings" if self.partner == "item" else "user_embeddings"

    @property
    def prefix(self) -> str:
        """Goes before the statistic in the column names."""
        return "" if self.owner == "user" else f"{self.owner}_"

    def words(self, history: str) -> str:
        """Return whose history it is, as the meaning of a column says it."""
        if self.owner == "user":
            return f"`{history}`"
        if self.owner == "all":
            return f"`{history}` of all users"
        return f"`{history}` of the item{'' if self.own else ', without those of the user'}"
