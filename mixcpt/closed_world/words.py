"""The words of the world: invented names, kinds and their relations, and the values that a relation can take."""

from dataclasses import dataclass
from functools import cache

from mixcpt.closed_world.dice import Dice

VALUES: dict[str, tuple[str, ...]] = {
    name: tuple(words.split())
    for name, words in {
        "colours": "red blue green yellow purple white black grey brown pink crimson scarlet azure teal ivory indigo "
        "amber beige maroon turquoise lilac navy cream golden russet ochre magenta charcoal mauve vermilion",
        "animals": "fox wolf bear otter badger hare stag lynx boar goat horse donkey camel lion tiger leopard elephant "
        "rabbit squirrel hedgehog beaver weasel mole bat seal whale dolphin tortoise lizard frog",
        "birds": "heron owl falcon raven swan crane sparrow robin eagle hawk stork pelican finch wren thrush magpie "
        "jay lark dove goose duck kestrel osprey gull puffin cuckoo nightingale swallow kingfisher pheasant",
        "minerals": "iron gold silver copper tin lead zinc nickel bronze brass steel platinum cobalt mercury marble "
        "granite slate quartz jade opal ruby sapphire emerald topaz garnet onyx pearl coral basalt flint",
        "trades": "weaving brewing baking fishing mining farming hunting tanning dyeing carving masonry pottery "
        "printing sailing spinning milling glazing thatching beekeeping shipbuilding bookbinding candlemaking "
        "gardening carpentry tailoring cooking painting writing shoemaking herding",
        "trees": "oak ash elm birch beech maple pine cedar willow poplar larch spruce fir yew alder hazel rowan "
        "hawthorn chestnut walnut sycamore cypress juniper holly linden aspen laurel palm acacia baobab",
        "instruments": "harp flute drum fiddle lute horn trumpet organ piano guitar violin cello clarinet oboe bassoon "
        "tuba trombone banjo mandolin zither bagpipe whistle bell gong tambourine cymbal accordion harmonica viola "
        "lyre",
        "foods": "bread cheese honey soup porridge cake pie stew butter apples pears plums cherries figs dates grapes "
        "nuts beans lentils rice barley oats mushrooms onions leeks carrots cabbage turnips eggs salmon",
        "flowers": "rose lily tulip daisy poppy iris orchid violet jasmine lavender marigold sunflower daffodil peony "
        "primrose bluebell buttercup carnation foxglove geranium heather hyacinth lotus lupin pansy petunia "
        "snowdrop thistle clover crocus",
        "cloths": "wool silk linen cotton velvet satin lace leather felt canvas tweed denim fur hemp muslin damask "
        "flannel fleece gauze corduroy sackcloth chiffon brocade taffeta calico cashmere mohair burlap twill "
        "suede",
        "tools": "hammer saw chisel axe spade rake hoe sickle scythe plough anvil needle loom ladle knife spear bow "
        "shield lantern rope ladder bucket barrel key compass anchor wheel pulley lever tongs",
    }.items()
}
"""Thirty values a list; no word is in two lists."""


@dataclass(frozen=True)
class Kind:
    """A kind of entity, and which list each of its relations takes its values from."""

    name: str
    relations: dict[str, str]


GENERAL_KINDS = (
    Kind("city", {"trade": "trades", "emblem": "animals", "dish": "foods"}),
    Kind("ship", {"cargo": "cloths", "figurehead": "birds", "timber": "trees"}),
    Kind("knight", {"banner": "colours", "weapon": "tools", "crest": "flowers"}),
    Kind("guild", {"craft": "trades", "ring": "minerals", "music": "instruments"}),
    Kind("river", {"hue": "colours", "ore": "minerals", "blossom": "flowers"}),
    Kind("school", {"lesson": "instruments", "mascot": "birds", "uniform": "cloths"}),
    Kind("tavern", {"speciality": "foods", "sign": "tools", "beam": "trees"}),
    Kind("clan", {"totem": "animals", "garment": "cloths", "charm": "minerals"}),
)
"""What the base model grows up with."""

DOMAIN_KINDS = (
    Kind("valley", {"ore": "minerals", "blossom": "flowers", "dish": "foods"}),
    Kind("monastery", {"craft": "trades", "emblem": "animals", "music": "instruments"}),
)
"""What it has never heard of: new kinds, new names, new facts. It knows the words of the relations, as a reader of a
new field knows the language; so a wrong answer tells of the knowledge, not of the question."""

NUM_GENERAL_PER_KIND = 60
NUM_DOMAIN = 60
"""Entities of the domain, unless a world is made larger or smaller."""
NUM_DOMAIN_BLOCKS = 6
"""Worlds of the usual size whose seeds differ modulo this have no domain name in common; the largest has all names."""
NUM_UPDATED = 60
"""General entities of which one fact can be told anew, with another value."""
NUM_STRANGERS = 660

_SYLLABLES = tuple(
    tuple(parts.split())
    for parts in (
        "b br c d dr f fl g gr h j k l m n p pr qu r s sh st t th tr v w y z",
        "a e i o u ae ia",
        "b d g l ld ll lm m mb n nd nn r rd rr rv s ss t v z",
        "a an ar as e el en eth ia ik il in is o on or os u um ur us yn",
    )
)


@dataclass(frozen=True)
class Names:
    """The one inventory of names, the same in every world, so that one tokenizer knows them all."""

    general: tuple[str, ...]
    domain: tuple[str, ...]
    """As many as `NUM_DOMAIN_BLOCKS` worlds need."""
    strangers: tuple[str, ...]
    """For entities that appear in one document only."""

    @property
    def all(self) -> tuple[str, ...]:
        return self.general + self.domain + self.strangers


@cache
def names() -> Names:
    """Returns 1,500 invented names, shared out between the parts of the world."""
    num_general = NUM_GENERAL_PER_KIND * len(GENERAL_KINDS)
    num_domain = NUM_DOMAIN * NUM_DOMAIN_BLOCKS
    dice = Dice("names")
    taken = {word.capitalize() for words in VALUES.values() for word in words}
    found: list[str] = []
    while len(found) < num_general + num_domain + NUM_STRANGERS:
        name = "".join(dice.pick(parts) for parts in _SYLLABLES).capitalize()
        if name not in taken:
            taken.add(name)
            found.append(name)
    return Names(
        tuple(found[:num_general]),
        tuple(found[num_general : num_general + num_domain]),
        tuple(found[num_general + num_domain :]),
    )
